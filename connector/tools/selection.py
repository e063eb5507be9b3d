"""The options `--feed` and `--symbol` of the commands that read the topics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connector.config.values import symbols_typed

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable


def add_selection_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--feed", help="show this feed only")
    parser.add_argument(
        "--symbol",
        action="append",
        default=[],
        help="show this symbol only; repeatable",
    )


def selected_symbols(texts: Iterable[str]) -> frozenset[str]:
    """Return the symbols that each text can mean, as it was typed."""
    symbols: set[str] = set()
    for text in texts:
        symbols.update(symbols_typed(text))
    return frozenset(symbols)
