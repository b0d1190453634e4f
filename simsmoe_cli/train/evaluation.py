"""Evaluating as the command line does: which weights, which text, and a report.

A run of a language model is evaluated on a split of a prepared corpus, a fine-tuned run on a split
of a task. Both know what they were trained on.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import shlex
import tempfile
from pathlib import Path
from typing import Any

import torch

from simsmoe_cli.data.store import TokenStore, find_store, is_store
from simsmoe_cli.data.tasks.store import Example, Task, open_task
from simsmoe_cli.errors import EXIT_DATA, UserError, listed, nearest
from simsmoe_cli.files.atomic import whole_file
from simsmoe_cli.model.classifier import Classifier
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.model.precision import resolve_precision
from simsmoe_cli.moe.layer import portable
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run import checkpoint, weights
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.vocabulary import Vocabulary
from simsmoe_cli.train.allocator import keep_freed_memory
from simsmoe_cli.train.classification_scores import COVERAGE, RESAMPLES, bootstrap, by_class
from simsmoe_cli.train.evaluate import evaluate_split
from simsmoe_cli.train.objectives.classification import (
    TaskEvaluation,
    classify,
    encode_split,
    remarks,
)
from simsmoe_cli.train.plan_finetuning import open_task_of
from simsmoe_cli.train.session import clear_memory_errors, open_store

NO_MEMORY = "Use --device cpu, or a machine with more memory."


def evaluate_run(
    run: RunDir,
    *,
    split: str | None,
    which: str,
    data_dir: Path,
    device: torch.device,
    store_path: Path | None = None,
    task: str | None = None,
    predictions: Path | None = None,
    top_k: int | None = None,
) -> dict[str, Any]:
    """Evaluate a run's weights on a whole split.

    Args:
        run, which: the run and its checkpoint: "best", "last" or a step.
        split: of the run's corpus or task; None takes the one that is reported.
        data_dir: where the run's corpus or task is looked for by name, before the place it had in
            training.
        device: where to compute.
        store_path: another prepared corpus, for a language model; its tokenizer must be the run's.
        task: another prepared task, for a fine-tuned run; its labels must be the run's.
        predictions: a file to write those of a fine-tuned run to.
        top_k: experts per token; None takes the router's own.

    Returns:
        run, checkpoint, step, unit, top_k, corpus or task, the fields of an eval event, and for a
        task all of `task_report`.
    """
    folder = checkpoint.find(run, which)
    state = checkpoint.read_state(folder)
    recipe = checkpoint.recipe_of(folder, state)
    _check_top_k(top_k, recipe)
    context = StepContext(step=state["step"], total_steps=recipe.train.steps, top_k=top_k)
    keep_freed_memory(device)
    known = {
        "run": run.name,
        "checkpoint": which,
        "step": state["step"],
        "unit": state["unit"],
        "top_k": top_k,
    }
    if "task" not in state:
        for option, given in (("--task", task), ("--predictions", predictions)):
            if given is not None:
                raise UserError(
                    "this run is a language model, which classifies nothing",
                    where=option,
                    hint="Fine-tune it first: simsmoe finetune --from RUN --task NAME.",
                )
        return known | _on_corpus(
            folder, state, recipe, split or "test", store_path, data_dir, device, context
        )
    if store_path is not None:
        raise UserError(
            "this run classifies texts, and predicts no corpus",
            where="--data",
            hint="Name a task with --task, or evaluate the run it came from: "
            f"{state['pretrained']['run']}.",
        )
    on = open_task(task, data_dir) if task else open_task_of(state, recipe.finetune.task, data_dir)
    split = split or on.reported
    if predictions is not None:
        require_writable(predictions)
    result, notes = _on_task(run, folder, state, recipe, on, split, device, context)
    if predictions is not None:
        write_predictions(predictions, result, on.split(split), on.labels)
    report = task_report(result, on)
    return known | {"task": on.name, "warnings": notes} | result.on_split(split) | report


def _on_corpus(
    folder: Path,
    state: dict[str, Any],
    recipe: Recipe,
    split: str,
    store_path: Path | None,
    data_dir: Path,
    device: torch.device,
    context: StepContext,
) -> dict[str, Any]:
    """A language model on a split of a corpus."""
    if store_path is not None:
        store = TokenStore.open(find_store(str(store_path), data_dir))
    else:
        trained_on = Path(state["store"])
        by_name = is_store(data_dir / recipe.data.corpus) or not is_store(trained_on)
        store = open_store(recipe, data_dir) if by_name else TokenStore.open(trained_on)
        if store.manifest.fingerprint != state["corpus"]:
            raise UserError(
                "the prepared corpus is not the one this run was trained on",
                where=str(store.path),
                hint=f"To evaluate on it all the same: --data {shlex.quote(str(store.path))}",
                code=EXIT_DATA,
            )
    if store.manifest.vocabulary != state["vocabulary"]:
        raise UserError(
            "the corpus was prepared with another tokenizer or vocabulary than the run's",
            where=str(store.path),
            hint="Prepare it with the run's: simsmoe prepare-data PATH --vocab-from "
            f"{shlex.quote(state['store'])}",
            code=EXIT_DATA,
        )
    if split not in store.manifest.splits:
        raise UserError(
            f"no split '{split}'", where="--split", hint=nearest(split, store.manifest.splits)
        )
    with clear_memory_errors(device, NO_MEMORY):
        built = portable(recipe, device)
        model = weights.open_model(
            folder, state, lambda: LanguageModel(built, state["vocab_size"]), device
        )
        result = evaluate_split(
            model,
            store.checked_split(split),
            block=recipe.train.block,
            streams=recipe.eval.streams,
            overlap=recipe.eval.overlap,
            precision=resolve_precision(recipe.train.precision, device),
            context=context,
        )
    return {"corpus": store.manifest.name, **result.on_split(split, store.manifest)}


def _on_task(
    run: RunDir,
    folder: Path,
    state: dict[str, Any],
    recipe: Recipe,
    task: Task,
    split: str,
    device: torch.device,
    context: StepContext,
) -> tuple[TaskEvaluation, list[str]]:
    """A fine-tuned run on a split of a task, and what could not be kept of the texts."""
    labels = state["task"]["labels"]
    if task.labels != labels:
        raise UserError(
            "the task's labels are not those this run was fine-tuned on: "
            f"{listed(task.labels, 5)}, not {listed(labels, 5)}",
            where=str(task.path),
            hint=f"Use a task with the labels of {state['task']['name']}, in their order.",
            code=EXIT_DATA,
        )
    if split not in task.manifest.splits:
        raise UserError(
            f"no split '{split}'", where="--split", hint=nearest(split, task.manifest.splits)
        )
    vocabulary = Vocabulary.of_run(run, state)
    encoded = encode_split(recipe, task.split(split), vocabulary)
    with clear_memory_errors(device, NO_MEMORY):
        built = portable(recipe, device)
        model = weights.open_model(
            folder, state, lambda: Classifier(built, state["vocab_size"], len(labels)), device
        )
        rows = recipe.train.batch // recipe.train.micro_batches
        precision = resolve_precision(recipe.train.precision, device)
        result = classify(model, encoded, rows, precision, context)
    return result, remarks(split, encoded, recipe)


def task_report(result: TaskEvaluation, task: Task) -> dict[str, Any]:
    """How good predictions are, and against what.

    Returns:
        interval {accuracy, macro_f1: [low, high]} and bootstrap {resamples, coverage, examples};
        majority {label, accuracy} of always saying what is most frequent in train; labels,
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


