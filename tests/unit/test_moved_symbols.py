"""`verify` infers from the records how many partitions a topic had before."""

from __future__ import annotations

import pytest

from connector.kafka.names import partition_of
from connector.tools.moved_symbols import (
    MovedSymbols,
    earlier_counts,
    follows_additions,
)

SYMBOL = "XRPUSDT"
BEFORE, AFTER = 6, 9
OLD, NEW = partition_of(SYMBOL, BEFORE), partition_of(SYMBOL, AFTER)


def test_earlier_counts_explain_one_or_two_additions_but_not_any_place() -> None:
    symbols = [f"S{number}" for number in range(30)]
    once = {(symbol, partition_of(symbol, 6)) for symbol in symbols}
    assert earlier_counts(once, 12) == (6,)

    for number, symbol in enumerate(symbols):
        if number % 2:
            once.add((symbol, partition_of(symbol, 9)))
    assert earlier_counts(once, 12) == (6, 9)

    anywhere = {(symbol, number % 12) for number, symbol in enumerate(symbols)}
    assert earlier_counts(anywhere, 12) is None


@pytest.mark.parametrize(
    ("path", "follows"),
    [
        ([OLD, NEW], True),
        ([OLD], True),
        ([NEW], True),
        # Nobody writes to the former partition again.
        ([NEW, OLD], False),
        ([OLD, NEW, OLD], False),
        ([OLD, AFTER - 1], False),
    ],
)
def test_a_symbol_moves_once_for_each_addition(path: list[int], follows: bool) -> None:
    assert OLD != NEW
    assert AFTER - 1 not in {OLD, NEW}

    assert follows_additions(SYMBOL, path, (BEFORE, AFTER)) is follows


def test_a_record_that_came_back_to_a_former_partition_is_a_fault() -> None:
    moved = MovedSymbols()
    moved.add(SYMBOL, OLD, "misplaced")

    moved.set_path(SYMBOL, [OLD, NEW])
    judgement = moved.judge(AFTER)
    assert judgement.moved == (SYMBOL,)
    assert judgement.faults == ()

    moved.set_path(SYMBOL, [NEW, OLD])
    judgement = moved.judge(AFTER)
    assert judgement.moved == ()
    assert judgement.faults == ("misplaced",)


def test_nothing_to_judge_is_no_fault() -> None:
    judgement = MovedSymbols().judge(AFTER)

    assert judgement.moved == ()
    assert judgement.faults == ()
