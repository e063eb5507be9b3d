"""The state of a shard from one restore to the next. Pure."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from connector.core.transition import Transition, expire, remove, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from connector.core.model import Moment, Source, State
    from connector.core.transition import FeedRules
    from connector.kafka.shard_log import Restored


class OpenShard:
    """The last committed state of every symbol, and the transitions that nobody observed.

    Anything but a commit that returned invalidates it: then the shard is restored into
    another object.
    """

    def __init__(
        self,
        restored: Restored,
        rules: FeedRules,
        source: Source,
        first_answers_until: float,
    ) -> None:
        """Until `first_answers_until` (monotonic) a symbol may still get its first answer."""
        self.restored = restored
        self.states = dict(restored.states)
        self.timer_is_due = False
        """Set once a second: levels may have become stale."""
        self._lost = set(restored.recovered)
        self._rules = rules
        self._source = source
        self._first_answers_until = first_answers_until

    def commit(self, states: Mapping[str, State]) -> None:
        """Replace the states of these symbols: the transaction that holds them returned."""
        self.states.update(states)
        self._lost.difference_update(states)

    def repairs(self) -> list[Transition]:
        """Return the states that the topic has lost, to be written again."""
        repairs = []
        for symbol in sorted(self._lost):
            state = replace(self.states[symbol], source=self._source)
            repairs.append(Transition(state))
        return repairs

    def removals(self, configured: Collection[str], at: int) -> list[Transition]:
        """Return the transitions of symbols that are no longer configured."""
        transitions = []
        for symbol, state in self.states.items():
            if symbol in configured:
                continue
            transition = remove(state, at, self._source, self._rules)
            if transition.event is not None:
                transitions.append(transition)
        return transitions

    def expired(
        self,
        moment: Moment,
        monotonic: float,
        answered_at: Mapping[str, int],
        just_seen: Collection[str],
        silence_reason: Callable[[str], str],
    ) -> list[Transition]:
        """Return the transitions of symbols whose levels have become stale.

        `silence_reason` tells why a symbol has had no answer for long.
        Levels restored a moment ago are not called stale before their first answer had time
        to come.
        """
        is_early = monotonic < self._first_answers_until

        transitions = []
        for symbol, state in self.states.items():
            last_answer = answered_at.get(symbol)
            awaits_first_answer = is_early and last_answer is None
            # A symbol in the same transaction has its transition already.
            if symbol in just_seen or awaits_first_answer:
                continue
            transition = expire(
                state,
                moment,
                last_answer,
                self._source,
                self._rules,
                partial(silence_reason, symbol),
            )
            if transition.event is not None:
                transitions.append(transition)
        return transitions

    def snapshots(
        self,
        symbols: Iterable[str],
        before: Iterable[Transition],
        moment: Moment,
    ) -> tuple[list[Transition], dict[str, str]]:
        """Return the snapshots of these symbols, and the reasons why others have none.

        The reasons are by symbol. `before` are the transitions of the same transaction: a
        snapshot follows them.
        """
        latest = dict(self.states)
        for transition in before:
            if transition.state is not None:
                latest[transition.state.symbol] = transition.state

        transitions = []
        rejections = {}
        for symbol in symbols:
            state = latest.get(symbol)
            transition = snapshot(state, moment, self._source, self._rules)
            if transition.event is not None:
                transitions.append(transition)
            elif state is None:
                rejections[symbol] = "the symbol has not been observed yet"
            else:
                rejections[symbol] = (
                    f"there are no levels to publish; it is {state.status}"
                )
        return transitions, rejections
