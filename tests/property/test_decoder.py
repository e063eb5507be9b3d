"""Any reply of a server is a response or an error of ours, and all it holds can be published.

`make fuzz` tries more replies. Bodies that once made the client fail are kept in `corpus/`.
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
from connector.core.model import MICROS, Observation, Status
from connector.core.transition import FeedRules, observe_all
from connector.errors import BadResponse, EntryError, UpstreamError
from connector.kafka.avro import Codec, SingleObject
from connector.runtime.clock import Clock
from connector.upstream.api_key import ApiKey
from connector.upstream.budget import Budget
from connector.upstream.client import Client
from connector.upstream.compression import decompress
from connector.upstream.reply import Reply, decode_levels
from tests.support.levels import (
    ME,
    NOW,
    NUMBERS,
    changed,
    levels_of,
    number,
    prices,
    seen,
)
from tests.support.mutation import SYMBOLS, headers, packed, spoilt, spoilt_entry
from tests.support.profiles import FUZZING, cases

if TYPE_CHECKING:
    from connector.core.decode import Response
    from connector.core.model import Entry, Event, Levels, State

CORPUS: Final = Path(__file__).parent / "corpus"
KEY: Final = "bq_live_0123456789abcdefghijklmnopqrstuv"
# The documented reasons to reject an entry: labels of a metric, and of quarantined records.
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
# A message of 500 characters, and some words of ours around it.
MAX_MESSAGE_CHARACTERS: Final = 600
MAX_REQUEST_ID_CHARACTERS: Final = 200
# An entry has at most 64 KiB. A state holds two of them, and fields of its own.
MAX_RECORD_BYTES: Final = 3 * 64 * 1024
MAX_DECOMPRESSED_BYTES: Final = 100_000
MAX_WAIT_SECONDS: Final = 3_600
# The clock's own limit: a server that is further off is not believed.
MAX_CLOCK_CORRECTION: Final = 300 * MICROS

FEED: Final = FeedRules("f")
UPSTREAM: Final = Upstream(api_key=Secret(KEY))
CLIENT: Final = Client(UPSTREAM, ApiKey(UPSTREAM), Budget(None))
CODEC: Final = Codec(SingleObject())

# Programs for `tests.support.mutation`, which change a valid body.
codes = st.binary(max_size=24)

# Mostly 200, since only such replies carry levels.
statuses = st.sampled_from(
    [200, 200, 200, 404, 422, 429, 503, 418],
)

Headers = dict[str, str]


def decode_reply(
    status: int, headers: Headers, body: bytes
) -> Response | UpstreamError:
    """Decode a reply as the client does, and check the bounds that others rely on."""
    response = decode_levels(Reply(status, headers, body), SYMBOLS, KEY)
    check_budget(headers, response)
    if isinstance(response, UpstreamError):
        check_error(response)
    else:
        check_response(response)
    return response


def check_error(error: UpstreamError) -> None:
    assert len(str(error)) < MAX_MESSAGE_CHARACTERS
    assert len(error.request_id or "") <= MAX_REQUEST_ID_CHARACTERS
    wait_seconds = error.retry_after_seconds or 0
    assert 0 <= wait_seconds <= MAX_WAIT_SECONDS


def check_response(response: Response) -> None:
    # Every symbol that was requested has an answer, or seems to have one under a name with
    # another spelling. No other symbol has one.
    assert sorted([*response.answers, *response.other_spellings]) == sorted(SYMBOLS)

    # These texts are part of every event.
    meta = response.meta
    assert len(meta.request_id or "") <= MAX_REQUEST_ID_CHARACTERS
    characters = sum(map(len, meta.exchanges))
    assert characters <= 16 * 40

    # A server with a wrong clock must not make our levels look old or new by hours.
    if meta.server_at is not None:
        clock = Clock()
        for _ in range(3):
            clock.learn(NOW, NOW + 1, meta.server_at)
        assert abs(clock.correction) <= MAX_CLOCK_CORRECTION


def check_budget(headers: Headers, response: Response | UpstreamError) -> None:
    """Check that no server can stop the client for long."""
    # A budget for each reply, since a budget remembers.
    CLIENT._budget = budget = Budget(None)
    request = budget.start(time.monotonic())
    CLIENT._learn(request, headers, response, KEY)

    # The window of a server may begin up to a minute after its Retry-After.
    spending = budget.spending(time.monotonic())
    assert 0 <= spending.wait_seconds <= MAX_WAIT_SECONDS + 60
    assert spending.limit_per_minute >= 0


def observations_of(response: Response) -> list[Observation]:
    """Return the observation of each symbol, except those with a rejected entry."""
    meta = response.meta
    origin = {"request_id": meta.request_id, "exchanges": meta.exchanges}
    source = changed(ME, origin)
    observations = []
    for symbol, answer in response.answers.items():
        if isinstance(answer, Status):
            seen_now = seen(None, status=answer, symbol=symbol, source=source)
            observations.append(seen_now)
            continue
        entry = entry_or_none(answer)
        if entry is not None:
            observations.append(
                Observation(symbol, Status.LIVE, entry, NOW, NOW, source)
            )
    return observations


def entry_or_none(raw: bytes) -> Entry | None:
    """Decode an entry, or return None if it is rejected as documented."""
    try:
        return decode_entry(raw, NOW)
    except EntryError as caught:
        error = caught

    assert error.reason in REASONS
    assert len(str(error)) < MAX_MESSAGE_CHARACTERS
    return None


def publish(observations: list[Observation], states: dict[str, State]) -> list[Event]:
    """Return the events of observations, and check that all records survive Avro."""
    events = []
    for transition in observe_all(states, observations, FEED):
        event, state = transition.event, transition.state
        # They are committed together.
        assert event is None or state is not None
        if state is not None:
            value = CODEC.encode_state("t", state)
            assert CODEC.decode_state(value) == state
            assert len(value) < MAX_RECORD_BYTES
        if event is not None:
            value = CODEC.encode_event("t", event)
            assert CODEC.decode_event(value) == event
            events.append(event)
    return events


def state_after(levels: Levels) -> State:
    """Return the state of the symbol `AAA` after its first levels."""
    first = seen(levels, symbol="AAA")
    (transition,) = observe_all({}, [first], FEED)
    assert transition.state is not None
    return transition.state


SOME_LEVELS: Final = decode_entry(
    b'{"spot_price":1,"odte":{"hvl":2},"zones":[1],"ranked":{"odte_top_10":[1]}}', NOW
).levels


def check_reply(status: int, headers: Headers, body: bytes) -> None:
    """Check a reply all the way to its events, with and without earlier levels."""
    response = decode_reply(status, headers, body)
    if isinstance(response, UpstreamError):
        return

    observations = observations_of(response)
    for observation in observations:
        if observation.entry is not None:
            check_entry(observation.entry)

    # At the start of a worker, and later.
    for states in ({}, {"AAA": state_after(SOME_LEVELS)}):
        events = publish(observations, states)
        assert len(events) <= len(observations)
        for event in events:
            assert event.symbol in SYMBOLS
            assert event.sequence in {1, 2}


def check_entry(entry: Entry) -> None:
    # NaN differs from itself: it would make an event of every answer.
    for path in NUMBERS:
        value = number(entry.levels, path) or 0.0
        assert math.isfinite(value)
    assert not compare(entry.levels, entry.levels, FEED.rules)
    # Every entry after one from the future would be dropped as older.
    computed_at = entry.computed_at or 0
    assert computed_at <= NOW + 60 * MICROS


def check_and_keep_failures(status: int, headers: Headers, body: bytes) -> None:
    """Check a reply. A fuzzing run keeps the body of a failure; the last one is the smallest."""
    try:
        check_reply(status, headers, body)
    except BaseException:
        if FUZZING:
            CORPUS.mkdir(exist_ok=True)
            (CORPUS / "found").write_bytes(body)
        raise


@cases(400, weight=8)
@given(statuses, codes, codes)
def test_a_spoilt_response_is_accepted_or_rejected(
    status: int, header_code: bytes, body_code: bytes
) -> None:
    check_and_keep_failures(status, headers(header_code), spoilt(body_code))


@cases(100, weight=8)
@given(codes, st.booleans())
def test_a_spoilt_entry_does_not_affect_the_others(code: bytes, is_first: bool) -> None:
    # The bracket in the text misleads a decoder that counts brackets.
    bad = spoilt_entry(code)
    good = b'{"spot_price":1.5,"note":"}"}'
    pairs = [b'"AAA":%b' % bad, b'"BBB" : %b' % good]
    if not is_first:
        pairs.reverse()
    body = b'{"data":{"results":{%b},"missing":[]},"meta":{}}' % b",".join(pairs)
    assume(len(body) <= UPSTREAM.max_response_bytes)

    response = decode_reply(200, {}, body)

    assert not isinstance(response, UpstreamError)
    assert response.answers["BBB"] == good
    # An entry that became `null` means that there are no levels.
    assert response.answers["AAA"] in {bad.strip(), Status.MISSING}


@cases(100, weight=8)
@given(st.binary(max_size=200))
def test_any_bytes_are_accepted_or_rejected(body: bytes) -> None:
    check_and_keep_failures(200, {}, body)


encodings = st.sampled_from(
    ["gzip", "x-gzip", "GZIP", "", "identity", "br", "gzip, gzip"]
)


@cases(100, weight=8)
@given(codes, codes, encodings)
def test_a_spoilt_compressed_response_is_decompressed_within_the_limit_or_rejected(
    code: bytes, more: bytes, encoding: str
) -> None:
    compressed = packed(spoilt(code), more)
    body = decompressed_or_none(compressed, encoding)
    if body is None:
        return

    # The limit of a body that is not compressed applies while it is read.
    if encoding.lower() in {"gzip", "x-gzip"}:
        assert len(body) <= MAX_DECOMPRESSED_BYTES
    check_and_keep_failures(200, {}, body)


def decompressed_or_none(body: bytes, encoding: str) -> bytes | None:
    """Decompress a body, or return None if it is rejected as documented."""
    try:
        return decompress(body, encoding, MAX_DECOMPRESSED_BYTES)
    except BadResponse as caught:
        error = caught

    assert len(str(error)) < MAX_MESSAGE_CHARACTERS
    return None


first_levels = levels_of(prices)
few_codes = st.lists(codes, max_size=3)


@cases(100, weight=8)
@given(first_levels, few_codes)
def test_each_later_response_makes_the_next_event_of_its_symbol(
    first: Levels, later: list[bytes]
) -> None:
    states = {"AAA": state_after(first)}
    for code in later:
        reply = Reply(200, {}, spoilt(code))
        response = decode_levels(reply, SYMBOLS, KEY)
        if isinstance(response, UpstreamError):
            continue
        observations = observations_of(response)

        last = states["AAA"]
        for event in publish(observations, {"AAA": last}):
            if event.symbol == "AAA":
                assert event.sequence == last.sequence + 1

        # Go on from the states of this response.
        for transition in observe_all(states, observations, FEED):
            if transition.state is not None:
                states[transition.state.symbol] = transition.state


def test_bodies_that_once_failed_are_accepted_or_rejected() -> None:
    for file in CORPUS.glob("*"):
        check_reply(200, {}, file.read_bytes())
