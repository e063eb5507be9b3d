"""Whatever a server sends, it is a response or an error of ours, and what was taken of it can be published.

`make fuzz` tries more of it. A body that was ever too much for us is kept in `corpus/`.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hypothesis import assume, given
from hypothesis import strategies as st

from connector.config.model import Upstream
from connector.config.secrets import Secret
from connector.core.diff import compare
from connector.core.entry import decode_entry
from connector.core.model import Observation, Status
from connector.core.transition import FeedRules, observe_all
from connector.errors import BadResponse, EntryError, UpstreamError
from connector.kafka.avro import Codec, SingleObject
from connector.runtime.clock import Clock
from connector.upstream.api_key import ApiKey
from connector.upstream.budget import Budget
from connector.upstream.client import Client
from connector.upstream.reply import Reply, decode_levels, decompress
from tests.support.levels import ME, NOW, changed, levels_of, number, prices, seen
from tests.support.levels import NUMBERS as PATHS
from tests.support.mutation import SYMBOLS, headers, packed, spoilt, spoilt_entry
from tests.support.profiles import FUZZING, cases

if TYPE_CHECKING:
    from connector.core.decode import Response
    from connector.core.model import Entry, Event, Levels, State

CORPUS: Final = Path(__file__).parent / "corpus"
KEY: Final = "bq_live_0123456789abcdefghijklmnopqrstuv"
REASONS: Final = frozenset(
    {
        "too_large",
        "malformed",
        "duplicate_keys",
        "wrong_type",
        "computed_at_unparsable",
        "computed_at_future",
    }
)
LONGEST: Final = 600
"""Characters of a message."""

LIMIT: Final = 100_000
FEED: Final = FeedRules("f")
UPSTREAM: Final = Upstream(api_key=Secret(KEY))
CLIENT: Final = Client(UPSTREAM, ApiKey(UPSTREAM), Budget(None))
CODEC: Final = Codec(SingleObject())

codes = st.binary(max_size=24)
statuses = st.sampled_from([200, 200, 200, 404, 422, 429, 503, 418])


def taken(status: int, said: dict[str, str], body: bytes) -> Response | UpstreamError:
    """What the client makes of a reply, held to what everybody relies on."""
    response = decode_levels(Reply(status, said, body), SYMBOLS, KEY)
    CLIENT._budget = budget = Budget(None)
    CLIENT._learn(budget.start(time.monotonic()), said, response)
    spending = budget.spending(time.monotonic())
    assert 0 <= spending.wait_seconds <= 3_600 + 60
    assert spending.limit_per_minute >= 0
    if isinstance(response, UpstreamError):
        assert len(str(response)) < LONGEST
        assert len(response.request_id or "") <= 200
        assert 0 <= (response.retry_after_seconds or 0) <= 3_600
        return response
    assert tuple(response.answers) == SYMBOLS
    assert len(response.meta.request_id or "") <= 200
    assert sum(map(len, response.meta.exchanges)) <= 16 * 40
    if response.meta.server_at is not None:
        clock = Clock()
        for _ in range(3):
            clock.learn(NOW, NOW + 1, response.meta.server_at)
        assert abs(clock.correction) <= 300_000_000
    return response


def observations(response: Response) -> list[Observation]:
    """What each entry says, where it says anything."""
    source = changed(
        ME,
        {"request_id": response.meta.request_id, "exchanges": response.meta.exchanges},
    )
    found = []
    for symbol, answer in response.answers.items():
        if isinstance(answer, Status):
            found.append(Observation(symbol, answer, None, NOW, NOW, source))
        elif (taken_of_it := entry(answer)) is not None:
            found.append(
                Observation(symbol, Status.LIVE, taken_of_it, NOW, NOW, source)
            )
    return found


def entry(raw: bytes) -> Entry | None:
    """None where it is refused."""
    try:
        return decode_entry(raw, NOW)
    except EntryError as caught:
        error = caught
    assert error.reason in REASONS
    assert len(str(error)) < LONGEST
    return None


def published(said: list[Observation], states: dict[str, State]) -> list[Event]:
    """The events of observations, as whoever reads them has them."""
    events = []
    for step in observe_all(states, said, FEED):
        assert step.event is None or step.state is not None
        if step.state is not None:
            value = CODEC.encode_state("t", step.state)
            assert CODEC.decode_state(value) == step.state
            assert len(value) < 3 * 64 * 1024
        if step.event is not None:
            assert CODEC.decode_event(CODEC.encode_event("t", step.event)) == step.event
            events.append(step.event)
    return events


def survives(status: int, said: dict[str, str], body: bytes) -> None:
    """Nothing but errors of ours comes of it; what is taken is finite, itself, and can be published."""
    response = taken(status, said, body)
    if isinstance(response, UpstreamError):
        return
    said_of_it = observations(response)
    for observation in said_of_it:
        if observation.entry is not None:
            levels = observation.entry.levels
            assert all(math.isfinite(number(levels, path) or 0.0) for path in PATHS)
            assert not compare(levels, levels, FEED.rules)
            assert (
                observation.entry.computed_at is None
                or observation.entry.computed_at <= NOW + 60_000_000
            )
    before = {
        step.state.symbol: step.state
        for step in observe_all({}, [seen(BEFORE, symbol="AAA")], FEED)
        if step.state
    }
    for events in (published(said_of_it, {}), published(said_of_it, before)):
        assert len(events) <= len(said_of_it)
        assert all(
            event.symbol in SYMBOLS and event.sequence in {1, 2} for event in events
        )


BEFORE: Final = decode_entry(
    b'{"spot_price":1,"odte":{"hvl":2},"zones":[1],"ranked":{"odte_top_10":[1]}}', NOW
).levels


def holds(status: int, said: dict[str, str], body: bytes) -> None:
    """`survives`; in a fuzzing run the body of a failure is kept, the last one being the smallest."""
    try:
        survives(status, said, body)
    except BaseException:
        if FUZZING:
            CORPUS.mkdir(exist_ok=True)
            (CORPUS / "found").write_bytes(body)
        raise


@cases(400, weight=8)
@given(statuses, codes, codes)
def test_a_response_that_was_spoilt_is_taken_or_refused(
    status: int, said: bytes, code: bytes
) -> None:
    holds(status, headers(said), spoilt(code))


@cases(100, weight=8)
@given(codes, st.booleans())
def test_whatever_one_entry_is_the_others_are_answered_as_they_came(
    code: bytes, before: bool
) -> None:
    good = b'{"spot_price":1.5,"note":"}"}'
    pairs = [b'"AAA":%b' % spoilt_entry(code), b'"BBB" : %b' % good]
    body = b'{"data":{"results":{%b},"missing":[]},"meta":{}}' % b",".join(
        pairs if before else reversed(pairs)
    )
    assume(len(body) <= UPSTREAM.max_response_bytes)
    response = taken(200, {}, body)
    assert not isinstance(response, UpstreamError)
    assert response.answers["BBB"] == good
    assert response.answers["AAA"] in {spoilt_entry(code).strip(), Status.MISSING}


@cases(100, weight=8)
@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(body: bytes) -> None:
    holds(200, {}, body)


@cases(100, weight=8)
@given(
    codes,
    codes,
    st.sampled_from(["gzip", "x-gzip", "GZIP", "", "identity", "br", "gzip, gzip"]),
)
def test_a_compressed_response_that_was_spoilt_is_unpacked_within_its_limit_or_refused(
    code: bytes, more: bytes, encoding: str
) -> None:
    body = unpacked(packed(spoilt(code), more), encoding)
    if body is not None:
        assert encoding.lower() not in {"gzip", "x-gzip"} or len(body) <= LIMIT
        holds(200, {}, body)


def unpacked(body: bytes, encoding: str) -> bytes | None:
    """None where it is refused."""
    try:
        return decompress(body, encoding, LIMIT)
    except BadResponse as caught:
        error = caught
    assert len(str(error)) < LONGEST
    return None


@cases(100, weight=8)
@given(levels_of(prices), st.lists(codes, max_size=3))
def test_what_comes_after_other_levels_is_the_next_event_of_its_symbol(
    first: Levels, later: list[bytes]
) -> None:
    states = {
        step.state.symbol: step.state
        for step in observe_all({}, [seen(first, symbol="AAA")], FEED)
        if step.state
    }
    last = states["AAA"]
    for code in later:
        response = decode_levels(Reply(200, {}, spoilt(code)), SYMBOLS, KEY)
        if isinstance(response, UpstreamError):
            continue
        for step in observe_all(states, observations(response), FEED):
            if step.state is not None:
                states[step.state.symbol] = step.state
        for event in published(observations(response), {"AAA": last}):
            assert event.symbol != "AAA" or event.sequence == last.sequence + 1
        last = states["AAA"]


def test_every_body_that_was_too_much_once_is_taken_or_refused() -> None:
    for file in CORPUS.glob("*"):
        survives(200, {}, file.read_bytes())
