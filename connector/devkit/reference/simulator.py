"""Write `docs/reference/simulator.md` from the simulator's settings, plans and faults."""

from __future__ import annotations

import json
from typing import Any, Final, get_type_hints

import msgspec

from connector.devkit.simulator.command import OPTIONS
from connector.devkit.simulator.fault_list import listed_faults
from connector.devkit.simulator.faults import FIRST_ENTRY_ONLY
from connector.devkit.simulator.hints import describe_hint
from connector.devkit.simulator.plans import PLANS
from connector.devkit.simulator.settings import Settings

# Options with a form of their own.
_MORE_OPTIONS: Final = {"symbols": "--symbols", "keys": "--key"}

_INTRODUCTION: Final = """\
# The simulated API

<!-- Generated from connector/devkit/simulator. -->

`gex-connector simulate --listen 127.0.0.1:8080` answers as the vendor's API does, contract 2.10 or 2.0: `/multi/gex/levels`,
`/symbols`, `/status`, `/meta`, `/changelog`, `/health` and `/openapi.json`, with or without `/v2`. Send the key in
the header `X-API-Key`. There is no WebSocket and there are no past levels. Chance is seeded, so the same settings show the same
market. `--listen '[::1]:8080'` listens on an IPv6 address.

```
curl -H "X-API-Key: bq_live_simulator00000000000000000000000" 'http://127.0.0.1:8080/v2/multi/gex/levels?symbols=BTCUSDT'
```

## A past day

`--replay FILE` shows a past day instead of an invented market: the complete events that `gex-connector history --json` has printed,
also compressed by gzip. The day begins when the simulator starts, with moments of the present; `--speed 10` shows it ten times as
fast. Each entry appears at its `computed_at`. Refreshes that changed nothing made no event, so they are added every 30 s while
the symbol was `LIVE`. Symbols that were `MISSING` or `INVALID` are `missing`. After the end of the day nothing is computed any more.
Venue filters and models are those of the day, whatever a request asks for; so are sections, as far as it asks for them. Faults
apply, except `freeze`.

```
gex-connector history --feed all --since 2026-11-25 --until 2026-11-26 --json | gzip > day.jsonl.gz
gex-connector simulate --replay day.jsonl.gz --speed 10
```

## Control

`/_control` steers a running simulator. It asks for no key: listen on loopback, or trust the network.

| request | effect |
|---|---|
| `GET /_control/stats` | requests by status and by endpoint, both budgets of the first key's user, active faults |
| `GET /_control/truth?since=CURSOR&contents=1` | every refresh and every answer after a cursor (the `cursor` of an earlier answer), and the entries shown, by SHA-256 |
| `POST /_control/set` | change settings |
| `POST /_control/faults` | arm a fault, or a list of faults |
| `DELETE /_control/faults` | disarm all faults, release held requests, and empty the cache of `cached` |
| `POST /_control/spend` | use up requests as another program would: `requests`, `key`, `budget` (`both`, `minute` or `month`) |

```
curl -d '{"plan": "starter", "month_seconds": 1200}' http://127.0.0.1:8080/_control/set
curl -d '{"fault": "flow_fallback", "symbols": ["BTCUSDT"], "for_seconds": 90}' http://127.0.0.1:8080/_control/faults
curl -d '{"fault": "firewall", "probability": 0.1}' http://127.0.0.1:8080/_control/faults
curl -d '{"fault": "503", "endpoint": "status", "count": 1}' http://127.0.0.1:8080/_control/faults
curl -X DELETE http://127.0.0.1:8080/_control/faults
curl -d '{"requests": 9990, "budget": "month"}' http://127.0.0.1:8080/_control/spend
```

`set`, `faults` and `spend` answer with what `stats` shows. The simulator logs each request with status, duration and the faults
that struck it, and each order of `/_control`; `--quiet` leaves that out. [The fire drill](../how-to/fire-drill.md) shows what a worker makes
of the faults.

## Plans

Budgets are per user. The settings `limit_per_minute` and `limit_per_month` override those of a plan."""

_SETTINGS: Final = """\
## Settings

Set them with an option of the command, with `--set NAME=VALUE` (JSON or a text), or with `POST /_control/set`.

| setting | values | default | option | meaning |
|---|---|---|---|---|"""

_FAULTS: Final = """\
## Faults

`gex-connector simulate --list-faults` prints this table. Every fault takes `for_seconds`, `count`, `probability`, `symbols` (strike requests for one of them, and spoil only
their entries) and `endpoint` (default `levels`). In the file of `--script`, each table `[[faults]]` can also have
`at_seconds`. Faults can be combined; they are applied in the order of this table. Without `symbols`, the faults
{first_only} spoil only the first entry.

| fault | parameters | effect |
|---|---|---|"""


def simulator_reference() -> str:
    """Return the content of `docs/reference/simulator.md`."""
    parts = [_INTRODUCTION, _plans(), _settings(), _faults()]
    return "\n\n".join(parts) + "\n"


def _plans() -> str:
    rows = ["| plan | requests a minute | requests a month |", "|---|---|---|"]
    for name, plan in PLANS.items():
        cap = f"{plan.per_month:,}" if plan.per_month else "no cap"
        rows.append(f"| `{name}` | {plan.per_minute} | {cap} |")
    return "\n".join(rows)


def _settings() -> str:
    rows = [_SETTINGS]
    hints = get_type_hints(Settings, include_extras=True)
    for field in msgspec.structs.fields(Settings):
        option = _MORE_OPTIONS.get(field.name, "")
        if field.name in OPTIONS:
            option = OPTIONS[field.name][0]
        cells = [
            f"`{field.name}`",
            describe_hint(hints[field.name], "`"),
            f"`{_shown(field.default_factory, field.default)}`",
            f"`{option}`" if option else "",
            _description(hints[field.name]),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _shown(default_factory: Any, default: Any) -> str:
    if default_factory is not msgspec.NODEFAULT:
        default = default_factory()
    return json.dumps(default)


def _description(hint: Any) -> str:
    """Return the description of an annotation; the outermost one has it."""
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, msgspec.Meta) and extra.description:
            return extra.description
    return ""


def _faults() -> str:
    first_only = ", ".join(f"`{name}`" for name in sorted(FIRST_ENTRY_ONLY))
    rows = [_FAULTS.format(first_only=first_only)]
    for fault in listed_faults("`"):
        rows.append(f"| `{fault.name}` | {fault.parameters} | {fault.effect} |")
    return "\n".join(rows)
