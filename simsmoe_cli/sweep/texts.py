"""Prepares what a published sweep reads, on a machine where nothing is prepared yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.io.download import Progress
from simsmoe_cli.data.store import is_store
from simsmoe_cli.data.tasks.prepare import prepare_task
from simsmoe_cli.data.tasks.store import TASK
from simsmoe_cli.errors import UserError
from simsmoe_cli.files.names import name_from
from simsmoe_cli.registry import CORPORA, TASKS
from simsmoe_cli.sweep.cells import cells_of, recipe_of
from simsmoe_cli.sweep.definition import TEXT, Definition

CORPUS = "data.corpus"


def with_source(
    definition: Definition, source: Path, data_dir: Path, progress: Progress
) -> Definition:
    """The sweep on a text of the user's, which is prepared under the name of its file.

    Raises:
        UserError: the sweep compares corpora, or the text cannot be prepared.
    """
    if any(CORPUS in grid for grid in definition.grids):
        raise UserError(
            f"{definition.name} compares several corpora",
            where="--source",
            hint="Leave it out; prepare them from files: simsmoe prepare-data NAME --source FILE.",
        )
    name = name_from(source.stem) or "source"
    # Whole, since a file may have the name of a known corpus.
    prepare(str(source.absolute()), data_dir / name, on_progress=progress)
    settings = {**definition.settings, CORPUS: name, "data.tokenizer": "bytes"}
    changes = {**definition.changes, TEXT: source.name}
    return definition.model_copy(update={"settings": settings, "changes": changes})


def prepare_known(definition: Definition, data_dir: Path, progress: Progress) -> None:
    """Prepare the corpora and tasks of a sweep that are known and not prepared; may download.

    Raises:
        UserError: one cannot be fetched; the message says how to give it as a file.
    """
    downloads: dict[str, Any] = {"downloads": data_dir / ".downloads", "on_progress": progress}
    names = {
        recipe_of(definition, cell, cell.seeds[0]).data.corpus for cell in cells_of(definition)
    }
    for name in sorted(names):
        if name in CORPORA and not is_store(data_dir / name):
            prepare(name, data_dir / name, **downloads)
    for task in definition.finetune:
        if task.task in TASKS and not TASK.is_in(data_dir / task.task):
            prepare_task(task.task, data_dir / task.task, **downloads)