def require_writable(path: Path) -> None:
    """Raise a UserError where predictions cannot be written, before they cost anything."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not path.exists():
            with tempfile.TemporaryFile(dir=path.parent):
                return
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(path, error) from None


def write_predictions(
    path: Path, result: TaskEvaluation, examples: list[Example], labels: list[str]
) -> None:
    """One row an example, in the order of the split: index, label, predicted, probability (of the
    predicted class) and text, as CSV, or as JSON lines where the file's name ends with .jsonl or
    .json."""
    rows = [
        {
            "index": index,
            "label": labels[label],
            "predicted": labels[predicted],
            "probability": round(float(probability[predicted]), 6),
            "text": example.text,
        }
        for index, (label, predicted, probability, example) in enumerate(
            zip(result.label_E, result.predicted_E, result.probability_EC, examples, strict=True)
        )
    ]
    special = path.exists() and not path.is_file()  # such as a pipe
    try:
        with (
            contextlib.nullcontext(path) if special else whole_file(path) as place,
            open(place, "w", encoding="utf-8", newline="") as file,
        ):
            if path.suffix in (".jsonl", ".json"):
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            else:
                table = csv.DictWriter(file, list(rows[0]))
                table.writeheader()
                table.writerows(rows)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write the predictions: {error.strerror}",
        where=str(path),
        hint="Name a file in a folder that can be written to.",
        code=EXIT_DATA,
    )


def _check_top_k(top_k: int | None, recipe: Recipe) -> None:
    """Raise a UserError unless a token of this model can go to so many experts."""
    if top_k is None:
        return
    if "g" not in recipe.model.pattern:
        raise UserError("this model has no experts", where="--top-k", hint="Leave it out.")
    if not 1 <= top_k <= recipe.moe.experts:
        raise UserError(
            f"a token cannot go to {top_k} of {recipe.moe.experts} experts",
            where="--top-k",
            hint=f"Use 1 to {recipe.moe.experts}.",
        )
