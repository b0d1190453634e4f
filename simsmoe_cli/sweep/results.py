"""The results of a sweep: one small JSON file, which can be committed and continued anywhere.

It holds the sweep's definition, the text that was trained on, and a record of every finished
training. A training is identified by its resolved recipe: a record counts for every cell and seed
whose recipe is equal, whatever their names. A field that the recipe got since the record was
written counts as having its default, so that results outlive new settings. Fields that change
nothing that is measured are not compared.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from simsmoe_cli.errors import DataError, printable
from simsmoe_cli.files import atomic
from simsmoe_cli.files.untrusted import Unreadable, read_json, validated
from simsmoe_cli.recipe.fields import fields
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.recipe.section import Section
from simsmoe_cli.sweep.definition import Definition

SCHEMA = 1
ACCURACY = "accuracy_"  # TASK: a score
MOST_BYTES = 1 << 26
# Fields of a recipe on which no result depends.
NOT_COMPARED = {
    "name",
    "description",
    "source",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_last",
    "train.probe_every",
    "train.probe_tokens",
}

Settings = dict[str, Any]  # values of a recipe by dotted field
Number = float | None


class Curve(Section):
    """Scores during training.

    Attributes:
        steps: of the validations.
        valid_bpc: None where tokens are no characters.
    """

    steps: list[int] = Field([])
    valid_bpc: list[Number] = Field([])


class Layer(Section):
    """Of one layer with experts: mean CKA of its pairs, and the spread of their load."""

    cka: Number = None
    cka_shared: Number = None
    load_cv: Number = None


class Cost(Section):
    """What a training took.

    Attributes:
        steps, tokens: of the training.
        flops: of all steps, similarity learning included, as the size model counts them.
        similarity_flops: the part of similarity learning.
        seconds: of the steps alone; depends on the machine and on what else it does.
        device, threads, torch: where it ran.
    """

    steps: int
    tokens: int
    flops: float
    similarity_flops: float
    seconds: Number = None
    device: str = ""
    threads: int = 0
    torch: str = ""


class Record(Section):
    """A finished training.

    Attributes:
        name: of its run folder.
        changes: fields of its recipe that differ from those of `Contents.base`.
        corpus: that it was trained on.
        scores: test_bpc; cka and cka_shared, of the experts on held-out tokens, the mean over
            layers of the mean over pairs and the mean over all pairs, as in a report;
            cka_deviation, standard deviation of cka between held-out batches; load_cv; pearson and
            spearman between shared tokens and CKA of pairs; accuracy of each task as
            "accuracy_TASK".
        layers: the same by layer.
        curve: validation during training.
        cost: of the training.
    """

    name: str
    changes: dict[str, Any]
    corpus: str
    scores: dict[str, Number]
    layers: list[Layer] = Field([])
    curve: Curve = Field(default_factory=Curve)
    cost: Cost


class Text(Section):
    """A corpus that was trained on."""

    fingerprint: str
    train_tokens: int
    test_tokens: int
    unit: str


class Contents(Section):
    """The file.

    Attributes:
        definition: of the sweep.
        base: fields of a recipe that differ from their defaults, common to all records.
        corpora: by name.
        records: of finished trainings.
    """

    schema_: int = Field(SCHEMA, alias="schema", le=SCHEMA)
    definition: dict[str, Any] = Field({})
    base: dict[str, Any] = Field({})
    corpora: dict[str, Text] = Field({})
    records: list[Record] = Field([])


@dataclass
class Results:
    """The finished trainings of a sweep.

    Attributes:
        path: of the file.
        definition: of the sweep; None in a file that is read to be shown.
        corpora: by name.
        records: by their complete settings, in the order in which they finished.
    """

    path: Path
    definition: Definition | None = None
    corpora: dict[str, Text] = field(default_factory=dict)
    records: list[tuple[Settings, Record]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Results:
        """The results in a file; none if there is no file.

        Raises:
            UserError: it is damaged, or of a newer simsmoe.
        """
        try:
            content = read_json(path, MOST_BYTES)
        except FileNotFoundError:
            return cls(path)
        except Unreadable as reason:
            raise _damaged(path, f"the file {reason}") from None
        try:
            found = validated(Contents, content)
            definition = validated(Definition, found.definition) if found.definition else None
        except Unreadable as reason:
            raise _damaged(path, str(reason)) from None
        complete = [(found.base | record.changes, record) for record in found.records]
        return cls(path, definition, dict(found.corpora), complete)

    @classmethod
    def existing(cls, path: Path) -> Results:
        """The results in a file.

        Raises:
            UserError: there is none, it is damaged, or of a newer simsmoe.
        """
        if not path.exists():
            raise DataError("no such file of results", where=printable(path, 200))
        return cls.read(path)

    @property
    def sweep(self) -> Definition:
        """The sweep that the file names; a UserError if it names none."""
        if self.definition is None:
            raise DataError(
                "this file holds no results of a sweep", where=printable(self.path, 200)
            )
        return self.definition

    def write(self) -> None:
        """Write the file, whole or not at all."""
        base = dict(self.records[0][0]) if self.records else {}
        for settings, _ in self.records:
            base = {
                name: value
                for name, value in base.items()
                if name in settings and settings[name] == value
            }
        records = [
            record.model_copy(
                update={
                    "changes": {name: value for name, value in settings.items() if name not in base}
                }
            )
            for settings, record in self.records
        ]
        contents = Contents(
            schema=SCHEMA,
            definition={} if self.definition is None else _given(self.definition),
            base=base,
            corpora=self.corpora,
            records=records,
        )
        value = contents.model_dump(mode="json", by_alias=True, exclude_defaults=False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(self.path, "\n".join(_lines(value)) + "\n")

    def find(self, recipe: Recipe) -> Record | None:
        """The record of a training, if it has finished."""
        wanted = compared(settings_of(recipe))
        return next(
            (record for settings, record in self.records if compared(settings) == wanted), None
        )

    def add(self, recipe: Recipe, record: Record) -> None:
        """Add a finished training, in place of an earlier record of it."""
        settings = settings_of(recipe)
        wanted = compared(settings)
        self.records = [(own, one) for own, one in self.records if compared(own) != wanted]
        self.records.append((settings, record))


def settings_of(recipe: Recipe) -> Settings:
    """The fields of a recipe that differ from their defaults, by dotted path."""
    values = recipe.model_dump(mode="json", exclude=recipe.idle_sections)
    usual = defaults()
    return {
        path: value for path, value in _by_path(values) if path not in usual or value != usual[path]
    }


def compared(settings: Mapping[str, Any]) -> Settings:
    """The settings on which results depend, without those that have their default."""
    usual = defaults()
    return {
        path: value
        for path, value in settings.items()
        if path not in NOT_COMPARED and (path not in usual or value != usual[path])
    }


@functools.cache
def defaults() -> Settings:
    """The defaults of all fields of a recipe, by dotted path."""
    return {known.path: known.default for known in fields()}


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"the results of the sweep cannot be read: {reason}",
        where=printable(path, 200),
        hint="Restore the file, or move it away to start anew.",
    )


def _by_path(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _by_path(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _given(definition: Definition) -> dict[str, Any]:
    return definition.model_dump(mode="json", exclude_defaults=True)


def _lines(value: dict[str, Any]) -> Iterator[str]:
    """JSON with a line for each record, so that a diff shows what was added."""
    yield "{"
    names = list(value)
    for name in names:
        end = "," if name != names[-1] else ""
        if name == "records":
            yield f'"{name}": ['
            for number, record in enumerate(value[name], 1):
                comma = "," if number < len(value[name]) else ""
                yield json.dumps(record, ensure_ascii=False) + comma
            yield f"]{end}"
        else:
            yield f'"{name}": {json.dumps(value[name], ensure_ascii=False)}{end}'
    yield "}"
