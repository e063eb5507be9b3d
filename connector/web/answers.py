"""JSON bodies of the HTTP API: its answers, its errors and its one request body.

Field names, types and nullability are an interface: users' programs rely on them.
`connector.devkit.reference.openapi` generates `page/openapi.json` from these structs,
so their docstrings and descriptions are documentation for users of the API. Events and
levels are those of `connector.core.model`, named as in the Avro schemas.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from connector.core.model import Levels, Status
from connector.schedule.checks import Purpose

_PRICE = "Delay (in symbol-seconds) a request must save to be worth sending"

Moment = Annotated[int, Meta(description="Microseconds since the Unix epoch, UTC")]
OurMoment = Annotated[
    int,
    Meta(description="Microseconds since the Unix epoch, UTC, by this worker's clock"),
]


# Unknown fields are forbidden for the sake of the schema, which then says
# `additionalProperties: false`. Encoding is not affected.
class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the bodies."""


class OwnedShard(Body, frozen=True):
    """A shard that is assigned to this worker."""

    shard: str
    open: Annotated[
        bool, Meta(description="False until its state is restored, and after an error")
    ]


class Worker(Body, frozen=True):
    """The worker that answers."""

    name: str
    version: str
    uptime_seconds: float
    ready: bool
    reasons: Annotated[
        list[str], Meta(description="Why it is not ready; empty if it is")
    ]
    shards: list[OwnedShard]
    shards_configured: Annotated[int, Meta(description="Shards of all feeds together")]


class Trouble(Body, frozen=True):
    """A cause that keeps levels from being fetched or published."""

    service: Annotated[
        Literal["kafka", "topic", "api", "worker"],
        Meta(
            description="Who has the trouble: Kafka, a topic of the connector, the "
            "upstream's API, or this worker"
        ),
    ]
    summary: Annotated[
        str, Meta(description="For example `Kafka unreachable` or an error of the API")
    ]
    detail: Annotated[
        str | None,
        Meta(
            description="The error, whose trouble it is, or the remedy; null: not known"
        ),
    ]
    since: Annotated[
        OurMoment | None, Meta(description="When it began; null if that is not known")
    ]
    failures: Annotated[
        int | None, Meta(description="Checks that failed in a row, if checks fail")
    ]
    next_try_at: Annotated[
        OurMoment | None,
        Meta(description="When the next check is sent; null if it is under way"),
    ]
    is_waiting: Annotated[
        bool,
        Meta(description="True if the API allows no request before `next_try_at`"),
    ]
    stops_feeds: Annotated[
        list[str],
        Meta(description="Feeds of which no event can be published meanwhile"),
    ]


class QuarantinedEntry(Body, frozen=True):
    """An entry of the upstream that could not be used."""

    feed: str
    symbol: str
    reason: Annotated[str, Meta(description="The label of `gex_quarantined_total`")]
    fault: Annotated[str, Meta(description="The fault in words")]
    observed_at: OurMoment


class Quarantine(Body, frozen=True):
    """Entries that this worker has put into quarantine since its start."""

    entries: int
    last: Annotated[
        QuarantinedEntry | None, Meta(description="The last one; null if there is none")
    ]


class Budget(Body, frozen=True):
    """Requests to the upstream, per minute."""

    spent_last_minute: int
    limit_per_minute: Annotated[
        int, Meta(description="This worker's share of the limit")
    ]
    left: int
    foreign_per_minute: Annotated[
        int, Meta(description="Requests of other programs of the user, with any key")
    ]
    price_seconds: Annotated[
        float,
        Meta(description=_PRICE),
    ]
    key_refused: bool
    plan_refused: bool
    outage: Annotated[
        str | None,
        Meta(
            description="While checks fail: whose trouble it is, by the API's `/health`"
        ),
    ]
    upstream_limit: Annotated[
        int | None, Meta(description="Limit in the upstream's last answer")
    ]
    upstream_remaining: Annotated[
        int | None, Meta(description="Requests left in the upstream's last answer")
    ]
    upstream_reset_at: Moment | None
    quota_exhausted: Annotated[
        bool, Meta(description="True while the requests of the month are used up")
    ]
    quota_message: Annotated[
        str | None, Meta(description="The vendor's words, if it said so")
    ]
    quota_limit: Annotated[
        int | None,
        Meta(description="Requests a month of all programs of the user; null: no cap"),
    ]
    quota_used: int | None
    quota_remaining: int | None
    quota_reset_at: Moment | None
    quota_projected_end_at: Annotated[
        Moment | None,
        Meta(description="When the rest is used up at the pace of the last day"),
    ]


