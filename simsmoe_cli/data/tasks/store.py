"""The task folder: a prepared classification task as texts and labels, with a manifest.

    DATA_DIR/NAME/
      task.json                               the manifest
      train.jsonl valid.jsonl test.jsonl      one object a line: {"text": "...", "label": 3}

`label` is an index into the manifest's `labels`. Texts are kept as published, not as tokens: they
are encoded with the tokenizer of the checkpoint that is fine-tuned (`encode.py`).

Every task has the splits `train` and `valid`, and a third on which only results are reported:
`test`, or `dev` if the published test labels are withheld. `TaskManifest.reported` names it.

The manifest is checked against its schema and its own checksum when a task is opened (tasks of
schema 1 have no such checksum), and a split against its SHA-256 and its counts whenever it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from simsmoe_cli.data.prepared import (
    SCHEMA,
    Count,
    Facts,
    FileInfo,
    Prepared,
    Sha256,
    Shown,
    split_info,
)
from simsmoe_cli.errors import printable
from simsmoe_cli.files.untrusted import Unreadable, parse_json, read_bytes, validated
from simsmoe_cli.registry import TASKS

TASK = Prepared("task", "task.json", TASKS, own="PATH --label-column L")


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


class SourceFile(Facts):
    """A file that examples were read from."""

    file: Shown = Field(description="its name within the source")
    sha256: Sha256 = Field(
        description="of its content, decompressed; of names and contents for many"
    )
    rows: Count
    note: Shown = Field("", description="what became of it, if it did not become a split")


class TaskSplit(FileInfo):
    """A split: its file, and the numbers of its contents."""

    examples: Annotated[int, Field(ge=1, lt=1 << 60)]
    per_label: list[Count] = Field(description="examples of each label, in the order of `labels`")
    bytes: Count = Field(description="bytes of text")
    drawn: Shown = Field("", description="how it was taken from train, if it was")
    also_in_train: Count = Field(
        0, description="examples whose text, stripped of white space, also occurs in train"
    )


class TaskManifest(Facts):
    """The manifest of a prepared task."""

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
        [], description="what is known of the published data, and is not a fault of this copy"
    )
    warnings: list[Shown] = Field([])

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
        """A hash that is equal for two folders with the same examples and labels."""
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

        DataError when there is none, when its manifest was changed, contradicts itself
        or has another schema, or when a file does not have the size it says.
        """
        manifest = TASK.read_manifest(path, TaskManifest)
        TASK.require_sizes(path, manifest.splits.values())
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
        """Read every split; DataError if one was changed."""
        for name in self.manifest.splits:
            self.split(name)

    def split(self, name: str) -> list[Example]:
        """The examples of a split in their stored order, read and checked against its hash.

        Raises:
            UserError: no such split (EXIT_USAGE), or its file was changed (EXIT_DATA).
        """
        info = split_info(self.manifest.splits, name, self.path)
        try:
            content = read_bytes(self.path / info.file, info.size)
        except (Unreadable, FileNotFoundError) as error:
            raise TASK.damaged(self.path, f"{info.file} {error}") from None
        found = hashlib.sha256(content).hexdigest()
        if found != info.sha256:
            reason = f"{info.file} has sha256 {found}, the manifest says {info.sha256}"
            raise TASK.damaged(self.path, reason)
        try:
            return _examples(content, info)
        except Unreadable as error:
            raise TASK.damaged(self.path, f"{info.file} {error}") from None


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
        raise Unreadable("does not have as many examples of each label as the manifest says")
    return examples


def write_split(
    folder: Path, name: str, examples: Sequence[Example], labels: int, *, drawn: str, shared: int
) -> TaskSplit:
    """Write a split's file, and return its description.

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


def open_task(task: str | Path, data_dir: Path) -> Task:
    """The prepared task with this name below `data_dir`, or in this folder.

    DataError with what to run, or the nearest prepared name.
    """
    return Task.open(TASK.find(task, data_dir))
