"""Answers about one symbol, by nodes that differ, and the values that are news."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from connector.core.diff import Rules
from connector.core.model import AllExpiry, Entry, Levels
from connector.runtime.refresh_values import RefreshValues
from tests.support.levels import NOW
from tests.support.profiles import cases

SYMBOL = "BTCUSDT"
LASTING_ANSWERS = 3


class Answer(NamedTuple):
    """The model and the flip of an answer, and how many refreshes have passed before it."""

    model: str
    hvl: int
    refreshes: int = 0


answers = st.lists(
    st.builds(
        Answer,
        model=st.sampled_from(["flow", "std", "mixed"]),
        hvl=st.integers(1, 3),
        # Nodes answer about the same refresh more often than not.
        refreshes=st.sampled_from([0, 0, 0, 1]),
    ),
    max_size=40,
)


def published(sequence: list[Answer]) -> list[bool]:
    """Return, for each answer, if it is news. A value equal to the latest one is, too."""
    values = RefreshValues(Rules())
    verdicts = []
    computed_at = NOW
    for answer in sequence:
        computed_at += answer.refreshes
        levels = Levels(all_expiry=AllExpiry(hvl=answer.hvl), positioning=answer.model)
        entry = Entry(levels, computed_at)
        verdicts.append(not values.is_flapping(SYMBOL, entry))
    return verdicts


@given(answers)
@cases(200)
def test_the_first_answer_of_a_refresh_and_of_a_model_in_it_is_news(
    sequence: list[Answer],
) -> None:
    seen: set[str] = set()
    for answer, is_news in zip(sequence, published(sequence), strict=True):
        if answer.refreshes:
            seen.clear()
        if answer.model not in seen:
            assert is_news
        seen.add(answer.model)


@given(answers)
@cases(200)
def test_a_model_that_three_answers_in_a_row_name_is_published(
    sequence: list[Answer],
) -> None:
    current = ""
    row: list[str] = []
    for answer, is_news in zip(sequence, published(sequence), strict=True):
        if is_news:
            current = answer.model
        row = [*row, answer.model][-LASTING_ANSWERS:]
        if row == [answer.model] * LASTING_ANSWERS:
            assert current == answer.model


@given(answers)
@cases(200)
def test_models_in_turn_switch_as_often_as_there_are_models_in_a_refresh(
    sequence: list[Answer],
) -> None:
    # No model stays for three answers, so none that came back is a change.
    in_turn: list[Answer] = []
    for answer in sequence:
        last = [before.model for before in in_turn[1 - LASTING_ANSWERS :]]
        if last != [answer.model] * (LASTING_ANSWERS - 1):
            in_turn.append(answer)

    current = ""
    models: set[str] = set()
    switches = 0
    for answer, is_news in zip(in_turn, published(in_turn), strict=True):
        if answer.refreshes:
            models.clear()
            switches = 0
        models.add(answer.model)
        if is_news and answer.model != current:
            current = answer.model
            switches += 1
        assert switches <= len(models)
