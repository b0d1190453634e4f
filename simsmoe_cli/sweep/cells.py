"""The cells of a sweep: all combinations of its grids' values, and which is compared with which."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simsmoe_cli.errors import UserError, nearest, nearest_of_many, printable
from simsmoe_cli.files.names import name_from
from simsmoe_cli.recipe.fields import fields
from simsmoe_cli.recipe.load import find_recipe, load_recipe
from simsmoe_cli.recipe.routers import section_name
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.recipe.yaml_dialect import write_yaml
from simsmoe_cli.sweep.definition import BUDGET, RECIPE, SEEDS, Definition

SEED_FIELD, ROUTER = "train.seed", "moe.router"
MOST_CELLS = 2_000


@dataclass(frozen=True)
class Cell:
    """One combination of settings.

    Attributes:
        settings: values by dotted field, in the order of the grid.
        seeds: to train it with.
        same_flops: whether it gets the FLOPs of its baseline and not its steps.
    """

    settings: Mapping[str, Any]
    seeds: Sequence[int]
    same_flops: bool = False

    @property
    def key(self) -> str:
        """The settings as one text that identifies the cell."""
        return json.dumps([self.settings, self.same_flops], sort_keys=True)

    @property
    def name(self) -> str:
        """A short name for folders and rows, such as "smoe-none" or "published-threshold0.3"."""
        parts = [
            str(value) if isinstance(value, str) else f"{field.rpartition('.')[2]}{as_yaml(value)}"
            for field, value in self.settings.items()
        ]
        if self.same_flops:
            parts.append("same-flops")
        return name_from("-".join(parts)) or "base"

    def agrees(self, other: Mapping[str, Any], but: Mapping[str, Any]) -> bool:
        """Whether it has the same values in all fields that both name, `but` for some."""
        return all(
            value == other[field]
            for field, value in self.settings.items()
            if field in other and field not in but
        )

    def overrides(self, definition: Definition, seed: int) -> list[str]:
        """The changes of the base recipe, as `--set` takes them."""
        others = self._other_routers(definition)
        of_all = {
            field: value
            for field, value in definition.settings.items()
            if field.partition(".")[0] not in others
        }
        values = {**of_all, **self.settings, SEED_FIELD: seed}
        return [f"{field}={as_yaml(value)}" for field, value in values.items() if field != RECIPE]

    def _other_routers(self, definition: Definition) -> set[str]:
        """The sections of routers that only other cells have."""
        named = {str(router) for grid in definition.grids for router in grid.get(ROUTER, ())}
        own = self.settings.get(ROUTER, definition.settings.get(ROUTER))
        if named and own is None:
            own = load_recipe(self.recipe(definition)).moe.router
        return {section_name(router) for router in named - {own}}

    def recipe(self, definition: Definition) -> str:
        """The name or file of its base recipe."""
        return str(self.settings.get(RECIPE, definition.recipe))


def cells_of(definition: Definition) -> list[Cell]:
    """All cells, in the order of the grids, each once.

    Raises:
        UserError: a field or a recipe is not valid, or the sweep has too many cells.
    """
    cells: dict[str, Cell] = {}
    _check_fields(definition.settings, "settings")
    _check_fields(definition.baseline, "baseline", RECIPE)
    for grid in definition.grids:
        _check_fields(grid, "grid", RECIPE, SEEDS, BUDGET)
        if any(budget not in ("steps", "flops") for budget in grid.get(BUDGET, ())):
            raise UserError("expected steps or flops", where=f"grid {BUDGET}")
        axes = {name: values for name, values in grid.items() if name != SEEDS}
        seeds = grid.get(SEEDS, definition.seeds)
        if any(not values for values in axes.values()):
            empty = next(name for name, values in axes.items() if not values)
            raise UserError("has no values", where=f"grid {printable(empty)}")
        for values in itertools.product(*axes.values()):
            settings = dict(zip(axes, values, strict=True))
            same_flops = settings.pop(BUDGET, "steps") == "flops"
            cell = Cell(settings, seeds, same_flops)
            if cell.key in cells:
                seeds_of_both = sorted({*cells[cell.key].seeds, *seeds})
                cell = Cell(settings, seeds_of_both, same_flops)
            cells[cell.key] = cell
            if len(cells) > MOST_CELLS:
                raise UserError(f"more than {MOST_CELLS:,} cells", hint="Use fewer values.")
    for task in definition.finetune:
        find_recipe(task.recipe)
        _check_fields(task.settings, "finetune")
    found = list(cells.values())
    _check_baseline(definition, found)
    for cell in found:
        recipe = recipe_of(definition, cell, cell.seeds[0])
        if recipe.finetune.task:
            raise UserError(
                "fine-tunes a pre-trained model, and a sweep pre-trains its own",
                where=f"recipe {printable(recipe.name)}",
                hint="Give a recipe for pre-training. A sweep's file may name tasks on which its "
                f"models are fine-tuned: finetune: [{{task: {printable(recipe.finetune.task)}, "
                f"recipe: {printable(recipe.name)}}}].",
            )
        baseline_of(definition, cell, found)
    return found


def recipe_of(definition: Definition, cell: Cell, seed: int) -> Recipe:
    """The resolved recipe of a training; a UserError where it is not valid."""
    return load_recipe(cell.recipe(definition), cell.overrides(definition, seed))


def baseline_of(definition: Definition, cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    """The cell that a cell is compared with; None: the sweep has none, or it is one itself.

    Raises:
        UserError: several cells could be it.
    """
    wanted = definition.baseline
    if not wanted or is_baseline(definition, cell):
        return None
    found = [
        other
        for other in cells
        if _has(other, wanted) and not other.same_flops and cell.agrees(other.settings, wanted)
    ]
    if len(found) > 1:
        raise UserError(
            f"cell {cell.name} has {len(found)} baselines: {found[0].name}, {found[1].name} ...",
            where="baseline",
            hint="Name more settings in it.",
        )
    return found[0] if found else None


def is_baseline(definition: Definition, cell: Cell) -> bool:
    """Whether others are compared with a cell."""
    return bool(definition.baseline) and _has(cell, definition.baseline)


def labelled(cells: Sequence[Cell]) -> Iterator[tuple[Cell, dict[str, str]]]:
    """Each cell with the fields that differ between cells, as text by field; "" where not named."""
    paths = dict.fromkeys(path for cell in cells for path in cell.settings)
    budgets = {cell.same_flops for cell in cells}
    for cell in cells:
        row = {
            path: as_yaml(cell.settings[path]) if path in cell.settings else "" for path in paths
        }
        if len(budgets) > 1:
            row[BUDGET] = "same FLOPs" if cell.same_flops else ""
        yield cell, row


def _check_fields(names: Iterable[str], where: str, *further: str) -> None:
    """Raise a UserError for a name that is neither a recipe's field nor one of `further`."""
    known = {field.path for field in fields()}
    for name in names:
        if name == SEED_FIELD:
            raise UserError("is what seeds are for", where=SEED_FIELD, hint="Use seeds: 0-4.")
        if name not in known and name not in further:
            hint = nearest_of_many(name, {*known, *further}, "simsmoe show quickstart --fields")
            raise UserError(f"unknown field '{printable(name)}'", where=where, hint=hint)


def _check_baseline(definition: Definition, cells: Sequence[Cell]) -> None:
    """Raise a UserError for a baseline that no cell is."""
    wanted = definition.baseline
    if any(_has(cell, wanted) for cell in cells):
        return
    for field, value in wanted.items():
        values = [cell.settings[field] for cell in cells if field in cell.settings]
        if value not in values:
            what = f"{field}={as_yaml(value)}"
            texts = {as_yaml(one) for one in values}
            raise UserError(
                f"no combination of the grids has {printable(what)}",
                where="baseline",
                hint=nearest(as_yaml(value), texts) if texts else "Give its values in a grid.",
            )
    raise UserError(
        "no combination of the grids has all of its settings",
        where="baseline",
        hint="Give a grid that has them together.",
    )


def _has(cell: Cell, wanted: Mapping[str, Any]) -> bool:
    return wanted.items() <= cell.settings.items()


def as_yaml(value: Any) -> str:
    """A value as YAML on one line."""
    return write_yaml([value]).strip()[1:-1]
