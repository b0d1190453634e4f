"""From a run folder to a source of a report: a checkpoint, and held-out text of what it trained on.

A run is opened without the trainer. A pre-trained one is measured on its corpus, a fine-tuned one
on its task; either must be the one that the checkpoint names, so that held-out text is held out.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from simsmoe_cli import __version__
from simsmoe_cli.collapse.findings import Subject
from simsmoe_cli.collapse.measure.training_history import read_history
from simsmoe_cli.collapse.sources.base import LayerSpec
from simsmoe_cli.collapse.sources.run import CorpusSource, RunSource, TaskSource
from simsmoe_cli.data.store import TokenStore, find_store, is_store
from simsmoe_cli.data.tasks.encode import encode
from simsmoe_cli.data.tasks.store import Task, is_task, open_task
from simsmoe_cli.data.tokenizers.base import Tokenizer
from simsmoe_cli.data.tokenizers.names import tokenizer_class
from simsmoe_cli.errors import EXIT_DATA, UserError, nearest
from simsmoe_cli.model.classifier import Classifier
from simsmoe_cli.model.language_model import Backbone, LanguageModel
from simsmoe_cli.moe.layer import portable
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run import checkpoint, weights
from simsmoe_cli.run.checkpoint_state import STATE
from simsmoe_cli.run.folder import RunDir

M = TypeVar("M", bound=Backbone)


@dataclass(frozen=True)
class _Opened:
    """A checkpoint before its model is built."""

    run: RunDir
    asked_for: str
    folder: Path
    state: dict[str, Any]
    recipe: Recipe
    data_dir: Path
    device: torch.device

    @property
    def context(self) -> StepContext:
        return StepContext(step=self.state["step"], total_steps=self.recipe.train.steps)

    def model(self, make: Callable[[], M]) -> M:
        """The model with its weights."""
        return weights.open_model(self.folder, self.state, make, self.device)

    def facts(self, model: Backbone) -> dict[str, Any]:
        """What a source tells of the model."""
        names = {module: name for name, module in model.named_modules()}
        recipe = self.recipe
        return {
            "subject": Subject(
                kind="run",
                name=self.run.name,
                recipe=recipe.name,
                router=recipe.moe.router,
                similarity=recipe.similarity.preset,
                settings=recipe.model_dump(mode="json"),
                parameters=sum(parameter.numel() for parameter in model.parameters()),
                checkpoint=self.asked_for,
                step=self.state["step"],
                seed=recipe.train.seed,
                simsmoe=__version__,
                torch=torch.__version__,
            ),
            "layers": [LayerSpec(names[layer], recipe.moe.experts) for layer in model.moe_layers],
            "block": recipe.train.block,
            "history": read_history(self.run.events),
        }


def checkpoints(run: RunDir, which: str) -> list[str]:
    """What `open_run` is to open, oldest first: "all" names every step, and best if it is none.

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
) -> RunSource:
    """A run's weights and a split of the corpus or the task it was trained on.

    Args:
        run: its folder.
        which: "best", "last" or a step.
        split: "valid", "test" or "train". For a task, "test" is the split its results are reported
            on, whatever its name.
        data_dir: where the corpus or task is looked for by name, before the place it had in
            training.
        device: where to compute.

    Raises:
        UserError: no such checkpoint, split, corpus or task, another one, or a model without
            experts.
    """
    folder = checkpoint.find(run, which)
    state = checkpoint.read_state(folder)
    recipe = checkpoint.recipe_of(folder, state)
    opened = _Opened(run, which, folder, state, recipe, data_dir, device)
    if "g" not in recipe.model.pattern:
        raise UserError(
            "this model has no experts, so none can be alike",
            where=str(run.path),
            hint="model.pattern needs a 'g'.",
            code=EXIT_DATA,
        )
    return _on_task(opened, split) if "task" in state else _on_corpus(opened, split)


