"""Evaluates a run for the command line: its weights on a split of a corpus or task.

A language model is evaluated on a split of a prepared corpus, a fine-tuned run on a split of a
task. A checkpoint names the corpus or task that it was trained on.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from simsmoe_cli.data.store import TokenStore, find_store
from simsmoe_cli.data.tasks.store import Task, open_task
from simsmoe_cli.errors import DataError, UserError, listed, nearest
from simsmoe_cli.model.precision import resolve_precision
from simsmoe_cli.parallel.world import ALONE, World
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run.opened import OpenedRun
from simsmoe_cli.train.allocator import keep_freed_memory
from simsmoe_cli.train.classification_scores import COVERAGE, RESAMPLES, bootstrap, by_class
from simsmoe_cli.train.classify import TaskEvaluation, classify, encode_split, remarks
from simsmoe_cli.train.device import clear_memory_errors
from simsmoe_cli.train.evaluate import Progress, evaluate_split, untold
from simsmoe_cli.train.finish import finish, untested
from simsmoe_cli.train.predictions import require_writable, write_predictions

NO_MEMORY = "Use --device cpu, or a machine with more memory."


def evaluate_run(
    opened: OpenedRun,
    *,
    split: str | None,
    device: torch.device,
    data: Path | None = None,
    task: str | None = None,
    predictions: Path | None = None,
    top_k: int | None = None,
    world: World = ALONE,
    progress: Progress = untold,
) -> dict[str, Any]:
    """Evaluate a run's weights on a whole split; of several ranks, each reads a part of it.

    A run that was trained and not tested is finished by the scores of its best weights on the split
    that is reported, of which it reads as much as the training would have (`eval.final_blocks`).

    Args:
        opened: the run and its checkpoint.
        split: of the run's corpus or task; None takes the one that is reported.
        device: where to compute.
        data: another prepared corpus, for a language model; its tokenizer must be the run's.
        task: another prepared task, for a fine-tuned run; its labels must be the run's.
        predictions: a file to write those of a fine-tuned run to.
        top_k: experts per token; None takes the router's own.
        world: the ranks, all of which call it and get the same.
        progress: told how much is done.

    Returns:
        run, checkpoint, step, unit, top_k, finished (whether it finishes the run), corpus or task,
        split_tokens and documents (of a corpus, documents only of one that has some; an end token
        of each is among the tokens), the fields of an eval event, and for a task all of
        `task_report`.
    """
    _check_top_k(top_k, opened.recipe)
    _check_options(opened, data, task, predictions)
    keep_freed_memory(device)
    known = {
        "run": opened.run.name,
        "checkpoint": opened.which,
        "step": opened.step,
        "unit": opened.unit,
        "top_k": top_k,
    }
    own = opened.which == "best" and data is None and task is None and top_k is None
    finishes = bool(world.from_first(own and untested(opened.run)))
    how: dict[str, Any] = {
        "top_k": top_k,
        "world": world,
        "progress": progress,
        "finishes": finishes,
    }
    if not opened.fine_tuned:
        return known | _on_corpus(opened, _store(opened, data), split or "test", device, **how)
    on = open_task(task, opened.data_dir) if task else opened.task()
    return known | _on_task(opened, on, split or on.reported, device, predictions, **how)


def _check_options(
    opened: OpenedRun, data: Path | None, task: str | None, predictions: Path | None
) -> None:
    """Raise a UserError for an option that is not for this kind of model."""
    if opened.fine_tuned:
        if data is not None:
            raise UserError(
                "this run classifies texts, and predicts no corpus",
                where="--data",
                hint="Name a task with --task, or evaluate the run it came from: "
                f"{opened.state['pretrained']['run']}.",
            )
        return
    for option, given in (("--task", task), ("--predictions", predictions)):
        if given is not None:
            raise UserError(
                "this run is a language model, which classifies nothing",
                where=option,
                hint="Fine-tune it first: simsmoe finetune --from RUN --task NAME.",
            )


def _store(opened: OpenedRun, data: Path | None) -> TokenStore:
    """The corpus to evaluate a language model on: its own, or another with its tokenizer."""
    if data is None:
        return opened.corpus()
    store = TokenStore.open(find_store(str(data), opened.data_dir))
    if store.manifest.vocabulary != opened.state["vocabulary"]:
        raise DataError(
            "the corpus was prepared with another tokenizer or vocabulary than the run's",
            where=str(store.path),
            hint="Prepare it with the run's: simsmoe prepare-data PATH --vocab-from "
            f"{shlex.quote(opened.state['store'])}",
        )
    return store


def _on_corpus(
    opened: OpenedRun,
    store: TokenStore,
    split: str,
    device: torch.device,
    *,
    top_k: int | None,
    world: World,
    progress: Progress,
    finishes: bool,
) -> dict[str, Any]:
    """A language model on a split of a corpus; `finishes`: its test finishes the run."""
    manifest = store.manifest
    _require_split(split, manifest.splits)
    recipe = opened.recipe
    finishes = finishes and split == "test"
    with clear_memory_errors(device, NO_MEMORY):
        model = opened.language_model(device)
        result = evaluate_split(
            model,
            store.checked_split(split),
            block=recipe.train.block,
            streams=recipe.eval.streams,
            overlap=recipe.eval.overlap,
            max_blocks=recipe.eval.final_blocks if finishes else 0,
            precision=resolve_precision(recipe.train.precision, device),
            context=opened.context(top_k),
            world=world,
            progress=progress,
        )
    scores = result.on_split(split, manifest)
    if finishes and world.first:
        finish(opened, model, scores, result.test_scores(manifest))
    tokens, documents = manifest.splits[split].tokens, manifest.splits[split].documents
    of = {"split_tokens": tokens} | ({"documents": documents} if documents else {})
    return {"finished": finishes, "corpus": manifest.name, **of, **scores}


def _on_task(
    opened: OpenedRun,
    task: Task,
    split: str,
    device: torch.device,
    predictions: Path | None,
    *,
    top_k: int | None,
    world: World,
    progress: Progress,
    finishes: bool,
) -> dict[str, Any]:
    """A fine-tuned run on a split of a task; `finishes`: its test finishes the run."""
    recipe = opened.recipe
    if task.labels != opened.labels:
        raise DataError(
            "the task's labels are not those this run was fine-tuned on: "
            f"{listed(task.labels, 5)}, not {listed(opened.labels, 5)}",
            where=str(task.path),
            hint=f"Use a task with the labels of {opened.state['task']['name']}, in their order.",
        )
    if predictions is not None and world.first:
        require_writable(predictions)
    _require_split(split, task.manifest.splits)
    encoded = encode_split(recipe, task.split(split), opened.vocabulary)
    with clear_memory_errors(device, NO_MEMORY):
        rows = recipe.train.batch // recipe.train.micro_batches
        precision = resolve_precision(recipe.train.precision, device)
        model = opened.classifier(device)
        result = classify(model, encoded, rows, precision, opened.context(top_k), world, progress)
    if predictions is not None and world.first:
        write_predictions(predictions, result, task.split(split), task.labels)
    finishes = finishes and split == task.reported
    if finishes and world.first:
        finish(opened, model, result.event(split), result.test_scores())
    about = {"finished": finishes, "task": task.name, "warnings": remarks(split, encoded, recipe)}
    return about | result.on_split(split) | task_report(result, task)


def _require_split(split: str, known: Collection[str]) -> None:
    if split not in known:
        raise UserError(f"no split '{split}'", where="--split", hint=nearest(split, known))


def task_report(result: TaskEvaluation, task: Task) -> dict[str, Any]:
    """Scores of the predictions, with intervals and a baseline.

    Returns:
        interval {accuracy, macro_f1: [low, high]} and bootstrap {resamples, coverage, examples};
        majority {label, accuracy} of always predicting the most frequent class of train; labels,
        confusion [C][C] (rows: the right class) and classes [{label, precision, recall, f1,
        support}].
    """
    matrix = result.confusion_CC
    per_label = task.manifest.splits["train"].per_label
    majority = per_label.index(max(per_label))
    return {
        "interval": {
            name: [interval.low, interval.high] for name, interval in bootstrap(matrix).items()
        },
        "bootstrap": {
            "resamples": RESAMPLES,
            "coverage": COVERAGE,
            "examples": len(result.label_E),
        },
        "majority": {
            "label": task.labels[majority],
            "accuracy": float((result.label_E == majority).mean()),
        },
        "labels": task.labels,
        "confusion": matrix.tolist(),
        "classes": [
            {"label": label, **vars(scores)}
            for label, scores in zip(task.labels, by_class(matrix), strict=True)
        ],
    }


def _check_top_k(top_k: int | None, recipe: Recipe) -> None:
    """Raise a UserError unless this model can send a token to `top_k` experts."""
    if top_k is None:
        return
    if recipe.huggingface.used:
        raise UserError(
            "a Hugging Face model sends a token to as many experts as its config.json says",
            where="--top-k",
            hint="Leave it out.",
        )
    if "g" not in recipe.model.pattern:
        raise UserError("this model has no experts", where="--top-k", hint="Leave it out.")
    if not 1 <= top_k <= recipe.moe.experts:
        raise UserError(
            f"a token cannot go to {top_k} of {recipe.moe.experts} experts",
            where="--top-k",
            hint=f"Use 1 to {recipe.moe.experts}.",
        )
