"""Whatever happens to a symbol, its events are what the documentation's tables say: a second, naive reading of them."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from connector.core.diff import Rules, Threshold
from connector.core.model import (
    AllExpiry,
    Event,
    Kind,
    Levels,
    Moment,
    Observation,
    Odte,
    Ranked,
    Row,
    State,
    Status,
)
from connector.core.transition import (
    NO_TRANSITION,
    FeedRules,
    Transition,
    expire,
    observe,
    observe_all,
    remove,
)
from connector.kafka.avro import Codec, SingleObject
from tests.support.levels import ME, NOW, SECOND, seen, what_counts
from tests.support.profiles import cases

IGNORED: Final = frozenset({"spot_price", "odte.put_support", "ranked.odte_top_10"})
TOLERANCE: Final = 10.0
"""Of `all_expiry.hvl`."""

STALE_AFTER: Final = 90 * SECOND
AHEAD: Final = 7 * SECOND
"""The upstream's clock, less ours."""

CODEC: Final = Codec(SingleObject())

ABSENT: Final = (Status.MISSING, Status.INVALID)

row = st.builds(Row, st.sampled_from([1.0, 2.0, None]), st.sampled_from(["a", "b"]))
lists = st.none() | st.lists(row, max_size=2).map(tuple)
few_levels = st.builds(
    Levels,
    spot_price=st.sampled_from([1.0, 2.0]),
    all_expiry=st.builds(
        AllExpiry, hvl=st.sampled_from([None, 0.0, 100.0, 106.0, 110.0, 112.0, 120.0])
    ),
    odte=st.builds(
        Odte, hvl=st.sampled_from([None, 5.0]), put_support=st.sampled_from([None, 5.0])
    ),
    ranked=st.just(Ranked()) | st.builds(Ranked, lists, lists),
    zones=st.none() | lists,
    extra=st.sampled_from([None, '{"x":1}']),
)
dates = st.none() | st.sampled_from([-30, 0, 0, 30, 30, 60]) | st.integers(-100, 100)


def feed(fingerprint: str = "one") -> FeedRules:
    rules = Rules.of(IGNORED, {"all_expiry.hvl": Threshold(absolute=TOLERANCE)})
    return FeedRules("majors", fingerprint, rules, STALE_AFTER / SECOND)


def counted(levels: Levels | None) -> dict[str, Any]:
    return what_counts(levels, IGNORED)


def difference(before: Levels | None, after: Levels | None) -> set[str]:
    was, now = counted(before), counted(after)
    differing = {path for path in was if was[path] != now[path]}
    one, other = was["all_expiry.hvl"], now["all_expiry.hvl"]
    if one is not None and other is not None and abs(one - other) <= TOLERANCE:
        differing.discard("all_expiry.hvl")
    return differing


