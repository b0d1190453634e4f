"""Scores of a classifier, against definitions worked out example by example."""

from __future__ import annotations

import numpy as np
import pytest

from simsmoe_cli.train.classification_scores import (
    accuracy,
    bootstrap,
    by_class,
    confusion,
    macro_f1,
)

LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 0])
PREDICTED = np.array([0, 1, 0, 1, 1, 2, 0, 2, 1, 0])
MATRIX = np.array([[3, 1, 0], [0, 2, 0], [1, 1, 2]])


def test_the_confusion_matrix_counts_pairs() -> None:
    assert confusion(LABELS, PREDICTED, 3).tolist() == MATRIX.tolist()
    assert confusion(LABELS, PREDICTED, 4)[:, 3].tolist() == [0, 0, 0, 0]


def test_scores_are_those_of_their_definitions() -> None:
    assert float(accuracy(MATRIX)) == pytest.approx((LABELS == PREDICTED).mean())
    scores = []
    for label in range(3):
        right = ((label == LABELS) & (label == PREDICTED)).sum()
        precision = right / (label == PREDICTED).sum()
        recall = right / (label == LABELS).sum()
        scores.append((precision, recall, 2 * precision * recall / (precision + recall)))
    for found, (precision, recall, f1) in zip(by_class(MATRIX), scores, strict=True):
        assert (found.precision, found.recall) == pytest.approx((precision, recall))
        assert found.f1 == pytest.approx(f1)
    assert [found.support for found in by_class(MATRIX)] == [4, 2, 4]
    assert float(macro_f1(MATRIX)) == pytest.approx(np.mean([f1 for *_, f1 in scores]))


def test_classes_that_do_not_occur_do_not_lower_macro_f1() -> None:
    wider = np.zeros((5, 5), dtype=np.int64)
    wider[:3, :3] = MATRIX
    assert float(macro_f1(wider)) == pytest.approx(float(macro_f1(MATRIX)))
    never_predicted = np.array([[4, 0], [2, 0]])
    assert float(macro_f1(never_predicted)) == pytest.approx(0.8 / 2)
    assert by_class(never_predicted)[1].precision == 0


def test_the_bootstrap_is_that_of_resampled_examples() -> None:
    """Against a loop that resamples examples; both have sampling error of their own."""
    generator = np.random.default_rng(1)
    rounds = []
    for _ in range(3000):
        index = generator.integers(0, len(LABELS), len(LABELS))
        matrix = confusion(LABELS[index], PREDICTED[index], 3)
        rounds.append((float(accuracy(matrix)), float(macro_f1(matrix))))
    expected = np.quantile(rounds, [0.025, 0.975], axis=0)
    for column, name in enumerate(("accuracy", "macro_f1")):
        found = bootstrap(MATRIX)[name]
        assert (found.low, found.high) == pytest.approx(tuple(expected[:, column]), abs=0.04)


def test_the_bootstrap_covers_a_known_accuracy() -> None:
    """An interval of 95% misses the truth in about 5% of samples: at most 10 of 60 here."""
    generator = np.random.default_rng(2)
    missed = 0
    for _ in range(60):
        right = int(generator.binomial(300, 0.7))
        interval = bootstrap(np.array([[right, 300 - right], [0, 0]]))["accuracy"]
        missed += not interval.low <= 0.7 <= interval.high
    assert missed <= 10


def test_the_bootstrap_repeats_and_shrinks_with_examples() -> None:
    first, again = (bootstrap(MATRIX * 100, seed=3) for _ in range(2))
    assert first == again
    assert bootstrap(MATRIX * 100, seed=4) != first
    many, few = first["accuracy"], bootstrap(MATRIX)["accuracy"]
    assert many.high - many.low < (few.high - few.low) / 5


def test_many_classes_are_resampled_in_parts() -> None:
    matrix = np.diag(np.full(100, 7))
    matrix[0, 1] = 50
    interval = bootstrap(matrix)["accuracy"]
    assert interval.low < float(accuracy(matrix)) < interval.high
