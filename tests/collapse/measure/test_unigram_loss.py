"""The loss of guessing tokens by their frequencies, against the formula in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simsmoe_cli.collapse.measure.unigram_loss import frequency_nats


def oracle(ids: list[int], choices: int) -> float:
    """Each token guessed from the others, one by one."""
    total = 0.0
    for place, token in enumerate(ids):
        others = ids[:place] + ids[place + 1 :]
        different = len(set(others))
        p = (others.count(token) + different / choices) / (len(others) + different)
        total -= math.log(p)
    return total / len(ids)


@pytest.mark.parametrize(
    "ids", [[1, 1, 1, 2], [0, 1, 2, 3], [5] * 9, [3, 3, 4, 4, 7, 3, 9], [1, 2]]
)
def test_it_is_the_mean_over_tokens_of_what_the_others_say(ids: list[int]) -> None:
    assert frequency_nats(np.array(ids), 10) == pytest.approx(oracle(ids, 10))


def test_it_is_above_the_entropy_of_random_text_and_near_it() -> None:
    """So a model that is as good as can be on random text is not far above, and never below it."""
    ids = np.random.default_rng(0).integers(0, 256, 16384)
    found = frequency_nats(ids, 256)
    assert found is not None
    assert math.log(256) < found < math.log(256) + 0.05


def test_of_one_token_repeated_there_is_nothing_to_guess() -> None:
    found = frequency_nats(np.full(4096, 7), 256)
    assert found is not None
    assert found < 1e-3


def test_it_is_undefined_without_others_or_a_vocabulary() -> None:
    assert frequency_nats(np.array([1]), 256) is None
    assert frequency_nats(np.array([1, 2]), None) is None
