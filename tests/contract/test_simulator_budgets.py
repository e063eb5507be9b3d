"""The simulator's two budgets: the minute and the month, by plan and by user."""

from __future__ import annotations

import calendar
import time
from typing import TYPE_CHECKING, Any

import pytest

from connector.devkit.simulator.settings import DEFAULT_KEY
from tests.support.simulated import EPOCH, Simulated, simulated

if TYPE_CHECKING:
    import httpx

SECOND_KEY = "bq_live_second"
OTHER_KEY = "bq_live_other"

# The whole month is spent by one order, and so is the minute.
CAP = 10_000


def figures(response: httpx.Response) -> dict[str, str]:
    """Return the headers of both budgets, by their last words."""
    found = {}
    for name, value in response.headers.items():
        if name.startswith(("x-ratelimit-", "x-quota-")):
            found[name.removeprefix("x-")] = value
    return found


async def spend_month(client: Simulated, requests: int) -> None:
    order = {"requests": requests, "budget": "month"}
    assert (await client.control("spend", order)).status_code == 200


async def used(client: Simulated) -> int:
    """Return the month's used requests in the next answer, itself included."""
    response = await client.levels()
    return int(response.headers["X-Quota-Used"])


@pytest.mark.parametrize(
    ("plan", "per_minute", "per_month"),
    [
        ("starter", 30, 10_000),
        ("standard", 60, 250_000),
        ("pro", 120, 1_000_000),
    ],
)
async def test_a_plan_sets_both_limits(
    plan: str, per_minute: int, per_month: int
) -> None:
    async with simulated(plan=plan) as client:
        response = await client.levels()
    assert figures(response) == {
        "ratelimit-limit": str(per_minute),
        "ratelimit-remaining": str(per_minute - 1),
        "ratelimit-reset": str(EPOCH + 60),
        "quota-limit": str(per_month),
        "quota-used": "1",
        "quota-remaining": str(per_month - 1),
        "quota-period": "202701",
    }
    assert response.json()["meta"]["rate_limit"] == {
        "limit": per_minute,
        "remaining": per_minute - 1,
        "reset": EPOCH + 60,
    }


@pytest.mark.parametrize(
    ("headers", "limit"),
    [("absent", None), ("text", "unlimited"), ("negative", "-1"), ("zero", "0")],
)
async def test_enterprise_has_no_cap(headers: str, limit: str | None) -> None:
    async with simulated(plan="enterprise", uncapped_quota=headers) as client:
        response = await client.levels()
    assert response.headers["X-RateLimit-Limit"] == "600"
    assert response.headers.get("X-Quota-Limit") == limit
    assert response.headers.get("X-Quota-Remaining") == limit


async def test_limits_of_ones_own_override_the_plan() -> None:
    limits = {"limit_per_minute": 10, "limit_per_month": 20}
    async with simulated(plan="starter", **limits) as client:
        response = await client.levels()
    assert response.headers["X-RateLimit-Limit"] == "10"
    assert response.headers["X-Quota-Limit"] == "20"


async def test_a_used_up_month_is_429_with_the_time_to_its_end() -> None:
    async with simulated(plan="starter") as client:
        await spend_month(client, CAP)
        response = await client.levels()
    assert response.status_code == 429
    assert response.headers["X-Quota-Remaining"] == "0"
    error = response.json()["error"]
    assert error["code"] == "RATE_LIMIT_EXCEEDED"
    assert error["message"] == "The monthly cap of 10000 is used up"
    february = calendar.timegm(time.strptime("2027-02-01", "%Y-%m-%d"))
    assert error["details"] == {"retry_after_seconds": february - EPOCH}
    assert response.headers["Retry-After"] == str(february - EPOCH)


async def test_a_used_up_minute_leaves_a_part_of_the_month() -> None:
    async with simulated(plan="starter") as client:
        await client.control("spend", {"requests": 30, "budget": "minute"})
        response = await client.levels()
    assert response.status_code == 429
    assert response.headers["X-Quota-Remaining"] == str(CAP)
    assert response.json()["error"] == {
        "code": "RATE_LIMIT_EXCEEDED",
        "message": "Rate limit exceeded. Try again in 60 seconds.",
        "details": {"retry_after_seconds": 60, "limit": "30 per 1 minute"},
    }


async def test_the_month_of_the_calendar_ends_at_midnight_utc_on_the_first() -> None:
    async with simulated(plan="starter") as client:
        await spend_month(client, CAP)
        february = calendar.timegm(time.strptime("2027-02-01", "%Y-%m-%d"))
        client.clock.seconds = february - 1
        assert (await client.levels()).status_code == 429
        client.clock.seconds = february
        response = await client.levels()
    assert response.status_code == 200
    assert response.headers["X-Quota-Period"] == "202702"
    assert response.headers["X-Quota-Used"] == "1"


async def test_a_short_month_rolls_over_to_the_next_name() -> None:
    async with simulated(plan="starter", month_seconds=1200) as client:
        await spend_month(client, CAP)
        client.clock.seconds += 1199
        refused = await client.levels()
        assert refused.headers["Retry-After"] == "1"
        client.clock.seconds += 1
        response = await client.levels()
        assert response.headers["X-Quota-Period"] == "202702"
        assert response.headers["X-Quota-Used"] == "1"
        client.clock.seconds += 11 * 1200
        response = await client.levels()
    assert response.headers["X-Quota-Period"] == "202801"


