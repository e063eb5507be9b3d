"""Read the figures in the headers of a reply: limits, times and waits."""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from connector.core.decode import Quota, RateLimit
from connector.core.model import MICROS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connector.core.decode import ResponseMeta

# A server that asks for more is probably mistaken: try again after an hour.
_MAX_RETRY_AFTER_SECONDS: Final = 3600

# Date is in whole seconds, and a proxy may write it. A window of requests has 60.
_MAX_DISAGREEMENT_SECONDS: Final = 5

# Enough for Unix seconds. Python refuses to convert thousands of digits.
_MAX_DIGITS: Final = 12

_PERIOD: Final = re.compile(r"[0-9]{6}")


def rate_limit(headers: Mapping[str, str], meta: ResponseMeta | None) -> RateLimit:
    """Return the server's figures, each from its header or else from the body."""
    in_body = RateLimit() if meta is None else meta.rate_limit
    limit = _whole_number(headers.get("x-ratelimit-limit"))
    if limit is None:
        limit = in_body.limit
    remaining = _whole_number(headers.get("x-ratelimit-remaining"))
    if remaining is None:
        remaining = in_body.remaining
    reset_at: float | None = _whole_number(headers.get("x-ratelimit-reset"))
    if reset_at is None:
        reset_at = in_body.reset_at_seconds
    return RateLimit(limit, remaining, reset_at)


def has_fallback_limit(headers: Mapping[str, str]) -> bool:
    """Return True if a stricter counter stands in for the server's usual one."""
    return headers.get("x-ratelimit-fallback", "").strip().lower() == "true"


def quota(headers: Mapping[str, str]) -> Quota:
    """Return the server's figures of the month.

    Plans without a cap send none, a text such as `unlimited`, or a limit of 0: a plan that
    permits nothing would be refused. What remains of such a limit says nothing either.
    """
    limit = _whole_number(headers.get("x-quota-limit"))
    used = _whole_number(headers.get("x-quota-used"))
    remaining = _whole_number(headers.get("x-quota-remaining"))
    if limit == 0:
        limit = remaining = None
    if remaining is None and limit is not None and used is not None:
        # A server that has counted beyond the limit may show less than nothing.
        remaining = max(limit - used, 0)

    period = headers.get("x-quota-period", "")
    is_period = _PERIOD.fullmatch(period) is not None
    return Quota(limit, used, remaining, period if is_period else None)


def server_time(headers: Mapping[str, str], meta: ResponseMeta | None) -> float | None:
    """Return the server's clock (Unix seconds) from the body or the Date header.

    If they disagree, one of two servers has a wrong clock: the one closer to ours is right.
    """
    in_header = _http_date(headers.get("date", ""))
    if meta is None or not meta.server_at:
        return in_header
    in_body = meta.server_at / MICROS
    if in_header is None or abs(in_header - in_body) <= _MAX_DISAGREEMENT_SECONDS:
        return in_body
    ours = time.time()
    return min(in_body, in_header, key=lambda moment: abs(moment - ours))


def retry_after_seconds(
    headers: Mapping[str, str], details: Mapping[str, Any]
) -> float | None:
    """Return the seconds to wait: the smaller of those in the header and the refusal.

    The header holds seconds or a date (RFC 9110, section 10.2.3). If both are present and
    differ, a proxy has often rewritten one; asking too early costs a request, waiting too
    long costs levels.
    """
    text = headers.get("retry-after", "")
    in_header: float | None = _whole_number(text)
    if in_header is None:
        until = _http_date(text)
        if until is not None:
            # The server's clock counts: ours may be wrong by more than the wait.
            server_at = _http_date(headers.get("date", ""))
            in_header = until - (time.time() if server_at is None else server_at)

    waits = [] if in_header is None else [in_header]
    in_body = details.get("retry_after_seconds")
    if isinstance(in_body, int | float):
        waits.append(in_body)
    if not waits:
        return None
    return float(min(max(min(waits), 0), _MAX_RETRY_AFTER_SECONDS))


def _whole_number(text: str | None) -> int | None:
    if text is None or len(text) > _MAX_DIGITS:
        return None
    # `int` alone accepts signs, underscores and digits of other scripts.
    has_only_digits = text.isascii() and text.isdigit()
    return int(text) if has_only_digits else None


def _http_date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
