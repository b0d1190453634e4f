"""Writes the predictions of a classifier to a file, as CSV or JSON lines."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import tempfile
from pathlib import Path

from simsmoe_cli.data.tasks.store import Example
from simsmoe_cli.errors import DataError, UserError
from simsmoe_cli.files.atomic import whole_file
from simsmoe_cli.train.classify import TaskEvaluation


def require_writable(path: Path) -> None:
    """Raise a UserError if predictions cannot be written, before they are computed."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not path.exists():
            with tempfile.TemporaryFile(dir=path.parent):
                return
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(path, error) from None


def write_predictions(
    path: Path, result: TaskEvaluation, examples: list[Example], labels: list[str]
) -> None:
    """Write one row per example, in the order of the split: index, label, predicted, probability
    (of the predicted class) and text, as CSV, or as JSON lines where the file's name ends with
    .jsonl or .json."""
    rows = [
        {
            "index": index,
            "label": labels[label],
            "predicted": labels[predicted],
            "probability": round(float(probability[predicted]), 6),
            "text": example.text,
        }
        for index, (label, predicted, probability, example) in enumerate(
            zip(result.label_E, result.predicted_E, result.probability_EC, examples, strict=True)
        )
    ]
    special = path.exists() and not path.is_file()  # such as a pipe
    try:
        with (
            contextlib.nullcontext(path) if special else whole_file(path) as place,
            open(place, "w", encoding="utf-8", newline="") as file,
        ):
            if path.suffix in (".jsonl", ".json"):
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            else:
                table = csv.DictWriter(file, list(rows[0]))
                table.writeheader()
                table.writerows(rows)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> UserError:
    return DataError(
        f"cannot write the predictions: {error.strerror}",
        where=str(path),
        hint="Name a file in a folder that can be written to.",
    )
