"""What a sweep trains: a base recipe, grids of settings, seeds, and a baseline to compare with.

A sweep is a YAML file (`recipes/sweeps/` has those that come with simsmoe), or made from options of
the command line:

    name: routers
    recipe: quickstart                  # a name or a file; a path is relative to the sweep's file
    settings: {train.steps: 800}        # of all cells
    seeds: 0-4
    grids:                              # each grid is all combinations of its values
      - moe.router: [smoe, xmoe]
        similarity.preset: [none, calibrated]
      - {moe.router: [hash], seeds: 0-2}
    baseline: {similarity.preset: none}

Settings of a router's section, such as xmoe.published, are for the cells with that router where
the grids name it.

A combination is a cell. Its baseline is the cell that has the baseline's settings and agrees in
all other fields that both name. In a grid, `seeds` are the seeds of its cells alone, and
`budget: [flops]` trains a cell for as many FLOPs as its baseline instead of as many steps; `recipe`
gives several base recipes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from simsmoe_cli.errors import UserError, nearest, printable
from simsmoe_cli.files.names import name_from
from simsmoe_cli.files.untrusted import Unreadable, read_bytes, validated
from simsmoe_cli.recipe.load import list_sweeps
from simsmoe_cli.recipe.section import Section
from simsmoe_cli.recipe.yaml_dialect import FaultyYaml, read_yaml
from simsmoe_cli.sweep.arguments import given_seeds, parse_seeds

RECIPE, SEEDS, BUDGET = "recipe", "seeds", "budget"  # keys of a grid that are no fields
TEXT = "text"
PRESET = "similarity.preset"
MOST_BYTES = 500_000


class PublishedNumbers(Section):
    """Numbers of one kind.

    Attributes:
        of: model and text, in words.
        score: what the numbers are.
        cell: settings that all of them share.
        fields: further settings, whose values begin each row.
        rows: values of the fields, and the number.
    """

    of: str = Field(max_length=200)
    score: str = "test_bpc"
    cell: dict[str, Any] = Field({})
    fields: list[str] = Field([], max_length=20)
    rows: list[list[Any]] = Field(max_length=1_000)

    def values(self) -> Iterator[tuple[dict[str, Any], float]]:
        """The settings and the number of each row."""
        for *values, number in self.rows:
            yield self.cell | dict(zip(self.fields, values, strict=True)), number

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for row in self.rows:
            if len(row) != len(self.fields) + 1 or type(row[-1]) not in (int, float):
                raise ValueError("a row is the values of the fields, and a number")
        return self


class Published(Section):
    """Numbers of a publication, to be shown beside ours.

    Attributes:
        source: the publication and table.
        differs: what differs from the publication here, a sentence each.
        values: the numbers.
    """

    source: str = Field(max_length=1_000)
    differs: list[str] = Field([], max_length=100)
    values: list[PublishedNumbers] = Field([], max_length=100)


class Task(Section):
    """A task that every trained model is fine-tuned on.

    Attributes:
        task: its name.
        recipe: to fine-tune with; a name or a file.
        settings: changes of that recipe.
    """

    task: str
    recipe: str
    settings: dict[str, Any] = Field({})


class Definition(Section):
    """A sweep as its file has it.

    Attributes:
        report: whether the first seed of each cell gets a collapse report against its baseline.
        changes: what a command line changed of the sweep's file: settings by field, "seeds" and
            "text".
    """

    name: str = Field(max_length=100)
    description: str = Field("", max_length=2_000)
    recipe: str = "quickstart"
    settings: dict[str, Any] = Field({})
    seeds: list[int] = Field([0])
    grids: list[dict[str, list[Any]]] = Field([{}], min_length=1, max_length=100)
    baseline: dict[str, Any] = Field({})
    published: Published | None = None
    finetune: list[Task] = Field([], max_length=20)
    report: bool = False
    changes: dict[str, Any] = Field({})

    @field_validator("name")
    @classmethod
    def _name(cls, given: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", given):
            raise ValueError("a name begins with a letter or digit; . _ and - may follow")
        return given

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, given: Any) -> list[int]:
        return parse_seeds(given)

    @field_validator("grids", mode="before")
    @classmethod
    def _grids(cls, given: Any) -> Any:
        if not isinstance(given, list) or not all(isinstance(grid, dict) for grid in given):
            return given
        grids = []
        for grid in given:
            values = {
                field: value if isinstance(value, list) else [value]
                for field, value in grid.items()
            }
            if SEEDS in grid:
                values[SEEDS] = parse_seeds(grid[SEEDS])
            grids.append(values)
        return grids


def read_definition(given: str | Path) -> Definition:
    """Read a sweep: the name of one that comes with simsmoe, or a file.

    Raises:
        UserError: there is none, or it is not a sweep.
    """
    known = dict(list_sweeps())
    path = known.get(str(given), Path(given))
    where = printable(path, 200)
    try:
        text = read_bytes(path, MOST_BYTES).decode("utf-8")
        data, twice = read_yaml(text)
        if twice:
            raise Unreadable(f"has the key '{printable(twice[0][0])}' twice, in line {twice[0][1]}")
        if not isinstance(data, dict):
            raise Unreadable("is not a mapping of fields, like 'recipe: quickstart'")
        data = {"name": name_from(path.stem) or "sweep", **data}
        definition = definition_of(data, where)
    except FileNotFoundError:
        hint = nearest(path.stem, known)
        raise UserError("no such sweep or file", where=where, hint=hint) from None
    except UnicodeDecodeError:
        raise UserError("not a text file in UTF-8", where=where) from None
    except FaultyYaml as fault:
        raise UserError(f"not valid YAML: {printable(fault.what, 200)}", where=where) from None
    except Unreadable as reason:
        raise UserError(f"the sweep {reason}", where=where) from None
    beside = path.parent / definition.recipe
    if beside.suffix in (".yaml", ".yml") and beside.is_file():
        definition = definition.model_copy(update={"recipe": str(beside)})
    return definition


def definition_of(data: Mapping[str, Any], where: str) -> Definition:
    """A sweep from the content of its file.

    Raises:
        UserError: it does not fit.
    """
    for key in data:
        if key not in Definition.model_fields:
            hint = nearest(str(key), Definition.model_fields)
            raise UserError(f"unknown key '{printable(key)}'", where=where, hint=hint)
    try:
        return validated(Definition, data)
    except Unreadable as reason:
        raise UserError(f"the sweep is not valid: {reason}", where=where) from None


def changed(definition: Definition, settings: Mapping[str, Any], seeds: str | None) -> Definition:
    """The sweep with other settings and seeds; None leaves the seeds.

    Raises:
        UserError: a setting is one that a grid varies.
    """
    require_not_varied(settings, definition.grids)
    update: dict[str, Any] = {"settings": {**definition.settings, **settings}}
    changes = {
        field: value
        for field, value in settings.items()
        if field not in definition.settings or definition.settings[field] != value
    }
    if seeds is not None:
        update["seeds"] = given_seeds(seeds)
        if update["seeds"] != definition.seeds or any(SEEDS in grid for grid in definition.grids):
            changes[SEEDS] = seeds
        update["grids"] = [
            {name: values for name, values in grid.items() if name != SEEDS}
            for grid in definition.grids
        ]
    return definition.model_copy(update={**update, "changes": {**definition.changes, **changes}})


def require_not_varied(settings: Iterable[str], grids: Sequence[Mapping[str, Any]]) -> None:
    """Raise a UserError for a setting of the command line that a grid varies."""
    for field in settings:
        if any(field in grid for grid in grids):
            raise UserError(
                "the sweep's grid varies this field",
                where=f"--set {field}",
                hint="Leave it out, or give a sweep of your own: another --grid, or a changed copy "
                "of the file.",
            )


def default_baseline(axes: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Training without similarity learning, where the axes have it."""
    return {PRESET: "none"} if "none" in axes.get(PRESET, ()) else {}