class Member(Body, frozen=True):
    """A worker of the group."""

    name: Annotated[str, Meta(description="The `client.id` of its membership")]
    host: str
    me: Annotated[bool, Meta(description="True for the worker that answers")]
    shards: list[str]


class Group(Body, frozen=True):
    """The consumer group of the workers, as Kafka describes it."""

    id: str
    members: Annotated[
        list[Member] | None,
        Meta(description="As Kafka last named them, null until it has answered"),
    ]
    as_of: Annotated[OurMoment | None, Meta(description="When Kafka named the members")]
    error: Annotated[
        str | None,
        Meta(description="Why Kafka has not answered since; null if it has"),
    ]


class Symbol(Body, frozen=True):
    """A configured symbol. Fields that only its owner knows are null elsewhere."""

    feed: str
    symbol: str
    shard: str
    owned: Annotated[bool, Meta(description="True if this worker owns its shard")]
    status: Annotated[
        Status | None,
        Meta(description="Null before the first answer, and if not owned"),
    ]
    positioning: Annotated[
        str | None,
        Meta(
            description="The model behind its levels, null if they are not valid or the "
            "upstream named none"
        ),
    ]
    positioning_fallback_reason: Annotated[
        str | None,
        Meta(
            description="Why the upstream fell back to this model, null if it did not"
        ),
    ]
    sequence: Annotated[int | None, Meta(description="Number of its last event")]
    computed_at: Annotated[
        Moment | None, Meta(description="When its levels were computed")
    ]
    observed_at: Annotated[
        Moment | None, Meta(description="When the upstream last answered for it")
    ]
    changed_at: Annotated[
        Moment | None,
        Meta(
            description="When its last event was observed, by our clock. After a restart, "
            "until the next event: when the upstream computed the levels of that event, "
            "null if it had none"
        ),
    ]
    period_seconds: Annotated[
        float | None,
        Meta(description="Time between two refreshes, null until it is learnt"),
    ]
    next_check_at: Moment | None


class StatusAnswer(Body, frozen=True):
    """The state of this worker and of every configured symbol."""

    at: OurMoment
    upstream_at: Annotated[
        int,
        Meta(
            description="The same moment by the upstream's clock; "
            "the age of levels is `upstream_at - computed_at`"
        ),
    ]
    troubles: Annotated[
        list[Trouble],
        Meta(description="Causes, the gravest first; empty if all is well"),
    ]
    worker: Worker
    quarantine: Quarantine
    budget: Annotated[Budget | None, Meta(description="Null while the worker starts")]
    group: Group
    symbols: list[Symbol]


class SymbolLevels(Body, frozen=True):
    """The last published levels of a symbol. Rely on them only while it is LIVE."""

    feed: str
    symbol: str
    shard: str
    owned: Annotated[
        bool,
        Meta(
            description="True if this worker owns its shard. Otherwise another worker "
            "publishes the symbol, and this one has read its state from Kafka"
        ),
    ]
    status: Annotated[
        Status | None,
        Meta(
            description="The status that was published last, null if there is none: no "
            "worker has had an answer for the symbol, or `complete` is false"
        ),
    ]
    sequence: Annotated[int | None, Meta(description="Number of its last event")]
    computed_at: Annotated[
        Moment | None, Meta(description="When the last refresh was computed")
    ]
    age_seconds: Annotated[
        float | None, Meta(description="Time since then, by the upstream's clock")
    ]
    period_seconds: Annotated[
        float | None,
        Meta(
            description="Usual time between two refreshes, null until two are known. "
            "Levels that are several times as old are not kept up to date by anybody"
        ),
    ]
    observed_at: Annotated[
        Moment | None, Meta(description="When a worker saw the last refresh")
    ]
    spot_price: Annotated[
        float | None,
        Meta(
            description="Spot in the last refresh. A move of spot alone makes no event, "
            "so `levels.spot_price` may be older"
        ),
    ]
    levels: Annotated[
        Levels | None,
        Meta(
            description="The levels that were published last, with their model "
            "(`positioning`); null unless the symbol is LIVE or STALE"
        ),
    ]
    former_levels: Annotated[
        Levels | None,
        Meta(
            description="The levels that were published last before the symbol lost "
            "them; null while it has some. They are not valid now"
        ),
    ]


