"""Predictions as a file: a row for each text, in the order of the split."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from simsmoe_cli.data.tasks.store import Example
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.train.classify import TaskEvaluation
from simsmoe_cli.train.predictions import require_writable, write_predictions

EXAMPLES = [Example('a "dog", they say', 0), Example("ein Füchslein\nim Wald", 1)]
ROWS = [("dog", "dog", 0.75, EXAMPLES[0].text), ("fox", "dog", 0.6, EXAMPLES[1].text)]


@pytest.fixture
def result() -> TaskEvaluation:
    return TaskEvaluation(
        label_E=np.array([0, 1]),
        probability_EC=np.array([[0.75, 0.25], [0.6, 0.4]], dtype=np.float32),
        loss_nats=0.5,
        tokens=9,
        seconds=1.0,
    )


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.json", "out"])
def test_rows_are_those_of_the_split(name: str, result: TaskEvaluation, tmp_path: Path) -> None:
    path = tmp_path / name
    require_writable(path)
    assert not path.exists()
    write_predictions(path, result, EXAMPLES, ["dog", "fox"])
    with open(path, encoding="utf-8", newline="") as file:
        rows = [json.loads(line) for line in file] if ".json" in name else [*csv.DictReader(file)]
    assert [int(row["index"]) for row in rows] == [0, 1]
    found = [
        (row["label"], row["predicted"], float(row["probability"]), row["text"]) for row in rows
    ]
    assert found == ROWS


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere/out.csv"):
        with pytest.raises(UserError, match="cannot write the predictions") as caught:
            require_writable(path)
        assert (caught.value.code, caught.value.where) == (EXIT_DATA, str(path))
