"""The budget of the month: what is left is spread over the time that is left."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf
from typing import Final

import pytest

from connector.core.decode import Quota, RateLimit
from connector.upstream.budget import Budget, Month
from connector.upstream.budget.month import calendar_month

DAY: Final = 86_400.0
# The moment 0 of the monotonic clock in these tests.
NOVEMBER: Final = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
DECEMBER: Final = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
END_OF_NOVEMBER: Final = DECEMBER - NOVEMBER


def november(limit: int, used: int) -> Quota:
    return Quota(limit, used, max(limit - used, 0), "202611")


def new_month(cap: int | None = None) -> Month:
    return Month(cap, wall_minus_monotonic=NOVEMBER)


def learn(month: Month, quota: Quota, now: float) -> None:
    month.learn(quota, 0, NOVEMBER + now, now)


@pytest.mark.parametrize(
    ("name", "at", "start", "end"),
    [
        ("202611", NOVEMBER, "2026-11-01", "2026-12-01"),
        ("202612", NOVEMBER, "2026-12-01", "2027-01-01"),
        (None, NOVEMBER + 5 * DAY, "2026-11-01", "2026-12-01"),
        ("202613", NOVEMBER, "2026-11-01", "2026-12-01"),
        ("999912", NOVEMBER, "2026-11-01", "2026-12-01"),
        (None, 1e18, "2106-02-01", "2106-03-01"),
    ],
)
def test_a_month_ends_at_midnight_utc_on_the_first(
    name: str | None, at: float, start: str, end: str
) -> None:
    period = calendar_month(name, at)

    starts_at = datetime.fromtimestamp(period.starts_at, UTC)
    ends_at = datetime.fromtimestamp(period.ends_at, UTC)
    assert starts_at.isoformat() == f"{start}T00:00:00+00:00"
    assert ends_at.isoformat() == f"{end}T00:00:00+00:00"


def test_the_rest_of_the_month_is_spread_over_the_time_that_is_left() -> None:
    month = new_month()
    assert month.per_minute(0.0) == inf

    learn(month, november(10_000, 0), 0.0)
    assert month.per_minute(0.0) == pytest.approx(0.98 * 10_000 / (30 * 1440))

    learn(month, november(10_000, 9_000), 20 * DAY)
    assert month.per_minute(20 * DAY) == pytest.approx(0.98 * 1_000 / (10 * 1440))


@pytest.mark.parametrize(
    "quota", [Quota(), Quota(None, 5_000_000, None, "202611"), Quota(period="202611")]
)
def test_a_plan_without_a_cap_has_no_budget_of_the_month(quota: Quota) -> None:
    month = new_month()
    learn(month, quota, 0.0)

    assert month.per_minute(0.0) == inf
    assert month.wait_seconds(0.0) == 0
    assert not month.figures(0.0).is_used_up


def test_requests_of_other_programs_leave_less_for_us() -> None:
    month = new_month()
    learn(month, november(250_000, 0), 0.0)
    # In a tenth of a day, the other program sends 1,000 and we send 500.
    for _ in range(500):
        month.start(1.0, 1.0)
    at = DAY / 10
    learn(month, november(250_000, 1_500), at)

    rest = END_OF_NOVEMBER - at
    theirs = 1_000 / at
    ours = 248_500 / rest - theirs
    # They spend more than the plan allows: a quarter of an even pace is ours.
    assert ours < 0
    least = 0.98 * 248_500 / rest / 4 * 60
    assert month.per_minute(at) == pytest.approx(least)

    # On the next days they send a tenth of that.
    at = 3 * DAY
    learn(month, november(250_000, 4_500), at - DAY)
    learn(month, november(250_000, 5_500), at)
    even = 244_500 / (END_OF_NOVEMBER - at)
    assert month.per_minute(at) == pytest.approx(0.98 * 60 * (even - 1_000 / DAY))


def test_siblings_are_not_taken_for_other_programs() -> None:
    month = new_month()
    learn(month, november(250_000, 0), 0.0)
    # We own a half, and both halves have sent the same.
    for _ in range(500):
        month.start(0.5, 1.0)
    learn(month, november(250_000, 1_000), DAY)

    even = 249_000 / (29 * 1440)
    assert month.per_minute(DAY) == pytest.approx(0.98 * even)


def test_workers_share_the_month_as_they_share_the_minute() -> None:
    month = new_month()
    budget = Budget(None, month=month)
    permit = budget.start(0.0)
    budget.end(0.0)
    budget.learn(permit, RateLimit(60, 59, NOVEMBER + 60), NOVEMBER, 0.0)
    budget.learn_month(permit, november(10_000, 1), NOVEMBER, 0.0)
    whole = budget.spending(0.0).planned_per_minute
    assert whole == pytest.approx(month.per_minute(0.0))

    budget.set_share(0.25)

    assert budget.spending(0.0).planned_per_minute == pytest.approx(whole / 4)


def test_an_ample_month_leaves_the_plan_to_the_minute() -> None:
    budget = Budget(None, month=new_month())
    permit = budget.start(0.0)
    budget.end(0.0)
    budget.learn(permit, RateLimit(6, 5, NOVEMBER + 60), NOVEMBER, 0.0)
    budget.learn_month(permit, november(1_000_000, 1), NOVEMBER, 0.0)

    assert budget.spending(0.0).planned_per_minute == pytest.approx(0.9 * 6)


def test_nothing_is_sent_beyond_the_last_request_but_a_rare_probe() -> None:
    month = new_month()
    learn(month, november(10_000, 9_998), 0.0)
    month.start(1.0, 1.0)
    assert month.wait_seconds(1.0) == 0
    month.start(1.0, 2.0)
    assert month.wait_seconds(2.0) > 0

    learn(month, november(10_000, 10_000), 3.0)
    learn(month, november(10_000, 10_000), 5_000.0)
    assert month.figures(5_000.0).is_used_up
    assert month.wait_seconds(5_000.0) == pytest.approx(1_800)
    # The probe is refused, and the next one is as rare.
    assert month.wait_seconds(6_800.0) == 0
    month.start(1.0, 6_800.0)
    assert month.wait_seconds(6_800.0) == pytest.approx(1_800)


def test_requests_in_flight_may_be_the_last_ones_of_the_month() -> None:
    month = new_month()
    for _ in range(3):
        month.start(1.0, 0.0)
    # The first answer comes. The server may not have counted the other two yet.
    month.learn(november(10_000, 9_998), 2, NOVEMBER, 0.0)
    assert month.wait_seconds(0.0) > 1_000

    month.learn(november(10_000, 9_998), 1, NOVEMBER, 1.0)
    assert month.wait_seconds(1.0) == 0


def test_a_larger_plan_ends_the_wait_with_the_next_probe() -> None:
    month = new_month()
    learn(month, november(10_000, 10_000), DAY)
    learn(month, november(250_000, 10_000), DAY + 1_800)

    assert month.wait_seconds(DAY + 1_800) == 0
    assert not month.figures(DAY + 1_800).is_used_up


def test_a_new_key_ends_the_wait_at_once() -> None:
    budget = Budget(None, month=new_month())
    permit = budget.start(0.0)
    budget.end(0.0)
    budget.learn_month(permit, november(10_000, 10_000), NOVEMBER, 0.0)
    assert budget.spending(1.0).wait_seconds > 1_000

    budget.resume_with_new_key()

    assert budget.spending(1.0).wait_seconds == 0
    assert not budget.spending(1.0).month.is_used_up


def test_the_next_month_begins_at_its_time() -> None:
    month = new_month()
    learn(month, november(10_000, 10_000), END_OF_NOVEMBER - 600)
    assert month.wait_seconds(END_OF_NOVEMBER - 60) == pytest.approx(60)

    assert month.wait_seconds(END_OF_NOVEMBER) == 0
    figures = month.figures(END_OF_NOVEMBER)
    assert (figures.used, figures.remaining) == (0, 10_000)
    planned = month.per_minute(END_OF_NOVEMBER)
    assert planned == pytest.approx(0.98 * 10_000 / (31 * 1440))


def test_a_server_that_is_late_with_the_new_month_is_asked_once_a_minute() -> None:
    month = new_month()
    learn(month, november(10_000, 10_000), END_OF_NOVEMBER - 600)
    now = END_OF_NOVEMBER + 1
    month.start(1.0, now)
    learn(month, november(10_000, 10_000), now)

    assert month.wait_seconds(now) == pytest.approx(60)
    learn(month, Quota(10_000, 1, 9_999, "202612"), now + 60)
    assert month.wait_seconds(now + 60) == 0


def test_a_late_answer_of_the_month_before_changes_nothing() -> None:
    month = new_month()
    learn(month, Quota(10_000, 1, 9_999, "202612"), END_OF_NOVEMBER + 1)
    learn(month, november(10_000, 9_000), END_OF_NOVEMBER + 2)

    assert month.figures(END_OF_NOVEMBER + 2).remaining == 9_999


def test_an_own_cap_is_a_limit_below_the_servers() -> None:
    month = new_month(cap=1_000)
    learn(month, november(10_000, 400), 0.0)
    assert month.figures(0.0).remaining == 600

    learn(month, november(10_000, 1_000), DAY)
    # The operator's word needs no probe.
    assert month.wait_seconds(DAY) == pytest.approx(29 * DAY)
    assert month.figures(DAY).is_used_up


def test_an_own_cap_counts_our_requests_if_the_server_counts_none() -> None:
    month = new_month(cap=10)
    for _ in range(9):
        month.start(1.0, DAY)
    assert month.wait_seconds(DAY) == 0
    month.start(1.0, DAY)

    assert month.wait_seconds(DAY) == pytest.approx(29 * DAY)
    assert month.figures(DAY).is_used_up
    assert month.wait_seconds(END_OF_NOVEMBER) == 0


def test_an_own_cap_counts_an_even_pace_before_the_start_as_used() -> None:
    month = new_month(cap=900)

    assert month.figures(20 * DAY).remaining == 300
    assert month.per_minute(20 * DAY) == pytest.approx(0.98 * 900 / (30 * 1440))
    # The server's count is the truth.
    learn(month, Quota(None, 100, None, "202611"), 20 * DAY)
    assert month.figures(20 * DAY).remaining == 800

    # The next month has all of it.
    month = new_month(cap=900)
    month.start(1.0, 20 * DAY)
    assert month.figures(END_OF_NOVEMBER).remaining == 900


@pytest.mark.parametrize("life_seconds", [DAY, 11 * DAY])
def test_an_own_cap_holds_over_restarts_although_the_server_counts_nothing(
    life_seconds: float,
) -> None:
    sent = 0
    now = 0.0
    while now < END_OF_NOVEMBER:
        month = new_month(cap=3_000)
        dies_at = min(now + life_seconds, END_OF_NOVEMBER)
        while now < dies_at:
            month.start(1.0, now)
            sent += 1
            now += max(60 / month.per_minute(now), month.wait_seconds(now))
        # The next one sends its first request at once.
        now = dies_at

    assert 2_900 <= sent <= 3_000


def test_an_own_cap_holds_for_a_plan_that_has_none() -> None:
    month = new_month(cap=1_000)
    learn(month, Quota(None, 900, None, "202611"), 0.0)

    assert month.figures(0.0).remaining == 100


def test_answers_without_figures_change_nothing() -> None:
    month = new_month()
    learn(month, november(10_000, 10_000), 0.0)
    # A firewall answers, and its clock is an hour off.
    month.learn(Quota(), 0, NOVEMBER + 40 * DAY, 10.0)

    assert month.wait_seconds(10.0) > 1_000


def test_a_server_clock_outside_of_the_named_month_is_not_believed() -> None:
    month = new_month()
    # A body from a cache, or a clock that is off: `at` is in January.
    month.learn(november(10_000, 0), 0, NOVEMBER + 70 * DAY, 10 * DAY)

    assert month.figures(10 * DAY).remaining == 10_000
    planned = month.per_minute(10 * DAY)
    assert planned == pytest.approx(0.98 * 10_000 / (20 * 1440))


def test_a_month_far_in_the_future_is_not_believed() -> None:
    month = new_month()
    learn(month, Quota(10_000, 0, 10_000, "203001"), 0.0)
    learn(month, november(10_000, 1_000), DAY)

    figures = month.figures(DAY)
    assert figures.used == 1_000
    assert figures.resets_at == DECEMBER


def test_one_wrong_clock_does_not_end_the_month() -> None:
    month = new_month()
    unnamed = Quota(10_000, 1_000, 9_000, None)
    learn(month, unnamed, 0.0)
    month.learn(unnamed, 0, NOVEMBER + 70 * DAY, 1.0)
    learn(month, Quota(10_000, 1_002, 8_998, None), 2.0)

    figures = month.figures(2.0)
    assert figures.used == 1_002
    assert figures.resets_at == DECEMBER


def test_the_projected_end_follows_the_pace_of_everybody() -> None:
    month = new_month()
    learn(month, november(10_000, 0), 0.0)
    assert month.figures(0.0).projected_end_at is None

    learn(month, november(10_000, 1_000), DAY)
    projected = month.figures(DAY).projected_end_at
    assert projected == pytest.approx(NOVEMBER + 10 * DAY)


def test_a_month_of_an_even_pace_lasts_until_its_end() -> None:
    """Spend as planned, in steps, beside a program that spends a third of it."""
    month = new_month()
    used = 0.0
    now = 0.0
    ours = 0
    while now < END_OF_NOVEMBER - 3_600:
        learn(month, november(10_000, int(used)), now)
        gap = 60 / month.per_minute(now)
        month.start(1.0, now)
        ours += 1
        others = 10_000 / 3 * gap / END_OF_NOVEMBER
        used += 1 + others
        now += gap

    assert used <= 10_000
    assert ours == pytest.approx(10_000 * 2 / 3, rel=0.1)


class MonthWorker:
    """Sends its requests as its share of the month is planned, and nothing else."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.month = new_month()
        self.sent = 0
        self.next_at = 0.0

    def send(self, used: int, now: float) -> None:
        """Count a request, and learn from its answer that `used` are spent by now."""
        self.month.start(self.share, now)
        self.sent += 1
        learn(self.month, november(10_000, used), now)
        gap = 60 / (self.share * self.month.per_minute(now))
        self.next_at = now + max(gap, self.month.wait_seconds(now))


@pytest.mark.parametrize("others", [0, 3_333])
def test_two_workers_of_which_one_dies_make_the_month_last_for_everybody(
    others: int,
) -> None:
    workers = [MonthWorker(0.5), MonthWorker(0.5)]
    ours = 0
    now = 0.0
    while True:
        # The second one dies on the tenth day. The first one takes over its shards.
        if now > 10 * DAY and len(workers) > 1:
            workers.pop()
            workers[0].share = 1.0
        worker = min(workers, key=lambda each: each.next_at)
        now = worker.next_at
        if now >= END_OF_NOVEMBER:
            break
        ours += 1
        used = ours + int(others * now / END_OF_NOVEMBER)
        # The server would refuse the next one.
        assert used <= 10_000
        worker.send(used, now)

    assert ours + others == pytest.approx(10_000, rel=0.1)
