"""The task folder: a prepared classification task as texts and labels, and what vouches for it.

    DATA_DIR/NAME/
      task.json                               the manifest
      train.jsonl valid.jsonl test.jsonl      one object a line: {"text": "...", "label": 3}

`label` is an index into the manifest's `labels`. Texts are kept as published, not as tokens: they
are encoded with the tokenizer of the checkpoint they are fine-tuned from (`task_encode.py`).

Every task has the splits `train` and `valid`, and one more that is reported and chooses nothing:
`test`, or `dev` where the published test labels are withheld. `Manifest.reported` names it.

The manifest is checked against its schema and its own checksum when a task is opened (tasks of
schema 1 have no such checksum), and a split against its SHA-256 and its counts whenever it is read.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from simsmoe_cli.data.store import Count, Sha256, Shown, names_in
from simsmoe_cli.errors import EXIT_DATA, UserError, printable
from simsmoe_cli.files.untrusted import (
    Unreadable,
    parse_json,
    read_bytes,
    read_json,
    unsealed,
    validated,
)
from simsmoe_cli.registry import TASKS

SCHEMA = 2
MANIFEST = "task.json"
MOST_MANIFEST_BYTES = 1 << 26


@dataclass(frozen=True)
class Example:
    """A text and the index of its label."""

    text: str
    label: int


class _Row(BaseModel):
    """A line of a split."""

    model_config = ConfigDict(extra="forbid", strict=True)
    text: str
    label: int


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SourceFile(_Facts):
    """A file that examples were read from."""

    file: Shown = Field(description="its name within the source")
    sha256: Sha256 = Field(
        description="of its content, decompressed; of names and contents for many"
    )
    rows: Count
    note: Shown = Field("", description="what became of it, where that is not a split of its own")


class TaskSplit(_Facts):
    """A split: its file, and what is in it."""

    file: Shown
    size: Count = Field(description="bytes")
    sha256: Sha256
    examples: Annotated[int, Field(ge=1, lt=1 << 60)]
    per_label: list[Count] = Field(description="examples of each label, in the order of `labels`")
    bytes: Count = Field(description="bytes of text")
    drawn: Shown = Field("", description="how it was taken from train, if it was")
    also_in_train: Count = Field(
        0, description="examples whose text, but for white space around it, is one of train's too"
    )


class TaskManifest(_Facts):
    """Everything there is to know of a prepared task."""

    schema_version: int = SCHEMA
    name: Shown
    task: Shown = Field("", description="the known task it is; empty for other data")
    whole: bool = Field(description="false for a part of a known task")
    labels: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2)]
    reported: Shown = Field(description="the split that results are reported on")
    given: Shown = Field(description="path, URL or Python version it was read from")
    layout: Shown
    text_column: Shown = ""
    label_column: Shown = ""
    sources: list[SourceFile]
    splits: dict[str, TaskSplit]
    notes: list[Shown] = Field(
        [], description="what is known of the data and no fault of this copy"
    )
    warnings: list[Shown] = []

    @model_validator(mode="after")
    def _agree(self) -> TaskManifest:
        """Refuse numbers and names that contradict each other."""
        if self.reported not in ("test", "dev"):
            raise ValueError("the reported split is neither test nor dev")
        if sorted(self.splits) != sorted(("train", "valid", self.reported)):
            raise ValueError(f"its splits are not train, valid and {self.reported}")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("two labels have one name")
        for name, split in self.splits.items():
            if split.file != f"{name}.jsonl":
                raise ValueError(f"the file of {name} is not {name}.jsonl")
            if len(split.per_label) != len(self.labels):
                raise ValueError(
                    f"{name} counts {len(split.per_label)} of {len(self.labels)} labels"
                )
            if sum(split.per_label) != split.examples:
                raise ValueError(
                    f"{name} has {split.examples:,} examples, its labels another number"
                )
            if (
                max(split.bytes, split.examples) > split.size
                or split.also_in_train > split.examples
            ):
                raise ValueError(f"{name} holds less than is counted in it")
        return self

    @property
    def fingerprint(self) -> str:
        """What two folders share that hold the same examples under the same labels."""
        names = ("train", "valid", self.reported)
        facts = [self.labels, {name: self.splits[name].sha256 for name in names}]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class Task:
    """A prepared task, opened for reading; `built` is set by the `prepare_task` that built it."""

    def __init__(self, path: Path, manifest: TaskManifest):
        self.path = path
        self.manifest = manifest
        self.built = False

    @classmethod
    def open(cls, path: Path) -> Task:
        """The task in a folder.

        UserError (EXIT_DATA) when there is none, its manifest was changed, contradicts itself or is
        of another schema, or a file has not the size it says.
        """
        try:
            manifest = _read_manifest(path / MANIFEST)
        except FileNotFoundError:
            raise UserError(
                "no prepared task",
                where=str(path),
                hint="See: simsmoe prepare-data --help",
                code=EXIT_DATA,
            ) from None
        except Unreadable as error:
            raise _damaged(path, f"{MANIFEST} {error}") from None
        for split in manifest.splits.values():
            file = path / split.file
            size = os.path.getsize(file) if os.path.isfile(file) else None
            if size != split.size:
                found = "is missing" if size is None else f"has {size:,} bytes"
                raise _damaged(path, f"{split.file} {found}, the manifest says {split.size:,}")
        return cls(path, manifest)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def labels(self) -> list[str]:
        """The names of the classes; an example's label is an index into these."""
        return self.manifest.labels

    @property
    def reported(self) -> str:
        """The split that results are reported on."""
        return self.manifest.reported

    def verify(self) -> None:
        """Read every split; UserError (EXIT_DATA) if one was changed."""
        for name in self.manifest.splits:
            self.split(name)

    def split(self, name: str) -> list[Example]:
        """The examples of a split in their stored order, read and held against its hash.

        Raises:
            UserError: no such split (EXIT_USAGE), or its file was changed (EXIT_DATA).
        """
        info = self.manifest.splits.get(name)
        if info is None:
            known = ", ".join(self.manifest.splits)
            raise UserError(
                f"no split '{printable(name)}'", where=str(self.path), hint=f"Splits: {known}."
            )
        try:
            content = read_bytes(self.path / info.file, info.size)
        except (Unreadable, FileNotFoundError) as error:
            raise _damaged(self.path, f"{info.file} {error}") from None
        found = hashlib.sha256(content).hexdigest()
        if found != info.sha256:
            reason = f"{info.file} has sha256 {found}, the manifest says {info.sha256}"
            raise _damaged(self.path, reason)
        try:
            return _examples(content, info)
        except Unreadable as error:
            raise _damaged(self.path, f"{info.file} {error}") from None