class LevelsAnswer(Body, frozen=True):
    """The levels of the configured symbols, whichever worker publishes them."""

    at: OurMoment
    complete: Annotated[
        bool,
        Meta(
            description="False if the states of some symbols are not known yet: a shard "
            "is not open, or those of other workers are still being read"
        ),
    ]
    error: Annotated[
        str | None,
        Meta(
            description="Why Kafka cannot be read now; null if it can. Until then the "
            "levels are those of before"
        ),
    ]
    symbols: list[SymbolLevels]


class Rhythm(Body, frozen=True):
    """The refreshes of a symbol, as far as they are predictable."""

    symbol: str
    period_seconds: float | None
    spread_seconds: Annotated[
        float | None,
        Meta(description="Standard deviation of the next refresh's moment"),
    ]
    expected_at: Annotated[
        Moment | None, Meta(description="Expected moment of the next refresh")
    ]


class Batch(Body, frozen=True):
    """Symbols that are requested together, and their next check."""

    feed: str
    next_check_at: Annotated[
        Moment | None, Meta(description="Null while a request is in progress")
    ]
    purpose: Purpose
    why: Annotated[str, Meta(description="Reason for the moment of the next check")]
    failures: Annotated[int, Meta(description="Failed checks in a row")]
    expected_refreshes: Annotated[
        float | None, Meta(description="Refreshes the next check is expected to find")
    ]
    expected_delay_seconds: Annotated[
        float | None,
        Meta(description="Total delay with which it is expected to find them"),
    ]
    symbols: list[Rhythm]


class ScheduleAnswer(Body, frozen=True):
    """The next check of every batch, and the reason for its moment."""

    at: OurMoment
    price_seconds: Annotated[
        float,
        Meta(description=_PRICE),
    ]
    target_delay_seconds: float
    budget_per_minute: Annotated[
        float, Meta(description="Requests a minute that the schedule may plan")
    ]
    budget_wait_seconds: Annotated[
        float,
        Meta(description="Time until the budget allows a request; 0 if it does now"),
    ]
    visibility_lag_seconds: Annotated[
        float,
        Meta(description="Time between a refresh and when the upstream serves it"),
    ]
    held_until: Annotated[
        Moment | None, Meta(description="When the upstream allows the next request")
    ]
    key_refused_until: Annotated[
        Moment | None, Meta(description="When a refused API key or plan is tried again")
    ]
    quota_exhausted_until: Annotated[
        Moment | None,
        Meta(description="When the next request is sent if the month is used up"),
    ]
    batches: list[Batch]


class NotStarted(Body, frozen=True):
    """An empty object, while the worker starts."""


class SnapshotAnswer(Body, frozen=True):
    """The event of a requested snapshot; both fields are null until it is committed."""

    event_id: str | None
    sequence: int | None


class LogLevelRequest(Body, frozen=True):
    """The log level to set."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class LogLevelAnswer(Body, frozen=True):
    """The log level now and before."""

    level: str
    before: str


class HealthAnswer(Body, frozen=True):
    """The answer of a health probe."""

    ok: bool
    reasons: list[str]


# RFC 9457 allows further members, so unknown fields are not forbidden.
class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error, as RFC 9457 describes it."""

    type: Literal["about:blank"]
    title: str
    status: int
    detail: str
    owner: Annotated[
        str | UnsetType | None,
        Meta(
            description="With 409, if another worker owns the shard: "
            "the owner's `client.id`, or null if Kafka does not name it"
        ),
    ] = UNSET
