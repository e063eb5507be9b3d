"""The model behind a symbol's levels, wherever the API names it."""

from __future__ import annotations

from typing import Any

import pytest

from connector.core.positioning import NO_MODELS, Positioning, ResponseModels

UNNAMED = Positioning()
FELL_BACK = Positioning("std", "flow_tape_empty")


def of_btc(extra: Any, named: Positioning = UNNAMED) -> Positioning:
    """Return the model of BTCUSDT. `named` is what its entry says."""
    return ResponseModels.of(extra).complete("BTCUSDT", named)


def test_the_entry_is_believed_before_the_response() -> None:
    extra = {"positioning": "flow", "positioning_fallback_reason": "other"}

    assert of_btc(extra, FELL_BACK) == FELL_BACK


@pytest.mark.parametrize(
    "extra",
    [
        {"positioning": "std", "positioning_fallback_reason": "flow_tape_empty"},
        {
            "positioning": {"BTCUSDT": "std", "ETHUSDT": "flow"},
            "positioning_fallback_reason": {"BTCUSDT": "flow_tape_empty"},
        },
        # Each of the two in its own form.
        {
            "positioning": {"BTCUSDT": "std"},
            "positioning_fallback_reason": "flow_tape_empty",
        },
    ],
)
def test_the_response_names_the_model_as_a_text_or_by_symbol(extra: Any) -> None:
    assert of_btc(extra) == FELL_BACK


def test_the_response_may_write_a_symbol_in_another_case() -> None:
    extra = {
        "positioning": {"ethusdt": "flow", "btcusdt": "std"},
        "positioning_fallback_reason": {"btcusdt": "flow_tape_empty"},
    }

    assert of_btc(extra) == FELL_BACK


def test_a_symbol_that_the_response_leaves_out_has_no_known_model() -> None:
    extra = {
        "positioning": {"ETHUSDT": "std"},
        "positioning_fallback_reason": {"ETHUSDT": "flow_tape_empty"},
    }

    assert of_btc(extra) == UNNAMED


# A bundle in which one symbol fell back has one text for the reason. It is not the reason of
# the symbols that did not.
def test_one_reason_for_the_response_is_that_of_the_symbols_that_fell_back() -> None:
    extra = {
        "positioning": "flow",
        "positioning_requested": "flow",
        "positioning_fallback_reason": "flow_tape_empty",
    }

    assert of_btc(extra, Positioning("flow")) == Positioning("flow")
    assert of_btc(extra, Positioning("std")) == FELL_BACK
    assert of_btc(extra) == Positioning("flow")


def test_flow_is_the_requested_model_if_the_response_does_not_name_it() -> None:
    extra = {"positioning_fallback_reason": "flow_tape_empty"}

    assert of_btc(extra, Positioning("flow")) == Positioning("flow")
    assert of_btc(extra, Positioning("std")) == FELL_BACK


@pytest.mark.parametrize("extra", [None, "text", [1], 5, {}, {"aggregation": {}}])
def test_a_response_without_models_is_of_any_shape(extra: Any) -> None:
    assert ResponseModels.of(extra) == NO_MODELS
    assert of_btc(extra, Positioning("flow")) == Positioning("flow")


@pytest.mark.parametrize("value", [None, "", 5, True, ["std"], {"BTCUSDT": 5}])
def test_a_model_of_another_type_is_unknown(value: Any) -> None:
    extra = {"positioning": value, "positioning_fallback_reason": value}

    assert of_btc(extra) == UNNAMED


def test_long_names_are_cut() -> None:
    long = "x" * 1_000
    extra = {"positioning": {"BTCUSDT": long}, "positioning_fallback_reason": long}

    assert of_btc(extra) == Positioning("x" * 64, "x" * 64)