def _on_corpus(opened: _Opened, split: str) -> CorpusSource:
    """A language model and its corpus."""
    store = _corpus(opened)
    if split not in store.manifest.splits:
        raise UserError(
            f"no split '{split}'", where="--split", hint=nearest(split, store.manifest.splits)
        )
    if store.manifest.splits[split].tokens < 2:
        raise UserError(
            f"the {split} split is too short to measure on",
            where=str(store.path),
            hint="Prepare more text, or choose another --split.",
            code=EXIT_DATA,
        )
    recipe = portable(opened.recipe, opened.device)
    size = opened.state["vocab_size"]
    model = opened.model(lambda: LanguageModel(recipe, size))
    return CorpusSource(
        model,
        opened.context,
        store,
        corpus=store.manifest.name,
        split=split,
        unit=store.manifest.unit,
        notes=[_without_folder(note) for note in store.manifest.warnings],
        **opened.facts(model),
    )


def _on_task(opened: _Opened, split: str) -> TaskSource:
    """A classifier and its task."""
    state, recipe = opened.state, portable(opened.recipe, opened.device)
    task = _task(opened)
    if split == "test":
        split = task.reported
    if split not in task.manifest.splits:
        raise UserError(
            f"no split '{split}'", where="--split", hint=nearest(split, task.manifest.splits)
        )
    tokenizer = _tokenizer(opened)
    texts = encode(task.split(split), tokenizer, recipe.train.block, recipe.finetune.keep)
    notes = [_without_folder(note) for note in task.manifest.warnings]
    if texts.cut:
        notes.append(
            f"{texts.cut:,} of {len(texts):,} texts are longer than {recipe.train.block} tokens, "
            f"and their {recipe.finetune.keep} was kept"
        )
    if texts.unknown is not None:
        notes.append(str(texts.unknown))
    model = opened.model(lambda: Classifier(recipe, state["vocab_size"], len(task.labels)))
    facts = opened.facts(model)
    if not facts["layers"]:
        raise UserError(
            "this classifier has no experts left, so none can be alike",
            where=str(opened.run.path),
            hint="finetune.drop_last_layer took them; report on the run it was fine-tuned from.",
            code=EXIT_DATA,
        )
    return TaskSource(
        model,
        opened.context,
        tokenizer,
        texts,
        corpus=task.name,
        split=split,
        unit=state["unit"],
        notes=notes,
        **facts,
    )


def _without_folder(note: str) -> str:
    """A warning with the names of files alone: where they lay is nobody else's business."""
    for verb in (" holds ", " was taken for "):
        source, found, rest = note.partition(verb)
        if found:
            note = f"{Path(source).name}{found}{rest}"
    return re.sub(r"(?<!\S)[/~]\S*/", "", note)


def _corpus(opened: _Opened) -> TokenStore:
    """The corpus a checkpoint was trained on, by name or where it was then."""
    name, trained_on = opened.recipe.data.corpus, Path(opened.state["store"])
    by_name = is_store(opened.data_dir / name) or not is_store(trained_on)
    store = TokenStore.open(find_store(name, opened.data_dir) if by_name else trained_on)
    if store.manifest.fingerprint != opened.state["corpus"]:
        raise _another("corpus", store.path, trained_on)
    return store


def _task(opened: _Opened) -> Task:
    """The task a checkpoint was fine-tuned on, by name or where it was then."""
    known = opened.state["task"]
    name, trained_on = opened.recipe.finetune.task, Path(known["path"])
    by_name = is_task(opened.data_dir / name) or not is_task(trained_on)
    task = open_task(name, opened.data_dir) if by_name else Task.open(trained_on)
    if task.manifest.fingerprint != known["fingerprint"]:
        raise _another("task", task.path, trained_on)
    return task


def _another(what: str, found: Path, trained_on: Path) -> UserError:
    return UserError(
        f"the prepared {what} is not the one this run was trained on, so its held-out text may "
        "have been trained on",
        where=str(found),
        hint="Move it away, or name the right place with --data-dir: the run's was "
        f"{shlex.quote(str(trained_on.parent))}.",
        code=EXIT_DATA,
    )


def _tokenizer(opened: _Opened) -> Tokenizer:
    """The tokenizer that a fine-tuned run took along."""
    known = opened.state["tokenizer"]
    path = opened.run.path / known["file"]
    why = "its checksum does not match"
    try:
        content = path.read_bytes()
    except OSError as error:
        content, why = b"", str(error.strerror)
    if hashlib.sha256(content).hexdigest() != opened.state["vocabulary"]:
        raise UserError(
            f"damaged tokenizer: {why}",
            where=str(path),
            hint="Copy it from the corpus the model was pre-trained on.",
            code=EXIT_DATA,
        )
    return tokenizer_class(known["kind"]).load(content)