async def test_another_length_starts_a_month_at_once() -> None:
    async with simulated(plan="starter") as client:
        await spend_month(client, CAP)
        client.simulator.change(month_seconds=600)
        assert await used(client) == 1


async def test_the_keys_of_a_user_share_both_budgets_and_another_user_has_his_own() -> (
    None
):
    async with simulated(
        plan="starter", keys=[DEFAULT_KEY, SECOND_KEY], users={OTHER_KEY: "other"}
    ) as client:
        await client.levels()
        second = await client.levels(key=SECOND_KEY)
        other = await client.levels(key=OTHER_KEY)
    assert second.headers["X-RateLimit-Remaining"] == "28"
    assert second.headers["X-Quota-Used"] == "2"
    assert other.headers["X-RateLimit-Remaining"] == "29"
    assert other.headers["X-Quota-Used"] == "1"


async def test_the_minute_can_be_per_key_while_the_month_is_shared() -> None:
    async with simulated(
        plan="starter", keys=[DEFAULT_KEY, SECOND_KEY], minute_per="key"
    ) as client:
        await client.levels()
        second = await client.levels(key=SECOND_KEY)
    assert second.headers["X-RateLimit-Remaining"] == "29"
    assert second.headers["X-Quota-Used"] == "2"


@pytest.mark.parametrize(
    ("counted", "fault", "is_counted"),
    [
        ([], "503", False),
        (["5xx"], "503", True),
        ([], "404", False),
        (["4xx"], "404", True),
        (["5xx"], "404", False),
        (["429"], "429", True),
    ],
)
async def test_a_setting_decides_if_errors_count_against_the_month(
    counted: list[str], fault: str, is_counted: bool
) -> None:
    async with simulated(plan="starter", month_counts=counted) as client:
        client.fault(fault, count=1)
        response = await client.levels()
        assert response.headers["X-Quota-Used"] == str(int(is_counted))
        assert await used(client) == 1 + int(is_counted)


async def test_an_invalid_request_counts_only_if_4xx_do() -> None:
    async with simulated(plan="starter") as client:
        await client.levels("")
        assert await used(client) == 1
        client.simulator.change(month_counts=["4xx"])
        await client.levels("")
        assert await used(client) == 3


async def test_a_setting_decides_if_other_endpoints_count_against_the_month() -> None:
    async with simulated(plan="starter") as client:
        response = await client.get("status")
        assert response.headers["X-RateLimit-Remaining"] == "29"
        assert response.headers["X-Quota-Used"] == "0"
        client.simulator.change(month_counts=["siblings"])
        response = await client.get("status")
    assert response.headers["X-Quota-Used"] == "1"


async def test_a_401_has_no_figures_unless_it_is_set() -> None:
    async with simulated(plan="starter") as client:
        response = await client.levels(key="bq_live_wrong")
        assert response.status_code == 401
        assert figures(response) == {}
        assert "rate_limit" not in response.json()["meta"]
        client.simulator.change(limits_on_401=True)
        response = await client.levels(key="bq_live_wrong")
    assert response.headers["X-Quota-Used"] == "0"


async def test_a_plan_that_permits_nothing_is_403_with_figures() -> None:
    async with simulated(plan="starter", forbidden_keys=["bq_live_trial"]) as client:
        response = await client.levels(key="bq_live_trial")
    assert response.status_code == 403
    assert response.json()["error"]["message"] == "This plan has no API access"
    assert response.headers["X-Quota-Limit"] == "10000"


async def test_a_stricter_counter_can_stand_in() -> None:
    async with simulated(plan="standard") as client:
        client.fault("rate_limit_fallback", limit=2)
        statuses = []
        for _ in range(3):
            response = await client.levels()
            statuses.append(response.status_code)
            assert response.headers["X-RateLimit-Fallback"] == "true"
            assert response.headers["X-RateLimit-Limit"] == "2"
    assert statuses == [200, 200, 429]


async def test_the_fault_429_month_says_that_the_month_is_used_up() -> None:
    async with simulated(plan="standard") as client:
        client.fault("429_month")
        response = await client.levels()
    assert response.headers["X-Quota-Remaining"] == "0"
    assert response.headers["Retry-After"] == "2678400"
    assert response.json()["error"]["message"] == "The monthly cap of 250000 is used up"


@pytest.mark.parametrize(
    ("budget", "minute", "month"), [("both", 5, 5), ("minute", 5, 0), ("month", 0, 5)]
)
async def test_another_program_can_spend_one_budget_or_both(
    budget: str, minute: int, month: int
) -> None:
    async with simulated(plan="starter") as client:
        response = await client.control("spend", {"requests": 5, "budget": budget})
        quota: dict[str, Any] = response.json()["quota"]
        assert (quota["minute_used"], quota["month_used"]) == (minute, month)
        wrong = await client.control("spend", {"budget": "year"})
    assert wrong.status_code == 400
    assert "month" in wrong.json()["error"]
