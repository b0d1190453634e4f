"""What a training says at its start."""

from __future__ import annotations

import pytest

from simsmoe_cli.cli.start import about, start_lines, steps_of_evaluations
from tests.train.conftest import trainer as trainer
from tests.train.tiny import Make


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"),
        (7.4, "7 s"),
        (44, "40 s"),
        (88, "90 s"),
        (101, "2 min"),
        (1000, "20 min"),
        (20000, "6 h 0 min"),
    ],
)
def test_estimated_times_have_one_or_two_digits(seconds: float, words: str) -> None:
    assert about(seconds) == f"about {words}"


def test_evaluations_count_as_steps(trainer: Make) -> None:
    """A token that is evaluated takes a third of one that is trained on."""
    made = trainer(train={"steps": 9, "validate_every": 4, "validate_blocks": 3})
    trained = 4 * 32
    validations, test = 3 * (3 * 4 * 32), 2 * 4 * 32  # after 4, 8 and 9 steps
    expected = (validations + test) / (3 * trained)
    assert steps_of_evaluations(made.objective, 0) == pytest.approx(expected)
    never = trainer("never", train={"validate_every": 0})
    assert steps_of_evaluations(never.objective, 0) == pytest.approx(test / (3 * trained))
    assert steps_of_evaluations(made.objective, 9) == pytest.approx(test / (3 * trained))


def test_a_run_whose_steps_are_done_is_only_tested(trainer: Make) -> None:
    assert start_lines(trainer().objective, 8)[-1] == "  steps  all 8 are done; the test is left"
