"""Data sets of Hugging Face as documents, streamed by the package datasets.

    hf:OWNER/NAME          hf:OWNER/NAME:CONFIG

Nothing is downloaded beforehand: rows are read while they are encoded. A data set's own splits
"validation" (or "valid", "dev") and "test" are held out; a split it lacks is drawn from "train". An
interrupted preparation goes on from the state that the library saves for it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simsmoe_cli.data.documents.inputs import Input, Inputs
from simsmoe_cli.data.documents.read import BATCH_BYTES, MOST_ROWS, Batch, fault, no_column
from simsmoe_cli.data.io.locate import require_exists
from simsmoe_cli.errors import DataError, UserError, listed, printable

PREFIX = "hf:"
SPLITS = {"train": "train", "validation": "valid", "valid": "valid", "dev": "valid", "test": "test"}


@dataclass(frozen=True)
class HubInput(Input):
    """A split of a data set.

    Attributes:
        rows: an iterable data set of the library's.
        revision: a hash of the data set's files.
    """

    rows: Any
    revision: str

    @property
    def identity(self) -> list[str | int]:
        return [self.split, self.name, self.revision]

    def read(self, start: int, column: str, state: object = None) -> Iterator[Batch]:
        """Its rows in batches of about a megabyte."""
        if start and state is not None:
            self.rows.load_state_dict(state)
        number = first = start
        texts: list[bytes | None] = []
        size = read = 0
        with _one_line(self.where):
            for row in self.rows:
                texts.append(_text(row, column, self.where, number))
                size += len(texts[-1] or b"")
                number += 1
                if size >= BATCH_BYTES or len(texts) >= MOST_ROWS:
                    read += size
                    yield Batch(first, number, texts, read, self.rows.state_dict())
                    first, texts, size = number, [], 0
        if texts:
            yield Batch(first, number, texts, read + size, self.rows.state_dict())


def is_hub(given: str) -> bool:
    """Whether a data set of Hugging Face is named."""
    return given.startswith(PREFIX)


def hub_name(given: str) -> str:
    """A name for the store of a data set."""
    return given.removeprefix(PREFIX).replace("/", "-").replace(":", "-")


def hub_inputs(given: str, column: str, source: str | None, left_out: set[str]) -> Inputs:
    """The splits of a data set.

    Args:
        given: "hf:OWNER/NAME", with ":CONFIG" where it has several.
        column: the column of the texts; others are not read where the format allows that.
        source: a folder that is read instead, of the data set's files.
        left_out: splits that are given otherwise.

    Raises:
        UserError: EXIT_USAGE without the package; EXIT_DATA for whatever the library says, and for
            a data set without a split "train".
    """
    name, _, config = given.removeprefix(PREFIX).partition(":")
    path_or_name = str(require_exists(source).resolve()) if source else name
    # The library tells about its progress on stderr, where ours is shown.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    library = _library()
    with _one_line(given):
        builder = library.load_dataset_builder(path_or_name, config or None)
        found = builder.as_streaming_dataset()
    if "train" not in found:
        raise DataError(f"has no split 'train', only {listed(list(found))}", where=given)
    files: list[Input] = []
    for theirs, rows in found.items():
        split = SPLITS.get(theirs)
        if split is None or split in left_out:
            continue
        features = rows.column_names
        if features is not None and column not in features:
            raise no_column(column, list(features), f"{given} ({theirs})", "data set", 0)
        if features is not None:
            rows = rows.select_columns([column])
        files.append(
            HubInput(
                f"{name}:{config}:{theirs}",
                f"{given} ({theirs})",
                "data set",
                "" if split == "train" else split,
                Path(),
                0,
                0,
                rows,
                str(builder.hash),
            )
        )
    ignored = [theirs for theirs in found if theirs not in SPLITS]
    warnings = [f"splits left out: {listed(ignored)}"] if ignored else []
    return Inputs(given, files, warnings)


def _text(row: dict[str, Any], column: str, where: str, number: int) -> bytes | None:
    if column not in row:
        raise no_column(column, list(row), where, "data set", number)
    text = row[column]
    if text is None:
        return None
    if not isinstance(text, str):
        raise fault(where, "data set", number, f"'{printable(column)}' is not text")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise fault(where, "data set", number, "has half a character (a lone surrogate)") from None


@contextlib.contextmanager
def _one_line(where: str) -> Iterator[None]:
    """Turn what the library raises into a UserError."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        words = str(error).strip().splitlines()
        reason = printable(words[0] if words else type(error).__name__, 400)
        raise DataError(
            f"cannot be read as a data set: {reason}",
            where=where,
            hint="Check the name and the network, or give a folder of its files with --source.",
        ) from None


def _library() -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError:
        raise UserError(
            "data sets of Hugging Face need the package datasets",
            hint="Install it: pip install 'simsmoe[hf]'",
        ) from None
