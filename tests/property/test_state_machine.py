"""Compare the state machine with a second, naive reading of the documentation's tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

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
    RankedRow,
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

if TYPE_CHECKING:
    from collections.abc import Callable

IGNORED: Final = frozenset({"spot_price", "odte.put_support", "ranked.odte_top_10"})
# The absolute threshold of `all_expiry.hvl`.
HVL_THRESHOLD: Final = 10.0

STALE_AFTER: Final = 90 * SECOND
# The upstream's clock minus ours.
UPSTREAM_AHEAD: Final = 7 * SECOND

# The most events that an invariant goes through again after every step.
EVENTS_CHECKED: Final = 20

ABSENT: Final = (Status.MISSING, Status.INVALID)
CODEC: Final = Codec(SingleObject())

# Few values for everything, so that equal levels come back often.
strikes = st.sampled_from([1.0, 2.0, None])
row_texts = st.sampled_from(["a", "b"])
zones = st.builds(Row, strikes, row_texts)
zone_lists = st.none() | st.lists(zones, max_size=2).map(tuple)
exposures = st.sampled_from([-1.0, 0.0, 1.0, 2.0, None])
ranked_rows = st.builds(RankedRow, strike=strikes, gex=exposures)
ranked_lists = st.none() | st.lists(ranked_rows, max_size=2).map(tuple)
# A server of the older contract names no model.
models = st.sampled_from(["flow", "flow", "std", None])

# Values less than the threshold apart, exactly the threshold apart, and further apart.
hvls = st.sampled_from(
    [None, 0.0, 100.0, 106.0, 110.0, 112.0, 120.0],
)
null_or_5 = st.sampled_from([None, 5.0])
drawn_ranked = st.builds(Ranked, ranked_lists, ranked_lists)
few_levels = st.builds(
    Levels,
    spot_price=st.sampled_from([1.0, 2.0]),
    positioning=models,
    all_expiry=st.builds(AllExpiry, hvl=hvls),
    odte=st.builds(Odte, hvl=null_or_5, put_support=null_or_5),
    ranked=st.just(Ranked()) | drawn_ranked,
    zones=zone_lists,
    extra=st.sampled_from([None, '{"x":1}']),
)
levels_or_absence = few_levels | st.sampled_from(ABSENT)

# Seconds from now until the date of an entry. None: an entry without a date. Equal dates and
# dates that go back are likely, since those need a decision.
likely_ages = st.sampled_from(
    [-30, 0, 0, 30, 30, 60],
)
any_ages = st.integers(-100, 100)
ages = st.none() | likely_ages | any_ages


# Seconds that pass: around the limit for stale levels, and around a third of it.
waits = st.sampled_from(
    [0, 1, 29, 31, 89, 91, 400],
)


def feed(fingerprint: str = "one") -> FeedRules:
    """Return the rules of the feed, for the request with this fingerprint."""
    # Another fingerprint means other exchanges or includes: levels that cannot be compared.
    thresholds = {"all_expiry.hvl": Threshold(absolute=HVL_THRESHOLD)}
    rules = Rules.of(IGNORED, thresholds)
    return FeedRules("majors", fingerprint, rules, STALE_AFTER / SECOND)


def counted(levels: Levels | None) -> dict[str, Any]:
    """Return the values whose changes are published, by path."""
    return what_counts(levels, IGNORED)


def differing_paths(before: Levels | None, after: Levels | None) -> set[str]:
    """Return the paths that an event must name, by a naive reading of the rules."""
    old = counted(before)
    new = counted(after)
    differing = set()
    for path, value in old.items():
        if value != new[path]:
            differing.add(path)

    # The only path with a threshold. Null against a number counts at any distance.
    old_hvl = old["all_expiry.hvl"]
    new_hvl = new["all_expiry.hvl"]
    has_both = old_hvl is not None and new_hvl is not None
    if has_both and abs(old_hvl - new_hvl) <= HVL_THRESHOLD:
        differing.discard("all_expiry.hvl")
    return differing


def existing(state: State | None) -> State:
    """Return a state that must be there."""
    assert state is not None
    return state


def through_avro(state: State) -> State:
    """Return the state as restored from the topic."""
    encoded = CODEC.encode_state("t", state)
    restored = CODEC.decode_state(encoded)
    assert restored == state
    return restored


# Larger than other classes: Hypothesis wants the actions on one system, and the oracle that
# checks them, in one class.
class OneSymbol(RuleBasedStateMachine):
    """The life of a symbol, through restarts, absences and removals."""

    def __init__(self) -> None:
        super().__init__()
        # The system under test.
        self.state: State | None = None
        self.feed = feed()
        self.now = NOW
        self.answered_at: int | None = None
        self.plan_keeps_fresh = True

        # The oracle remembers all events, and the last levels with their date, request and
        # last named model.
        self.events: list[Event] = []
        self.levels: Levels | None = None
        self.computed_at: int | None = None
        self.fingerprint = "one"
        self.model: str | None = None

    # A first step of its own: otherwise most runs begin with rules that need a state.
    @initialize(first=levels_or_absence, age=ages)
    def first_observation(self, first: Levels | Status, age: int | None) -> None:
        if isinstance(first, Status):
            self.absence(first)
        else:
            self.entry(first, age)

    @rule(levels=few_levels, age=ages)
    def entry(self, levels: Levels, age: int | None) -> None:
        """Observe an entry with a date relative to now, or without one."""
        computed_at = None
        if age is not None:
            computed_at = self.upstream_now + age * SECOND
        self.observe(levels, computed_at)

    @rule(levels=few_levels, after_seconds=st.integers(0, 2))
    def refresh(self, levels: Levels, after_seconds: int) -> None:
        """Observe an entry dated just after the last one, however long ago that was."""
        computed_at = self.computed_at
        if computed_at is not None:
            computed_at += after_seconds * SECOND
        self.observe(levels, computed_at)

    @precondition(lambda self: self.levels is not None)
    @rule()
    def same_entry_twice(self) -> None:
        """Observe the last entry again: at most its age or its request can make an event."""
        assert self.levels is not None
        was_live = self.events[-1].status is Status.LIVE
        is_same_request = self.fingerprint == self.feed.request_fingerprint
        is_old = self.is_old(self.computed_at)

        transition = self.observe(self.levels, self.computed_at)

        if was_live and is_same_request and not is_old:
            assert transition == NO_TRANSITION or transition.event is not None
        # The third time, nothing is left to change.
        again = self.observe(self.levels, self.computed_at)
        assert again == NO_TRANSITION

    @rule(status=st.sampled_from(ABSENT))
    def absence(self, status: Status) -> None:
        """Observe that the upstream has no levels. Only a new status makes an event."""
        self.answered_at = self.upstream_now
        observation = Observation(
            "BTCUSDT", status, None, self.now, self.upstream_now, ME
        )

        transition = self.apply_observation(observation)

        if self.events and self.events[-1].status is status:
            assert transition == NO_TRANSITION
        else:
            self.check_event(transition, Kind(status), status, None)

    @rule(keeps_fresh=st.booleans())
    def plan(self, *, keeps_fresh: bool) -> None:
        """Change how often the budget permits checks."""
        self.plan_keeps_fresh = keeps_fresh

    @rule(seconds=waits)
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * SECOND

    @precondition(lambda self: self.state is not None)
    @rule()
    def timer(self) -> None:
        """Run the timer that turns live levels stale."""
        now = Moment(self.now, self.upstream_now)
        # Levels of unknown age count from the last answer, ours or the previous owner's.
        since = self.computed_at
        if since is None:
            since = self.answered_at
        if since is None:
            since = existing(self.state).observed_at + UPSTREAM_AHEAD
        was_live = self.events[-1].status is Status.LIVE

        def run_timer(state: State | None) -> Transition:
            return expire(existing(state), now, self.answered_at, ME, self.feed)

        transition = self.apply(run_timer)

        if not was_live or now.upstream_at - since <= STALE_AFTER:
            assert transition == NO_TRANSITION
            return
        last_published = self.last_published()
        event = self.check_event(transition, Kind.STALE, Status.STALE, last_published)
        # An upstream that answers with old levels is another fault than a silent one.
        is_silent = (
            self.answered_at is None
            or now.upstream_at - self.answered_at > STALE_AFTER // 2
        )
        if is_silent:
            assert event.reason == "no_answer"
        else:
            assert event.reason == "old"
        # The age changes, not the levels.
        assert counted(event.after) == counted(event.before)

    @precondition(lambda self: self.state is not None)
    @rule()
    def no_longer_configured(self) -> None:
        """Remove the symbol from the configuration. Only the first removal makes an event."""

        def remove_symbol(state: State | None) -> Transition:
            return remove(existing(state), self.now, ME, self.feed)

        transition = self.apply(remove_symbol)

        if self.events[-1].status is Status.REMOVED:
            assert transition == NO_TRANSITION
        else:
            self.check_event(transition, Kind.REMOVED, Status.REMOVED, None)

    @rule(fingerprint=st.sampled_from(["one", "one", "two"]))
    def restart(self, fingerprint: str) -> None:
        """Let another owner restore the state, perhaps with another configuration."""
        if self.state is not None:
            self.state = through_avro(self.state)
        # The moment of the last answer is not stored.
        self.answered_at = None
        self.feed = feed(fingerprint)

    @invariant()
    def the_sequence_has_no_gap(self) -> None:
        # Consumers drop duplicates and find losses by the sequence.
        for sequence, event in enumerate(self.events, 1):
            assert event.sequence == sequence
            assert event.event_id == f"majors/BTCUSDT/{sequence}"

    @invariant()
    def each_event_continues_from_the_previous_one(self) -> None:
        # A consumer that applies the differences one after another must never be off.
        previous: Event | None = None
        published: Levels | None = None
        for event in self.events[-EVENTS_CHECKED:]:
            if previous is not None:
                assert event.previous_computed_at == previous.computed_at
            elif event.sequence == 1:
                assert event.previous_computed_at is None
            if published is not None:
                assert counted(event.before) == counted(published)
            previous = event
            published = event.after or published

    @invariant()
    def the_state_agrees_with_the_events(self) -> None:
        if self.state is None:
            assert not self.events
            return

        last = self.events[-1]
        published = self.state.last_published
        assert self.state.status is last.status
        assert self.state.sequence == last.sequence
        assert self.state.event_computed_at == last.computed_at
        assert counted(published) == counted(self.last_published())
        assert (published is None) == (self.last_published() is None)
        # Changes below a threshold and of ignored fields reach the state, without an event.
        assert self.state.levels == self.levels
        assert self.state.computed_at == self.computed_at

    @invariant()
    def computed_at_never_goes_back(self) -> None:
        # Proxies and caches of the upstream may answer with an older entry.
        dates = []
        for event in self.events:
            if event.computed_at is not None:
                dates.append(event.computed_at)
        assert dates == sorted(dates)
        if dates:
            assert self.computed_at is not None
            assert dates[-1] <= self.computed_at

    def observe(self, levels: Levels, computed_at: int | None) -> Transition:
        """Observe an entry, and check the transition against the tables."""
        self.answered_at = self.upstream_now
        observation = seen(
            levels,
            computed_at,
            self.upstream_now,
            observed_at=self.now,
            plan_keeps_fresh=self.plan_keeps_fresh,
        )
        transition = self.apply_observation(observation)

        # An entry without a date does not move the date; an older entry is dropped.
        date = self.computed_at
        if computed_at is not None:
            date = computed_at
            if self.computed_at is not None and computed_at < self.computed_at:
                assert transition == Transition(dropped="older")
                return transition

        # Let the oracle take note of the entry.
        is_other_model = {self.model, levels.positioning} == {"flow", "std"}
        is_old = self.is_old(date)
        was_stale = bool(self.events) and self.events[-1].status is Status.STALE
        stays_stale = was_stale and not self.plan_keeps_fresh
        is_stale = is_old or stays_stale
        kind = self.expected_kind(
            levels, is_stale=is_stale, is_other_model=is_other_model
        )
        before = (self.levels, self.computed_at)
        self.levels = levels
        self.computed_at = date
        if self.fingerprint != self.feed.request_fingerprint:
            self.model = None
        self.model = levels.positioning or self.model
        self.fingerprint = self.feed.request_fingerprint

        if kind is not None:
            status = Status.LIVE
            if is_stale:
                status = Status.STALE
            event = self.check_event(transition, kind, status, levels)
            assert event.after == levels
            assert event.computed_at == computed_at
            # Consumers tell a change of the model from others by the reason.
            assert (event.reason == "positioning") == is_other_model
            # Levels that are young, but whose change does not make them live.
            is_due_to_budget = kind is Kind.CHANGED and stays_stale and not is_old
            assert (event.reason == "budget") == is_due_to_budget
        elif before == (levels, date):
            assert transition == NO_TRANSITION
        else:
            # The state changes without an event.
            assert transition.event is None
            assert transition.dropped is None
            assert transition.state is not None
        return transition

    def expected_kind(
        self, levels: Levels, *, is_stale: bool, is_other_model: bool
    ) -> Kind | None:
        """Return the first row of the table of kinds that fits."""
        # The order of these conditions is that of the table in the documentation.
        published = self.last_published()
        is_other_request = self.fingerprint != self.feed.request_fingerprint
        if published is None or is_other_request or is_other_model:
            return Kind.SNAPSHOT
        status = self.events[-1].status
        if status in {Status.MISSING, Status.INVALID, Status.REMOVED}:
            return Kind.RESTORED
        if is_stale and status is Status.LIVE:
            return Kind.STALE
        if not is_stale and status is Status.STALE:
            return Kind.FRESH
        if differing_paths(published, levels):
            return Kind.CHANGED
        return None

    def check_event(
        self,
        transition: Transition,
        kind: Kind,
        status: Status,
        after: Levels | None,
    ) -> Event:
        """Check the contents of an event, and remember it."""
        event = transition.event
        assert event is not None
        assert event.kind == kind
        assert event.status == status
        assert event.observed_at == self.now

        # `counted` does not tell absent levels from empty ones.
        assert counted(event.after) == counted(after)
        has_levels = status in {Status.LIVE, Status.STALE}
        assert (event.after is None) == (not has_levels)
        assert counted(event.before) == counted(self.last_published())
        assert (event.before is None) == (self.last_published() is None)

        # The event names exactly the paths that differ.
        named = set(event.changed_sections)
        for change in event.changed_levels:
            named.add(change.path)
        assert named == differing_paths(event.before, event.after)
        for change in event.changed_levels:
            assert change.before == counted(event.before)[change.path]
            assert change.after == counted(event.after)[change.path]
        self.events.append(event)
        return event

    def apply_observation(self, observation: Observation) -> Transition:
        """Apply the transition of an observation."""

        def observe_it(state: State | None) -> Transition:
            return observe(state, observation, self.feed)

        return self.apply(observe_it)

    def apply(self, decide: Callable[[State | None], Transition]) -> Transition:
        """Apply a transition, and check that a restored state would lead to the same one."""
        transition = decide(self.state)

        restored = None
        if self.state is not None:
            restored = through_avro(self.state)
        assert decide(restored) == transition

        # The event and the state are committed together.
        assert transition.event is None or transition.state is not None
        if transition.state is not None:
            assert transition.state.observed_at == self.now
            self.state = transition.state
        return transition

    @property
    def upstream_now(self) -> int:
        return self.now + UPSTREAM_AHEAD

    def is_old(self, computed_at: int | None) -> bool:
        return computed_at is not None and self.upstream_now - computed_at > STALE_AFTER

    def last_published(self) -> Levels | None:
        """Return `after` of the last event that had levels."""
        for event in reversed(self.events):
            if event.after is not None:
                return event.after
        return None


TestOneSymbol = OneSymbol.TestCase
TestOneSymbol.settings = settings(cases(150), stateful_step_count=25)


def observation(
    symbol: str, result: Levels | Status, age: int | None, *, keeps_fresh: bool
) -> Observation:
    """Return an observation of levels or of an absence. `age` is in seconds after `NOW`."""
    if isinstance(result, Status):
        return seen(None, None, status=result, symbol=symbol)
    computed_at = None
    if age is not None:
        computed_at = NOW + age * SECOND
    return seen(
        result,
        computed_at,
        NOW + 100 * SECOND,
        symbol=symbol,
        plan_keeps_fresh=keeps_fresh,
    )


observations = st.lists(
    st.builds(
        observation,
        st.sampled_from(["A", "B"]),
        levels_or_absence,
        st.none() | st.integers(-60, 200),
        keeps_fresh=st.booleans(),
    ),
    max_size=12,
)


@cases(150)
@given(observations, st.integers(0, 12))
def test_a_transaction_may_end_after_any_observation(
    observed: list[Observation], cut: int
) -> None:
    together = observe_all({}, observed, feed())

    # Commit the first part, and go on with the states that were published.
    first = observe_all({}, observed[:cut], feed())
    states = {}
    for transition in first:
        if transition.state is not None:
            states[transition.state.symbol] = transition.state
    second = observe_all(states, observed[cut:], feed())

    assert [*first, *second] == together
