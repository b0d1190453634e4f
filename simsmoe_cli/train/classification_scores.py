"""Scores of a classifier's predictions: accuracy, F1, confusion, and their confidence intervals.

Everything follows from the confusion matrix. Resampling examples with replacement is a multinomial
draw of its cells, so the bootstrap (Efron and Tibshirani 1993, percentile interval) needs no loop
over examples.

Shapes: E examples, C classes, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.int64]
RESAMPLES, COVERAGE = 2000, 0.95


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class.

    Attributes:
        precision, recall, f1: 0 where the denominator is 0.
        support: examples with this label.
    """

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Interval:
    """A percentile interval of the bootstrap."""

    low: float
    high: float


def confusion(label_E: NDArray[np.int64], predicted_E: NDArray[np.int64], classes: int) -> Matrix:
    """Examples of class i (row) that were predicted as class j (column), [C, C]."""
    cells = np.bincount(label_E * classes + predicted_E, minlength=classes * classes)
    return cells.reshape(classes, classes)


def accuracy(matrix_CC: NDArray[np.integer]) -> NDArray[np.float64]:
    """Share on the diagonal, of one matrix or of each of many [..., C, C]."""
    right = np.trace(matrix_CC, axis1=-2, axis2=-1)
    share: NDArray[np.float64] = right / matrix_CC.sum((-2, -1))
    return share


def macro_f1(matrix_CC: NDArray[np.integer]) -> NDArray[np.float64]:
    """Mean F1 of the classes that occur, as labels or as predictions, of [..., C, C]."""
    right = np.diagonal(matrix_CC, axis1=-2, axis2=-1)
    either = matrix_CC.sum(-1) + matrix_CC.sum(-2)
    occurs = either > 0
    f1 = 2 * right / np.maximum(either, 1)
    mean: NDArray[np.float64] = f1.sum(-1) / occurs.sum(-1)
    return mean


def by_class(matrix_CC: Matrix) -> list[ClassScores]:
    """Each class's precision, recall, F1 and support."""
    right = np.diagonal(matrix_CC)
    support, predicted = matrix_CC.sum(1), matrix_CC.sum(0)
    precision = right / np.maximum(predicted, 1)
    recall = right / np.maximum(support, 1)
    f1 = 2 * right / np.maximum(support + predicted, 1)
    return [
        ClassScores(float(p), float(r), float(f), int(n))
        for p, r, f, n in zip(precision, recall, f1, support, strict=True)
    ]


def bootstrap(matrix_CC: Matrix, seed: int = 0) -> dict[str, Interval]:
    """95% intervals of accuracy and macro-F1 over R resamples of the examples.

    Args:
        matrix_CC: of at least one example.
        seed: of the resampling.
    """
    classes, examples = len(matrix_CC), int(matrix_CC.sum())
    filled = np.flatnonzero(matrix_CC)
    share = matrix_CC.flat[filled] / examples
    generator = np.random.default_rng(seed)
    values: dict[str, list[float]] = {"accuracy": [], "macro_f1": []}
    per_round = max(1, 10_000_000 // classes**2)
    for start in range(0, RESAMPLES, per_round):
        rounds = min(per_round, RESAMPLES - start)
        cells = np.zeros((rounds, classes * classes), dtype=np.int64)
        cells[:, filled] = generator.multinomial(examples, share, rounds)
        resampled = cells.reshape(rounds, classes, classes)
        values["accuracy"] += accuracy(resampled).tolist()
        values["macro_f1"] += macro_f1(resampled).tolist()
    tail = (1 - COVERAGE) / 2
    return {
        name: Interval(float(np.quantile(drawn, tail)), float(np.quantile(drawn, 1 - tail)))
        for name, drawn in values.items()
    }
