"""Findings of `gex-connector verify`: printed as they come, or as JSON at the end."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Final

import msgspec

from connector.config.secrets import printable

# A systematic fault shows in the first few; the rest are counted only.
_MAX_PRINTED_FAULTS: Final = 20


@dataclass(slots=True)
class Totals:
    """Counts of the records read and the faults found in all feeds.

    With `as_json`, the first faults are kept for the summary instead of printed.
    """

    events: int = 0
    states: int = 0
    symbols: int = 0
    faults: int = 0
    strays: int = 0
    as_json: bool = False
    first_faults: list[str] = field(default_factory=list)
    first_strays: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_fault(self, fault: str) -> None:
        """Count a fault, and print or keep it if it is among the first."""
        self.faults += 1
        if self.faults > _MAX_PRINTED_FAULTS:
            return
        if self.as_json:
            self.first_faults.append(printable(fault))
        else:
            sys.stdout.write(f"{printable(fault)}\n")

    def add_stray(self, stray: str) -> None:
        """Count a record of another program, and print or keep it if it is among the first."""
        self.strays += 1
        if self.strays > _MAX_PRINTED_FAULTS:
            return
        if self.as_json:
            self.first_strays.append(printable(stray))
        else:
            sys.stdout.write(f"stray record: {printable(stray)}\n")

    def add_note(self, note: str) -> None:
        """Print or keep a finding that is no fault."""
        if self.as_json:
            self.notes.append(printable(note))
        else:
            sys.stdout.write(f"note: {printable(note)}\n")

    def print_summary(self, feeds: list[str]) -> None:
        """Print the verdict and the counts: the last line, or one JSON object."""
        if self.as_json:
            self._print_json(feeds)
            return
        hidden = self.faults - _MAX_PRINTED_FAULTS
        if hidden > 0:
            sys.stdout.write(f"... and {hidden} more\n")
        hidden = self.strays - _MAX_PRINTED_FAULTS
        if hidden > 0:
            sys.stdout.write(f"... and {hidden} more stray records\n")

        verdict = "FAULTY" if self.faults else "ok"
        records = f"{self.events} events and {self.states} states"
        strays = ""
        if self.strays:
            strays = f", {self.strays} stray records (operations, Stray records)"
        sys.stdout.write(
            f"{verdict}: {records} of {self.symbols} symbols in {len(feeds)} feed(s); "
            f"{self.faults} faults{strays}\n"
        )

    def _print_json(self, feeds: list[str]) -> None:
        summary = {
            "ok": self.faults == 0,
            "feeds": feeds,
            "events": self.events,
            "states": self.states,
            "symbols": self.symbols,
            "faults": self.faults,
            "first_faults": self.first_faults,
            "strays": self.strays,
            "first_strays": self.first_strays,
            "notes": self.notes,
        }
        sys.stdout.write(f"{msgspec.json.encode(summary).decode()}\n")
