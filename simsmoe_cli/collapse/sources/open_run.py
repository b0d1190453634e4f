"""Opens a checkpoint of a run, and held-out text of its corpus or task, as the source of a report.

A run is opened without the trainer. A pre-trained one is measured on its corpus, a fine-tuned one
on its task; the corpus or task must be the one that the checkpoint names, so that held-out text was
not trained on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from simsmoe_cli import __version__
from simsmoe_cli.collapse.measure.training_history import judged_dead, read_history
from simsmoe_cli.collapse.sources.base import LayerSpec
from simsmoe_cli.collapse.sources.run import CorpusSource, RunSource, TaskSource
from simsmoe_cli.collapse.sources.texts import read_text, unlike
from simsmoe_cli.collapse.subject import Subject
from simsmoe_cli.data.streams import Tokens
from simsmoe_cli.data.tasks.encode import encode
from simsmoe_cli.data.tasks.store import Example
from simsmoe_cli.errors import DataError, UserError, nearest, printable
from simsmoe_cli.model.interface import MoEModel
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.checkpoint_state import STATE
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.opened import OpenedRun

FEWEST_CHARACTERS = 64  # of a domain: fewer say nothing of its routing


def checkpoints(run: RunDir, which: str) -> list[str]:
    """The checkpoints for `open_run`, oldest first; "all" means every step, and best if its step
    was not saved.

    Raises:
        UserError: there is none.
    """
    if which != "all":
        return [which]
    steps = [step for step, _ in checkpoint.list_checkpoints(run)]
    if not steps:
        checkpoint.find(run, "best")
        return ["best"]
    names = {step: str(step) for step in steps}
    if (run.best / STATE).is_file():
        names.setdefault(int(checkpoint.read_state(run.best)["step"]), "best")
    return [names[step] for step in sorted(names)]


def open_run(
    run: RunDir,
    which: str = "best",
    *,
    split: str = "valid",
    data_dir: Path,
    device: torch.device,
    texts: Sequence[Path] = (),
) -> RunSource:
    """A run's weights and a split of the corpus or the task it was trained on.

    Args:
        run: its folder.
        which: "best", "last" or a step.
        split: "valid", "test" or "train". For a task, "test" is the split its results are reported
            on, whatever its name.
        data_dir: where the corpus or task is looked for by name, before its path in training.
        device: where to compute.
        texts: further domains beside the corpus, files in UTF-8 of which the first 8 MiB are read.

    Raises:
        UserError: no such checkpoint, split, corpus or task, another one, or a model without
            experts.
    """
    opened = OpenedRun.open(run, which, data_dir)
    if "g" not in opened.recipe.model.pattern:
        raise DataError(
            "this model has no experts to compare",
            where=str(run.path),
            hint="model.pattern needs a 'g'.",
        )
    if opened.fine_tuned:
        if texts:
            raise UserError(
                "the domains of a fine-tuned run are the classes of its task",
                where="--text",
                hint="Leave it out.",
            )
        return _on_task(opened, split, device)
    source = _on_corpus(opened, split, device)
    for path in texts:
        name = unlike([source.corpus, *source.domain_tokens], path.name)
        source.domain_tokens[name] = _tokens_of(path, source)
    return source


def _tokens_of(path: Path, source: CorpusSource) -> Tokens:
    """The ids of a text; what the tokenizer does not know becomes a space, with a note."""
    content = read_text(path, source.notes)
    if len(content.strip()) < FEWEST_CHARACTERS:
        raise DataError("the text is too short", where=str(path), hint="Give a longer text.")
    found = encode([Example(content, 0)], source.tokenizer, len(content.encode()) + 1)
    if found.unknown is not None:
        source.notes = [*source.notes, f"{printable(path.name)}: {found.unknown}"]
    return found.ids.astype(np.uint32)


def _on_corpus(opened: OpenedRun, split: str, device: torch.device) -> CorpusSource:
    """A language model and its corpus."""
    store = opened.corpus()
    if split not in store.manifest.splits:
        raise UserError(
            f"no split '{split}'", where="--split", hint=nearest(split, store.manifest.splits)
        )
    if store.manifest.splits[split].tokens < 2:
        raise DataError(
            f"the {split} split is too short to measure on",
            where=str(store.path),
            hint="Prepare more text, or choose another --split.",
        )
    model = opened.language_model(device)
    return CorpusSource(
        model,
        opened.context(),
        store,
        corpus=store.manifest.name,
        split=split,
        unit=store.manifest.unit,
        notes=[_without_folder(note) for note in store.manifest.warnings],
        **_facts(opened, model),
    )


def _on_task(opened: OpenedRun, split: str, device: torch.device) -> TaskSource:
    """A classifier and its task."""
    task, recipe = opened.task(), opened.recipe
    if split == "test":
        split = task.reported
    if split not in task.manifest.splits:
        raise UserError(
            f"no split '{split}'", where="--split", hint=nearest(split, task.manifest.splits)
        )
    tokenizer = opened.tokenizer
    texts = encode(task.split(split), tokenizer, recipe.train.block, recipe.finetune.keep)
    notes = [_without_folder(note) for note in task.manifest.warnings]
    if texts.cut:
        notes.append(
            f"{texts.cut:,} of {len(texts):,} texts are longer than {recipe.train.block} tokens, "
            f"and their {recipe.finetune.keep} was kept"
        )
    if texts.unknown is not None:
        notes.append(str(texts.unknown))
    model = opened.classifier(device)
    facts = _facts(opened, model)
    if not facts["layers"]:
        raise DataError(
            "this classifier has no experts left to compare",
            where=str(opened.run.path),
            hint="finetune.drop_last_layer took them; report on the run it was fine-tuned from.",
        )
    return TaskSource(
        model,
        opened.context(),
        tokenizer,
        texts,
        task.manifest.labels,
        corpus=task.name,
        split=split,
        unit=opened.unit,
        notes=notes,
        **facts,
    )


def _without_folder(note: str) -> str:
    """A warning with file names instead of paths, because a report should not reveal folders."""
    for verb in (" holds ", " was taken for "):
        source, found, rest = note.partition(verb)
        if found:
            note = f"{Path(source).name}{found}{rest}"
    return re.sub(r"(?<!\S)[/~]\S*/", "", note)


def _facts(opened: OpenedRun, model: MoEModel) -> dict[str, Any]:
    """The fields of a `Source` that describe the model."""
    recipe = opened.recipe
    return {
        "subject": Subject(
            kind="run",
            name=opened.run.name,
            recipe=recipe.name,
            router=model.router_name,
            similarity=recipe.similarity.preset,
            settings=recipe.model_dump(mode="json"),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            checkpoint=opened.which,
            step=opened.step,
            seed=recipe.train.seed,
            simsmoe=__version__,
            torch=torch.__version__,
        ),
        "layers": [LayerSpec(name, experts) for name, experts in model.expert_layers],
        "block": recipe.train.block,
        "history": read_history(opened.run.events),
        "judged": judged_dead(opened.run.events, opened.step),
    }
