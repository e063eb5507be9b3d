"""Best moments for checks if the source's law is known: an exact semi-Markov solution.

A batch is checked at moments of a grid over one cycle. The state after a check is its place in the
cycle and, for each source that is then within its window, whether this cycle's refresh is still to
be seen. Outside its window, nothing of a source is open. (The windows of a source do not overlap,
so a check tells no more than this: exact moments of refreshes add nothing.)

An action is the place of the next check, any number of cycles ahead up to a limit. It costs the
price of a request, and the time for which refreshes wait: seconds times symbols, the overtaken
refreshes included.

Delays are integrated exactly between places of the grid; only the checks are bound to it. A result
is therefore the cost of a schedule that exists. It lies above the true optimum by a term of second
order in the step (`bounds` measures it).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.schedule.jitter import Floats, Jitter

# Step of the tables of a distribution, in seconds.
_FINE: Final = 0.002

# Probability of a jump to the first state. It keeps a policy with several closed
# classes solvable.
_RESTART: Final = 1e-6

# Moments closer than this, in seconds, are equal but for rounding.
_SAME: Final = 1e-6

# Limit of the policy iterations. The costs converge in far fewer.
_ROUNDS: Final = 60

# Gain in cost below which a policy counts as the best.
_ENOUGH: Final = 1e-9

# Lower limit of a probability that divides.
_LEAST_CHANCE: Final = 1e-12


class Source:
    """Refreshes of `weight` symbols that come together, once a cycle.

    They come after `start`, within `width` seconds.
    """

    def __init__(
        self, jitter: Jitter, phase: float, cycle: float, weight: int = 1
    ) -> None:
        self.weight = weight
        self.mass = 1 - jitter.skip
        self.width = jitter.high - jitter.low
        if self.width >= cycle:
            raise ValueError("the windows of a source overlap")

        self.start = (phase + jitter.low) % cycle
        points = max(2, round(self.width / _FINE))
        self._ages = np.linspace(0, self.width, points)
        self._seen = self.mass * jitter.cdf(self._ages + jitter.low)
        # Integrate with the trapezium rule.
        steps = np.diff(self._ages) * (self._seen[1:] + self._seen[:-1]) / 2
        self._waited = np.concatenate([[0.0], np.cumsum(steps)])

    def seen(self, age: Floats) -> Floats:
        """Return the probability that the refresh is visible, by time since the window began."""
        result: Floats = np.interp(age, self._ages, self._seen)
        return result

    def waited(self, age: Floats) -> Floats:
        """Return the expected seconds for which the refresh has been visible."""
        within = np.interp(age, self._ages, self._waited)
        beyond = np.maximum(age - self.width, 0)
        total: Floats = within + self.mass * beyond
        return total

    def waited_all(self, age: Floats, cycle: float) -> Floats:
        """Add `waited` up over all windows that began `age` seconds ago or whole cycles later.

        A negative age means that no window has begun.
        """
        last = np.maximum(np.floor(age / cycle), 0)
        # The first window has waited longest; each later window a cycle less.
        first = self._waited[-1] + self.mass * (age - self.width)
        ended: Floats = last * first - self.mass * cycle * last * (last - 1) / 2
        return ended + self.waited(np.maximum(age - last * cycle, 0.0))


@dataclass(frozen=True, slots=True)
class Rates:
    """Long-run rates of a policy, per second.

    `cost` is the figure that is minimised; `delay` is in symbol-seconds.
    """

    cost: float
    requests: float
    delay: float


class Decision:
    """The decision problem of a batch. All prices are solved with the same tables.

    Times are in seconds; checks lie at least `shortest` apart. The attributes are the arrays of
    one problem, so they stay in one class: each is indexed by place, state or action.
    """

    def __init__(
        self,
        sources: list[Source],
        cycle: float,
        grid: Floats,
        *,
        horizon: float,
        shortest: float = 0.0,
    ) -> None:
        self.grid = grid
        self._sources = sources
        self._cycle = cycle
        places = len(grid)
        steps = round(horizon / cycle * places)

        # Number the states: each place has a state for every subset of its active sources.
        self._ages = _ages(sources, cycle, grid)
        self._active = [self._active_at(at) for at in range(places)]
        states = [1 << len(active) for active in self._active]
        self._first = np.concatenate([[0], np.cumsum(states)])
        self._place = np.repeat(np.arange(places), np.diff(self._first))

        # Number the actions: action n leads n + 1 places ahead.
        ahead = np.arange(places)[:, None] + np.arange(1, steps + 1)[None, :]
        self._to = ahead % places
        self._gap = grid[self._to] + (ahead // places) * cycle - grid[:, None]
        is_banned = self._gap < shortest - _SAME
        self._banned = np.where(is_banned, np.inf, 0.0)

        # Tabulate chances and delays, which are the same for every price.
        seen_at = []
        for source, own in zip(sources, self._ages, strict=True):
            seen_at.append(source.seen(own))
        self._seen_at = np.array(seen_at)
        self._unseen = [self._fresh(at) for at in range(places)]
        self._delay = np.concatenate([self._delays(at) for at in range(places)])
        self._near = [self._transitions(at) for at in range(places)]

        # Start with a check once a cycle.
        self._policy = np.full(len(self._place), min(steps, places) - 1)

    def _active_at(self, at: int) -> list[int]:
        """Return the sources that are within their window at a place."""
        active = []
        for i, source in enumerate(self._sources):
            if self._ages[i, at] < source.width - _SAME:
                active.append(i)
        return active

    def _fresh(self, at: int) -> Floats:
        """Return the distribution over a place's states if all its windows are new.

        A window is new if it began since the last check.
        """
        return _product([1 - float(self._seen_at[i, at]) for i in self._active[at]])

    def _delays(self, at: int) -> Floats:
        """Return the expected symbol-seconds of delay until the next check, by state and action."""
        gap = self._gap[at]
        result = np.zeros((1 << len(self._active[at]), len(gap)))

        # Count windows that begin before the next check. They wait in every state.
        for i, source in enumerate(self._sources):
            since_first = self._ages[i, at] + gap - self._cycle
            waited = source.waited_all(since_first, self._cycle)
            result += source.weight * waited

        # Count windows under way, in the states in which their refresh is still unseen.
        for bit, i in enumerate(self._active[at]):
            source = self._sources[i]
            begun = float(self._ages[i, at])
            seen = float(source.seen(np.array(begun)))
            waited_before = float(source.waited(np.array(begun)))
            waited_later = source.waited(begun + gap) - waited_before - seen * gap
            more = waited_later / max(1 - seen, _LEAST_CHANCE)

            is_unseen = np.arange(len(result)) >> bit & 1 == 1
            result[is_unseen] += source.weight * more
        return result

    def _transitions(self, at: int) -> list[Floats]:
        """Return a table [state, next state] for each action that ends in the same window."""
        found = []
        for to, gap in zip(self._to[at], self._gap[at], strict=True):
            shared = self._shared(at, float(gap))
            if not shared:
                break

            rows = []
            for state in range(1 << len(self._active[at])):
                unseen = self._chances_unseen(at, int(to), state, shared)
                rows.append(_product(unseen))
            found.append(np.array(rows))
        return found

    def _shared(self, at: int, gap: float) -> list[int]:
        """Return the sources whose window lasts from a place until `gap` seconds later."""
        shared = []
        for i in self._active[at]:
            if self._ages[i, at] + gap < self._sources[i].width - _SAME:
                shared.append(i)
        return shared

    def _chances_unseen(
        self, at: int, to: int, state: int, shared: list[int]
    ) -> list[float]:
        """Return, for each active source at `to`, the chance that its refresh is unseen there."""
        unseen = []
        for i in self._active[to]:
            chance = 1 - float(self._seen_at[i, to])
            if i in shared:
                bit = self._active[at].index(i)
                was_unseen = state >> bit & 1
                before = 1 - float(self._seen_at[i, at])
                # A refresh that was seen in this window cannot come again.
                chance = chance / max(before, _LEAST_CHANCE) if was_unseen else 0.0
            unseen.append(chance)
        return unseen

    def solve(self, price: float) -> Rates:
        """Find the best policy for a price, in seconds of delay a request.

        The search starts from the policy found last, and iterates on policies.
        """
        best = self._evaluate(price)
        for _ in range(_ROUNDS):
            rates, values = best
            self._improve(price, rates.cost, values)
            best = self._evaluate(price)
            if best[0].cost > rates.cost - _ENOUGH:
                break
        return best[0]

    def next(
        self, at: int, moment: float, unseen: Callable[[int, float], bool]
    ) -> tuple[int, float]:
        """Return the place of the best next check after a place, and the seconds until then.

        `unseen` takes the number of a source and the moment its window began. It returns true if
        the refresh of that window has not been seen.
        """
        state = 0
        for bit, i in enumerate(self._active[at]):
            begun = moment - float(self._ages[i, at])
            if unseen(i, begun):
                state += 1 << bit
        action = self._policy[self._first[at] + state]
        return int(self._to[at, action]), float(self._gap[at, action])

    def _improve(self, price: float, cost: float, values: Floats) -> None:
        """Switch each state to its best action under these values."""
        bounds = list(pairwise(self._first))
        means = []
        for at, (low, high) in enumerate(bounds):
            means.append(self._unseen[at] @ values[low:high])
        mean = np.array(means)

        for at, (low, high) in enumerate(bounds):
            # Take the value of the next state: windows that are shared depend on this state.
            expected = np.repeat(mean[self._to[at]][None, :], high - low, axis=0)
            for action, table in enumerate(self._near[at]):
                to = self._to[at, action]
                next_values = values[self._first[to] : self._first[to + 1]]
                expected[:, action] = table @ next_values

            spent = price + self._delay[low:high] - cost * self._gap[at]
            total = spent + self._banned[at] + expected

            # Keep an action that is as good, so that the iteration ends.
            chosen = self._policy[low:high]
            current = total[np.arange(high - low), chosen]
            is_better = total.min(axis=1) < current - _ENOUGH / 10
            self._policy[low:high] = np.where(is_better, total.argmin(axis=1), chosen)

    def _evaluate(self, price: float) -> tuple[Rates, Floats]:
        """Return the rates of the current policy, and the relative value of each state."""
        states = len(self._place)
        matrix = np.eye(states)
        for state in range(states):
            at = int(self._place[state])
            action = int(self._policy[state])
            to = self._to[at, action]
            near = self._near[at]
            row = self._unseen[to]
            if action < len(near):
                own = state - self._first[at]
                row = near[action][own]
            matrix[state, self._first[to] : self._first[to + 1]] -= (1 - _RESTART) * row
            matrix[state, 0] -= _RESTART

        # The value of the first state is 0 by definition: its column is for the rate.
        matrix[:, 0] = self._gap[self._place, self._policy]
        delays = self._delay[np.arange(states), self._policy]
        costs = np.stack([np.ones(states), delays], axis=1)
        solved = np.linalg.solve(matrix, costs)

        requests, delay = solved[0]
        values = price * solved[:, 0] + solved[:, 1]
        values[0] = 0.0
        cost = float(price * requests + delay)
        return Rates(cost, float(requests), float(delay)), values


def _ages(sources: list[Source], cycle: float, grid: Floats) -> Floats:
    """Return the seconds since the last window began, by source and place.

    A window that begins at the very moment counts as still to come.
    """
    ages = np.array([(grid - source.start) % cycle for source in sources])
    return np.where(ages < _SAME, cycle, ages)


def count_states(sources: list[Source], cycle: float, grid: Floats) -> int:
    """Return the number of states with this grid. The effort goes with its third power."""
    widths = np.array([[source.width] for source in sources])
    is_active = _ages(sources, cycle, grid) < widths - _SAME
    active = is_active.sum(axis=0)
    return int((1 << active).sum())


def _product(unseen: list[float]) -> Floats:
    """Return the distribution over subsets of the unseen sources.

    Bit i of an index is set if source i is in the subset.
    """
    result = np.ones(1)
    for chance in unseen:
        result = np.concatenate([result * (1 - chance), result * chance])
    return result
