"""Prepares what a published sweep reads, on a machine where nothing is prepared yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.io.download import Progress
from simsmoe_cli.data.store import is_store
from simsmoe_cli.data.tasks.prepare import prepare_task
from simsmoe_cli.data.tasks.store import TASK
from simsmoe_cli.errors import DataError, UserError, printable
from simsmoe_cli.files.names import name_from
from simsmoe_cli.registry import CORPORA, TASKS, resolve
from simsmoe_cli.sweep.cells import cells_of, recipe_of
from simsmoe_cli.sweep.definition import TEXT, Definition

CORPUS = "data.corpus"


@dataclass(frozen=True)
class Text:
    """A corpus or a task to prepare.

    Attributes:
        name: of its folder of prepared data.
        source: what it is made from: its name if it is known, or a path.
        is_task: whether it is a task.
        downloads: whether it is fetched from the network.
    """

    name: str
    source: str
    is_task: bool = False
    downloads: bool = False


def with_source(definition: Definition, source: Path) -> Definition:
    """The sweep on a text of the user's, which is to be prepared under the name of its file.

    Raises:
        UserError: the sweep compares corpora, or there is no such file.
    """
    if any(CORPUS in grid for grid in definition.grids):
        raise UserError(
            f"{definition.name} compares several corpora",
            where="--source",
            hint="Leave it out; prepare them from files: simsmoe prepare-data NAME --source FILE.",
        )
    if not source.exists():
        raise DataError("no such file", where=f"--source {printable(source, 200)}")
    name = name_from(source.stem) or "source"
    settings = {**definition.settings, CORPUS: name, "data.tokenizer": "bytes"}
    changes = {**definition.changes, TEXT: source.name}
    return definition.model_copy(update={"settings": settings, "changes": changes})


def texts_of(definition: Definition, source: Path | None) -> list[Text]:
    """The corpora and tasks of a sweep that can be prepared: those that are known, and the source.

    Args:
        definition: of the sweep; `with_source` if there is one.
        source: the text of the user's.
    """
    if source is not None:
        # Its whole path, since a file may have the name of a known corpus.
        texts = [Text(definition.settings[CORPUS], str(source.absolute()))]
    else:
        names = {
            recipe_of(definition, cell, cell.seeds[0]).data.corpus for cell in cells_of(definition)
        }
        texts = [
            Text(name, name, downloads=bool(resolve(CORPORA[name].target).urls))
            for name in sorted(names)
            if name in CORPORA
        ]
    tasks = [task.task for task in definition.finetune if task.task in TASKS]
    return [
        *texts,
        *(
            Text(name, name, is_task=True, downloads=bool(resolve(TASKS[name].target).downloads))
            for name in tasks
        ),
    ]


def is_prepared(text: Text, data_dir: Path) -> bool:
    """Whether its folder of prepared data is there."""
    return TASK.is_in(data_dir / text.name) if text.is_task else is_store(data_dir / text.name)


def prepare_text(text: Text, data_dir: Path, progress: Progress) -> None:
    """Prepare a corpus or a task; may download. What is prepared already stays.

    Raises:
        UserError: it cannot be fetched (the message says how to give it as a file), or not read.
    """
    if text.source == text.name and is_prepared(text, data_dir):
        return
    downloads: dict[str, Any] = {"downloads": data_dir / ".downloads", "on_progress": progress}
    if text.is_task:
        prepare_task(text.source, data_dir / text.name, **downloads)
    else:
        prepare(text.source, data_dir / text.name, **downloads)
