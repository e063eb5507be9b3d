"""Checks of `gex-connector check` that the upstream answers each feed's requests as asked."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final

from connector.core.venues import VENUES, require_venues, unknown_venues
from connector.errors import (
    NothingFound,
    PlanRefused,
    RequestRefused,
    UpstreamError,
    WrongVenues,
)
from connector.tools.check_requests import remedy_of_refusal, request_of_this_minute
from connector.upstream.client import LevelsRequest

if TYPE_CHECKING:
    from connector.config.model import Config, Feed
    from connector.core.decode import ResponseMeta
    from connector.tools.report import Report
    from connector.upstream.budget import Budget
    from connector.upstream.client import Client, LevelsAnswer

# Each different request of a further feed is one of the month.
_MAX_REQUESTS: Final = 3

_OTHER_PLAN: Final = (
    "change include, exchanges or positioning of the feed, or get another plan"
)


async def check_feeds(
    config: Config,
    client: Client,
    budget: Budget,
    answer: LevelsAnswer,
    report: Report,
) -> None:
    """Try the requests of the feeds, and compare the venues in the responses with theirs.

    `answer` is a response to the first feed. A feed that asks for the same as one before
    needs no request.
    """
    first, *others = config.feeds
    for feed in config.feeds:
        _warn_of_unknown_names(feed, report)
    _check_filter(first, answer.response.meta, report)

    checked = {_selection(first)}
    requests = 0
    for feed in others:
        selection = _selection(feed)
        if selection in checked:
            continue
        if requests == _MAX_REQUESTS:
            report.warn("venues", f"feed {feed.name} and later ones: not tried")
            return
        checked.add(selection)
        requests += 1
        await _check_feed(feed, client, budget, report)


def _selection(feed: Feed) -> object:
    """Return the parts of a feed's requests besides the symbols."""
    return frozenset(feed.exchanges), frozenset(feed.include), feed.positioning


async def _check_feed(
    feed: Feed, client: Client, budget: Budget, report: Report
) -> None:
    # One symbol is enough: the selection concerns the whole response.
    request = LevelsRequest(
        feed.symbols[:1], feed.exchanges, feed.include, feed.positioning
    )
    try:
        async with request_of_this_minute(budget) as permit:
            answer = await client.fetch_levels(request, permit)
    except TimeoutError:
        report.warn("venues", f"feed {feed.name}: no request is left this minute")
    except PlanRefused as error:
        report.fail("plan", f"feed {feed.name}: {error}; {_OTHER_PLAN}")
    except NothingFound as error:
        report.warn("venues", f"feed {feed.name}: not tried: {error}")
    except RequestRefused as error:
        remedy = remedy_of_refusal(error, feed.name)
        report.fail("request", f"feed {feed.name}: {error}; {remedy}")
    except UpstreamError as error:
        report.warn("venues", f"feed {feed.name}: not tried: {error}")
    else:
        _check_filter(feed, answer.response.meta, report)


def _warn_of_unknown_names(feed: Feed, report: Report) -> None:
    for name in unknown_venues(feed.exchanges):
        close = difflib.get_close_matches(name, VENUES, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        report.warn(
            "venues",
            f"feed {feed.name}: {name} is not among the known venues "
            f"({', '.join(VENUES)}){hint}",
        )


def _check_filter(feed: Feed, meta: ResponseMeta, report: Report) -> None:
    try:
        require_venues(feed.exchanges, meta)
    except WrongVenues as error:
        report.fail(
            "venues",
            f"feed {feed.name}: {error}; nothing of it will be published. Check exchanges: "
            "the upstream ignores names that it does not know, and a cache may ignore the "
            "filter",
        )
        return
    if not feed.exchanges:
        return
    if meta.venue_filter is None:
        report.warn(
            "venues",
            f"feed {feed.name}: the upstream does not say which venues it used, so workers "
            "cannot compare them",
        )
        return
    report.ok("venues", f"feed {feed.name}: {', '.join(sorted(meta.venue_filter))}")