def _read_manifest(path: Path) -> TaskManifest:
    """The manifest in a file; Unreadable for one that was changed or fits no schema."""
    content = read_json(path, MOST_MANIFEST_BYTES)
    schema = content.get("schema_version") if isinstance(content, dict) else None
    if schema not in (1, SCHEMA) or isinstance(schema, bool):
        raise Unreadable(f"has schema {printable(schema)}, not {SCHEMA}")
    return validated(TaskManifest, content if schema == 1 else unsealed(content))


def _examples(content: bytes, info: TaskSplit) -> list[Example]:
    """The examples in a split's file; Unreadable unless they are as many as were counted."""
    examples: list[Example] = []
    per_label = [0] * len(info.per_label)
    for line in content.split(b"\n")[:-1]:
        try:
            row = validated(_Row, parse_json(line))
            if not 0 <= row.label < len(per_label):
                raise Unreadable(f"label {printable(row.label)} of {len(per_label)} classes")
        except Unreadable as error:
            raise Unreadable(f"is wrong in row {len(examples) + 1:,}: {error}") from None
        per_label[row.label] += 1
        examples.append(Example(row.text, row.label))
    if per_label != info.per_label:
        raise Unreadable("has not as many examples of each label as the manifest says")
    return examples


def write_split(
    folder: Path, name: str, examples: Sequence[Example], labels: int, *, drawn: str, shared: int
) -> TaskSplit:
    """Write a split's file, and say what is in it.

    Args:
        folder: of the task.
        name: of the split.
        examples: in the order they are stored.
        labels: how many there are.
        drawn: how it was taken from train, if it was.
        shared: how many of its texts are also in train.
    """
    rows = ({"text": example.text, "label": example.label} for example in examples)
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    (folder / f"{name}.jsonl").write_bytes(content)
    per_label = [0] * labels
    for example in examples:
        per_label[example.label] += 1
    return TaskSplit(
        file=f"{name}.jsonl",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        examples=len(examples),
        per_label=per_label,
        bytes=sum(len(example.text.encode()) for example in examples),
        drawn=drawn,
        also_in_train=shared,
    )


def is_task(path: Path) -> bool:
    """Whether a folder is a task, or was one before something happened to it."""
    return os.path.isfile(path / MANIFEST)


def find_task(task: str | Path, data_dir: Path) -> Path:
    """The folder of a prepared task.

    Args:
        task: its name below `data_dir`, or a folder anywhere.
        data_dir: where prepared tasks lie.

    Returns:
        Its path; UserError (EXIT_DATA) with what to run, or the nearest prepared name.
    """
    for path in (data_dir / task, Path(os.path.expanduser(task))):
        if is_task(path):
            return path
    prepared = [name for name in names_in(data_dir) if is_task(data_dir / name)]
    name = printable(task)
    close = difflib.get_close_matches(name, prepared, n=1, cutoff=0.6)
    known = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.6)
    hint = f"Did you mean '{close[0]}'? " if close and name not in TASKS else ""
    hint += f"To prepare it: simsmoe prepare-data {known[0] if known else 'PATH --label-column L'}."
    hint += f" Prepared: {', '.join(prepared) or 'none'}."
    raise UserError(
        f"task '{name}' is not prepared", where=str(data_dir), hint=hint, code=EXIT_DATA
    )


def open_task(task: str | Path, data_dir: Path) -> Task:
    """The prepared task with this name below `data_dir`, or in this folder."""
    return Task.open(find_task(task, data_dir))


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"the prepared task is damaged: {reason}",
        where=str(path),
        hint="Prepare it again with --force.",
        code=EXIT_DATA,
    )
