"""--fail-above: what passes and what does not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from simsmoe_cli.collapse.fail_above import check_limit, fail_above, partly_undefined
from simsmoe_cli.errors import EXIT_COLLAPSE, EXIT_USAGE, UserError
from tests.collapse.reports import report


def mean(value: float | None) -> dict[str, Any]:
    return {"cka_mean": {"value": value, "n": 6, "of": "pairs"}}


def refusal(value: float | None, limit: float) -> str:
    with pytest.raises(UserError) as caught:
        fail_above(report(layers=2, **mean(value)).main, limit)
    assert caught.value.code == EXIT_COLLAPSE
    return str(caught.value)


def test_at_the_limit_is_not_above_it() -> None:
    fail_above(report(layers=1, **mean(0.8)).main, 0.8)
    fail_above(report(layers=1, **mean(-0.01)).main, 0.0)


def test_the_highest_layer_and_its_value_are_named() -> None:
    text = refusal(0.91234, 0.8)
    assert text == "plain: the mean debiased CKA of layer 0 is 0.912, above 0.8"
    assert "(2 of 2 layers are above)" in refusal(0.91234, 0.1)


def test_a_value_just_above_is_told_from_the_limit() -> None:
    assert "is 0.80004, above 0.8" in refusal(0.80004, 0.8)


def test_an_undefined_layer_does_not_pass() -> None:
    assert refusal(None, 0.9) == (
        "plain: the mean debiased CKA of layer 0 is undefined, so it is not known to be below 0.9"
    )
    both = refusal(None, 0.1)
    assert "layer 1 is 0." in both
    assert "; that of layer 0 is undefined" in both


def test_what_a_mean_leaves_out_is_said() -> None:
    cka = [[1.0, None, 0.2], [None, 1.0, None], [0.2, None, 1.0]]
    assert partly_undefined(report(layers=2, experts=3, cka=cka).main) == [
        "layer 0: its mean leaves out 2 of 3 pairs, which are undefined"
    ]
    assert partly_undefined(report().main) == []


@pytest.mark.parametrize("limit", [-0.1, 1.1, math.nan, math.inf])
def test_limits_that_are_none(limit: float) -> None:
    with pytest.raises(UserError) as caught:
        check_limit(limit)
    assert caught.value.code == EXIT_USAGE
    assert "--fail-above" in str(caught.value)


def test_what_is_not_finite_does_not_pass() -> None:
    """The mean of the other pairs may be below the limit."""
    for damage in ({"non_finite": [1]}, {"non_finite_inputs": 3}, {"non_finite_scores": 3}):
        with pytest.raises(UserError) as caught:
            fail_above(report(layers=1, **mean(0.1), **damage).main, 0.8)
        assert caught.value.code == EXIT_COLLAPSE
        assert str(caught.value) == "plain: layer 0 has values that are not finite"


def test_too_few_tokens_do_not_pass() -> None:
    main = report(layers=1, **mean(0.1)).main
    few = main.model_copy(update={"text": main.text.model_copy(update={"rows": 63})})
    with pytest.raises(UserError, match="63 tokens are too few to know, use 64 or more"):
        fail_above(few, 0.8)