class OneSymbol(RuleBasedStateMachine):
    """One symbol of one feed, from its first sight through restarts, absences and removals."""

    def __init__(self) -> None:
        super().__init__()
        self.state: State | None = None
        self.events: list[Event] = []
        self.feed = feed()
        self.now = NOW
        self.answered_at: int | None = None
        # The oracle's memory: of what was observed, and of what was said.
        self.floor: int | None = None
        self.refreshes: list[int] = []
        self.last_levels: Levels | None = None
        self.fingerprint = "one"

    @initialize(first=few_levels | st.sampled_from(ABSENT), computed=dates)
    def first_sight(self, first: Levels | Status, computed: int | None) -> None:
        if isinstance(first, Status):
            self.absence(first)
        else:
            self.entry(first, computed)

    @rule(levels=few_levels, computed=dates)
    def entry(self, levels: Levels, computed: int | None) -> None:
        """An entry computed so many seconds from now, or without a date."""
        computed_at = None if computed is None else self.now + AHEAD + computed * SECOND
        self._see(levels, computed_at)

    @rule(levels=few_levels, after_seconds=st.integers(0, 2))
    def refresh(self, levels: Levels, after_seconds: int) -> None:
        """An entry just after the last one known, however long ago that was."""
        self._see(
            levels, None if self.floor is None else self.floor + after_seconds * SECOND
        )

    @precondition(lambda self: self.last_levels is not None)
    @rule()
    def same_entry_again(self) -> None:
        levels = self.last_levels
        was_said = self.events[-1].status
        step = self._see(levels, self.floor)
        if (
            not self._is_old(self.floor)
            and was_said is Status.LIVE
            and self.fingerprint == self.feed.request_fingerprint
        ):
            assert step == NO_TRANSITION or step.event is not None
        assert self._see(levels, self.floor) == NO_TRANSITION

    @rule(status=st.sampled_from(ABSENT))
    def absence(self, status: Status) -> None:
        self.answered_at = self.now + AHEAD
        observation = Observation(
            "BTCUSDT", status, None, self.now, self.now + AHEAD, ME
        )
        step = self._both(lambda state: observe(state, observation, self.feed))
        if self.events and self.events[-1].status is status:
            assert step == NO_TRANSITION
        else:
            self._published(step, Kind(status), status, None)

    @rule(seconds=st.sampled_from([0, 1, 29, 31, 89, 91, 400]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * SECOND

    @precondition(lambda self: self.state is not None)
    @rule()
    def timer(self) -> None:
        at = Moment(self.now, self.now + AHEAD)
        since = self.floor
        if since is None:
            since = (
                known(self.state).observed_at + AHEAD
                if self.answered_at is None
                else self.answered_at
            )
        last = self.events[-1]
        step = self._both(
            lambda state: expire(known(state), at, self.answered_at, ME, self.feed)
        )
        if last.status is not Status.LIVE or at.upstream_at - since <= STALE_AFTER:
            assert step == NO_TRANSITION
            return
        silent = (
            self.answered_at is None
            or at.upstream_at - self.answered_at > STALE_AFTER // 2
        )
        event = self._published(step, Kind.STALE, Status.STALE, self._said())
        assert event.reason == ("no_answer" if silent else "old")
        assert counted(event.after) == counted(event.before)

    @precondition(lambda self: self.state is not None)
    @rule()
    def no_longer_configured(self) -> None:
        step = self._both(lambda state: remove(known(state), self.now, ME, self.feed))
        if self.events[-1].status is Status.REMOVED:
            assert step == NO_TRANSITION
        else:
            self._published(step, Kind.REMOVED, Status.REMOVED, None)

    @rule(fingerprint=st.sampled_from(["one", "one", "two"]))
    def restart(self, fingerprint: str) -> None:
        """Another owner reads the state from the topic, perhaps with another configuration."""
        if self.state is not None:
            self.state = self._restored(self.state)
        self.answered_at = None
        self.feed = feed(fingerprint)

    @invariant()
    def the_sequence_has_no_gap(self) -> None:
        assert [event.sequence for event in self.events] == list(
            range(1, len(self.events) + 1)
        )
        assert [event.event_id for event in self.events] == [
            f"majors/BTCUSDT/{n + 1}" for n in range(len(self.events))
        ]

    @invariant()
    def each_event_follows_from_the_one_before(self) -> None:
        said: Levels | None = None
        previous: Event | None = None
        for event in self.events[-20:] if len(self.events) > 20 else self.events:
            if previous is not None or event.sequence == 1:
                assert event.previous_computed_at == (
                    None if previous is None else previous.computed_at
                )
                assert said is None or counted(event.before) == counted(said)
            said, previous = event.after or said, event

    @invariant()
    def the_state_is_what_the_events_say(self) -> None:
        if self.state is None:
            assert not self.events
            return
        last = self.events[-1]
        assert (self.state.status, self.state.sequence) == (last.status, last.sequence)
        assert self.state.event_computed_at == last.computed_at
        assert counted(self.state.last_published) == counted(self._said())
        assert (self.state.last_published is None) == (self._said() is None)
        assert self.state.levels == self.last_levels
        assert self.state.computed_at == self.floor

    @invariant()
    def computed_at_never_goes_back(self) -> None:
        dated = [
            event.computed_at for event in self.events if event.computed_at is not None
        ]
        assert dated == sorted(dated)
        assert not dated or self.floor is not None
        assert not dated or dated[-1] <= (self.floor or 0)

    @invariant()
    def the_last_refreshes_are_known(self) -> None:
        if self.state is None:
            return
        recent = self.state.recent_computed_at
        assert list(recent) == self.refreshes[-16:]
        assert list(recent) == sorted(set(recent))
        if recent:
            assert recent[-1] == self.state.computed_at

    def _see(self, levels: Levels | None, computed_at: int | None) -> Transition:
        """Observe levels, and hold what comes of it to the tables."""
        assert levels is not None
        self.answered_at = self.now + AHEAD
        observation = seen(levels, computed_at, self.now + AHEAD, observed_at=self.now)
        step = self._both(lambda state: observe(state, observation, self.feed))
        if (
            self.floor is not None
            and computed_at is not None
            and computed_at < self.floor
        ):
            assert step == Transition(dropped="older")
            return step
        floor = self.floor if computed_at is None else computed_at
        if floor is not None and floor != self.floor:
            self.refreshes.append(floor)
        kind = self._kind(levels, old=self._is_old(floor))
        nothing_new = kind is None and (levels, floor) == (self.last_levels, self.floor)
        self.floor, self.last_levels, self.fingerprint = (
            floor,
            levels,
            self.feed.request_fingerprint,
        )
        if kind is not None:
            event = self._published(
                step, kind, Status.STALE if self._is_old(floor) else Status.LIVE, levels
            )
            assert event.after == levels
            assert event.computed_at == computed_at
        elif nothing_new:
            assert step == NO_TRANSITION
        else:
            assert (step.event, step.dropped) == (None, None)
            assert step.state is not None
        return step

    def _kind(self, levels: Levels, *, old: bool) -> Kind | None:
        """The first line of the table of kinds that fits."""
        said, status = self._said(), self.events[-1].status if self.events else None
        if said is None or self.fingerprint != self.feed.request_fingerprint:
            return Kind.SNAPSHOT
        if status in {Status.MISSING, Status.INVALID, Status.REMOVED}:
            return Kind.RESTORED
        if old and status is Status.LIVE:
            return Kind.STALE
        if not old and status is Status.STALE:
            return Kind.FRESH
        return Kind.CHANGED if difference(said, levels) else None

    def _published(
        self, step: Transition, kind: Kind, status: Status, after: Levels | None
    ) -> Event:
        """Hold an event to what it must say, and keep it."""
        event = step.event
        assert event is not None
        assert (event.kind, event.status, event.observed_at) == (kind, status, self.now)
        assert counted(event.after) == counted(after)
        assert (event.after is None) == (status not in {Status.LIVE, Status.STALE})
        assert counted(event.before) == counted(self._said())
        assert (event.before is None) == (self._said() is None)
        named = {change.path for change in event.changed_levels} | set(
            event.changed_sections
        )
        assert named == difference(event.before, event.after)
        for change in event.changed_levels:
            assert (change.before, change.after) == (
                counted(event.before)[change.path],
                counted(event.after)[change.path],
            )
        self.events.append(event)
        return event

    def _both(self, decide: Any) -> Transition:
        """Decide on the state in memory and on the one the topic would give: the same comes of it."""
        step: Transition = decide(self.state)
        twin = None if self.state is None else self._restored(self.state)
        assert decide(twin) == step
        assert step.event is None or step.state is not None
        if step.state is not None:
            assert step.state.observed_at == self.now
        self.state = step.state or self.state
        return step

    def _restored(self, state: State) -> State:
        read = CODEC.decode_state(CODEC.encode_state("t", state))
        assert read == state
        return read

    def _is_old(self, computed_at: int | None) -> bool:
        return computed_at is not None and self.now + AHEAD - computed_at > STALE_AFTER

    def _said(self) -> Levels | None:
        """The `after` of the last event that had one."""
        return next(
            (event.after for event in reversed(self.events) if event.after is not None),
            None,
        )


def known(state: State | None) -> State:
    assert state is not None
    return state


TestOneSymbol = OneSymbol.TestCase
TestOneSymbol.settings = settings(cases(150), stateful_step_count=25)

observations = st.lists(
    st.tuples(
        st.sampled_from(["A", "B"]),
        few_levels | st.sampled_from(ABSENT),
        st.none() | st.integers(-60, 200),
    ),
    max_size=12,
)


def observed(symbol: str, what: Levels | Status, seconds: int | None) -> Observation:
    computed_at = None if seconds is None else NOW + seconds * SECOND
    if isinstance(what, Status):
        return seen(None, None, status=what, symbol=symbol)
    return seen(what, computed_at, NOW + 100 * SECOND, symbol=symbol)


@cases(150)
@given(observations, st.integers(0, 12))
def test_where_a_transaction_ends_changes_nothing_of_what_is_said(
    taken: list[Any], cut: int
) -> None:
    given_ = [observed(*one) for one in taken]
    together = observe_all({}, given_, feed())
    first = observe_all({}, given_[:cut], feed())
    states = {step.state.symbol: step.state for step in first if step.state is not None}
    assert [*first, *observe_all(states, given_[cut:], feed())] == together
