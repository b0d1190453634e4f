"""The task folder: a prepared classification task as texts and labels, and what vouches for it.

    DATA_DIR/NAME/
      task.json                               the manifest
      train.jsonl valid.jsonl test.jsonl      one object a line: {"text": "...", "label": 3}

`label` is an index into the manifest's `labels`. Texts are kept as published, not as tokens: they
are encoded with the tokenizer of the checkpoint they are fine-tuned from (`task_encode.py`).

Every task has the splits `train` and `valid`, and one more that is reported and chooses nothing:
`test`, or `dev` where the published test labels are withheld. `Manifest.reported` names it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.registry import TASKS

SCHEMA = 1
MANIFEST = "task.json"


@dataclass(frozen=True)
class Example:
    """A text and the index of its label."""

    text: str
    label: int


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceFile(_Facts):
    """A file that examples were read from."""

    file: str = Field(description="its name within the source")
    sha256: str = Field(description="of its content, decompressed; of names and contents for many")
    rows: int
    note: str = Field("", description="what became of it, where that is not a split of its own")


class TaskSplit(_Facts):
    """A split: its file, and what is in it."""

    file: str
    size: int = Field(description="bytes")
    sha256: str
    examples: int
    per_label: list[int] = Field(description="examples of each label, in the order of `labels`")
    bytes: int = Field(description="bytes of text")
    drawn: str = Field("", description="how it was taken from train, if it was")
    also_in_train: int = Field(
        0, description="examples whose text, but for white space around it, is one of train's too"
    )


class TaskManifest(_Facts):
    """Everything there is to know of a prepared task."""

    schema_version: int = SCHEMA
    name: str
    task: str = Field("", description="the known task it is; empty for other data")
    whole: bool = Field(description="false for a part of a known task")
    labels: list[str]
    reported: str = Field(description="the split that results are reported on")
    given: str = Field(description="path, URL or Python version it was read from")
    layout: str
    text_column: str = ""
    label_column: str = ""
    sources: list[SourceFile]
    splits: dict[str, TaskSplit]
    notes: list[str] = Field([], description="what is known of the data and no fault of this copy")
    warnings: list[str] = []

    @property
    def fingerprint(self) -> str:
        """What two folders share that hold the same examples under the same labels."""
        facts = [self.labels, {name: split.sha256 for name, split in self.splits.items()}]
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

        UserError (EXIT_DATA) when there is none, it is of another schema, or a file has not the
        size the manifest says.
        """
        try:
            content = json.loads((path / MANIFEST).read_bytes())
            schema = content.get("schema_version") if isinstance(content, dict) else None
            if schema != SCHEMA:
                raise _damaged(path, f"manifest schema {schema}, not {SCHEMA}")
            manifest = TaskManifest.model_validate(content)
        except FileNotFoundError:
            raise UserError(
                "no prepared task",
                where=str(path),
                hint="See: simsmoe prepare-data --help",
                code=EXIT_DATA,
            ) from None
        except (ValidationError, ValueError, OSError) as error:
            raise _damaged(path, f"{type(error).__name__} in its manifest") from None
        for split in manifest.splits.values():
            file = path / split.file
            size = file.stat().st_size if file.is_file() else None
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

    def split(self, name: str) -> list[Example]:
        """The examples of a split in their stored order, read and held against its hash.

        Raises:
            UserError: no such split (EXIT_USAGE), or its file was changed (EXIT_DATA).
        """
        info = self.manifest.splits.get(name)
        if info is None:
            known = ", ".join(self.manifest.splits)
            raise UserError(f"no split '{name}'", where=str(self.path), hint=f"Splits: {known}.")
        content = (self.path / info.file).read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != info.sha256:
            reason = f"{info.file} has sha256 {found}, the manifest says {info.sha256}"
            raise _damaged(self.path, reason)
        rows = (json.loads(line) for line in content.splitlines())
        return [Example(row["text"], row["label"]) for row in rows]


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
    return (path / MANIFEST).is_file()


def find_task(task: str | Path, data_dir: Path) -> Path:
    """The folder of a prepared task.

    Args:
        task: its name below `data_dir`, or a folder anywhere.
        data_dir: where prepared tasks lie.

    Returns:
        Its path; UserError (EXIT_DATA) with what to run, or the nearest prepared name.
    """
    for path in (data_dir / task, Path(task).expanduser()):
        if is_task(path):
            return path
    prepared = (
        sorted(item.name for item in data_dir.iterdir() if is_task(item))
        if data_dir.is_dir()
        else []
    )
    name = str(task)
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
