"""Finds settings that are valid alone but contradict each other, or would be ignored.

This module has the checks that concern several sections. Checks of one section are in the module of
its fields: `moe.py`, `routers.py`, `similarity.py`, `parallel.py`. `schema_errors.py` words the
errors of values that do not fit the schema.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from simsmoe_cli.errors import printable
from simsmoe_cli.recipe.fields import default_of
from simsmoe_cli.recipe.routers import RouterSections
from simsmoe_cli.recipe.schema import ModelSettings, Recipe
from simsmoe_cli.recipe.section import Problem

MOST_ROWS = 2**24
MOST_LAYERS = 2_000  # sub-layers of a model


def contradictions(recipe: Recipe) -> list[Problem]:
    """Settings that contradict each other, and settings that would be ignored."""
    model, moe = recipe.model, recipe.moe
    width, experts = model.width, moe.experts
    if recipe.huggingface.used:  # its own model decides, whose experts are not known here
        hidden = recipe.huggingface.config.get("hidden_size")
        width, experts = hidden if isinstance(hidden, int) else 1 << 20, 1 << 20
    return [
        *(
            _huggingface_problems(recipe)
            if recipe.huggingface.used
            else _own_model_problems(recipe)
        ),
        *recipe.similarity.problems(model.pattern, width, experts),
        *_train_problems(recipe),
        *_eval_problems(recipe),
        *_finetune_problems(recipe),
        *recipe.parallel.problems(
            moe.experts, moe.backend, has_experts="g" in recipe.model.pattern
        ),
    ]


def _own_model_problems(recipe: Recipe) -> Iterator[Problem]:
    """Contradictions in the sections that describe a model of ours."""
    model, moe = recipe.model, recipe.moe
    has_experts = "g" in model.pattern
    yield from _model_problems(model)
    yield from moe.problems(model.width, has_experts=has_experts)
    yield from recipe.router_problems(moe, causal=not recipe.finetune.task, has_experts=has_experts)
    for name in ("config", "layers"):
        if getattr(recipe.huggingface, name):
            yield Problem(
                (f"huggingface.{name}", "huggingface.folder"),
                "has no effect without huggingface.folder",
                "Leave it out.",
            )


def _huggingface_problems(recipe: Recipe) -> Iterator[Problem]:
    """Settings that contradict a model of transformers."""
    given = {
        name: getattr(recipe, name).model_fields_set
        for name in ("model", "moe", *RouterSections.model_fields)
        if name in recipe.model_fields_set
    }
    train, data = recipe.train, recipe.data
    yield from recipe.huggingface.problems(
        given, data.tokenizer, train.compile, train.block, data.attend_within_documents
    )
    if recipe.parallel.expert > 1:
        yield Problem(
            ("parallel.expert", "huggingface.folder"),
            "the experts of a Hugging Face model are not divided among ranks",
            "Leave it out.",
        )
    if recipe.finetune.drop_last_layer:
        yield Problem(
            ("finetune.drop_last_layer", "huggingface.folder"),
            "a Hugging Face model keeps all its layers",
            "Set it to false.",
        )


def _model_problems(model: ModelSettings) -> Iterator[Problem]:
    layers = len(model.sublayers)
    if layers > MOST_LAYERS:
        yield Problem(
            ("model.repeats", "model.pattern"),
            f"{layers:,} sub-layers are more than the {MOST_LAYERS:,} there may be",
            f"Use at most {MOST_LAYERS // len(model.pattern):,}.",
        )
    if model.width % model.heads:
        divisors = [n for n in range(1, model.width + 1) if model.width % n == 0]
        yield Problem(
            ("model.heads", "model.width"),
            f"{model.heads} heads do not divide the width {model.width}",
            f"The nearest number that does is {_closest(model.heads, divisors)}.",
        )
    elif model.attention == "rope" and (model.width // model.heads) % 2:
        yield Problem(
            ("model.heads", "model.width", "model.attention"),
            f"rope needs an even head width, and {model.width}/{model.heads} is odd",
            "Change model.heads or model.width.",
        )
    if model.moe_norm == "double" and "g" not in model.pattern:
        yield Problem(
            ("model.moe_norm", "model.pattern"),
            f"'double' needs a mixture of experts, and pattern '{model.pattern}' has no g",
            "Set it to single.",
        )
    if model.attention == "relative" and model.rope_base != default_of("model.rope_base"):
        yield Problem(
            ("model.rope_base", "model.attention"),
            "has no effect with relative attention",
            "Leave it out.",
        )


def _train_problems(recipe: Recipe) -> Iterator[Problem]:
    train = recipe.train
    if train.batch % train.micro_batches:
        divisors = [n for n in range(1, train.batch + 1) if train.batch % n == 0]
        yield Problem(
            ("train.micro_batches", "train.batch"),
            f"{train.micro_batches} does not divide the batch of {train.batch}",
            f"The nearest number that does is {_closest(train.micro_batches, divisors)}.",
        )
    elif (rows := _rows(recipe)) > MOST_ROWS:
        yield Problem(
            ("train.batch", "train.micro_batches", "train.block", "moe.top_k", "model.pattern"),
            f"a micro-batch of {rows:,} tokens, counted once for each of their experts, is more "
            f"than the {MOST_ROWS:,} there may be",
            "Raise train.micro_batches, or lower train.batch or train.block.",
        )
    if train.order == "shuffled" and recipe.model.attention == "relative":
        yield Problem(
            ("train.order", "model.attention"),
            "relative attention carries memory from block to block, so blocks must be in order",
            "Set it to auto or contiguous.",
        )
    if train.warmup_steps > train.steps:
        yield Problem(
            ("train.warmup_steps", "train.steps"),
            f"{train.warmup_steps} steps of warm-up are more than the {train.steps} of training",
            f"Use at most {train.steps}.",
        )
    if any(not 0 <= beta < 1 for beta in train.betas):
        yield Problem(
            ("train.betas",), f"must each be at least 0 and below 1, got {printable(train.betas)}"
        )
    if train.schedule == "multistep":
        if not train.milestones:
            yield Problem(
                ("train.milestones", "train.schedule"),
                "schedule multistep needs at least one step",
                "For example [20000, 40000].",
            )
        if any(a >= b for a, b in itertools.pairwise([0, *train.milestones])):
            yield Problem(
                ("train.milestones",),
                f"must be positive and ascending, got {printable(train.milestones)}",
            )
    for name, schedules in (
        ("milestones", ("multistep",)),
        ("gamma", ("multistep",)),
        ("final_lr_ratio", ("linear", "cosine")),
    ):
        given = getattr(train, name)
        if train.schedule not in schedules and given != default_of(f"train.{name}"):
            yield Problem(
                (f"train.{name}", "train.schedule"),
                f"has no effect with schedule {train.schedule}",
                f"Leave it out, or set train.schedule to {' or '.join(schedules)}.",
            )


def _rows(recipe: Recipe) -> int:
    """Rows of activations that a micro-batch has in its widest sub-layer."""
    train = recipe.train
    each = recipe.moe.top_k if "g" in recipe.model.pattern else 1
    return train.batch // train.micro_batches * train.block * each


def _eval_problems(recipe: Recipe) -> Iterator[Problem]:
    overlap, block = recipe.eval.overlap, recipe.train.block
    if overlap and recipe.model.attention == "relative":
        yield Problem(
            ("eval.overlap", "model.attention"),
            "relative attention carries its context along, so blocks must not overlap",
            "Set it to 0.",
        )
    elif overlap >= block:
        yield Problem(
            ("eval.overlap", "train.block"),
            f"{overlap} leaves nothing new in a block of {block}",
            f"Use at most {block - 1}.",
        )


def _finetune_problems(recipe: Recipe) -> Iterator[Problem]:
    if not recipe.finetune.task:
        yield from recipe.finetune.without_effect(
            "finetune", "pre-training", "or set finetune.task", "finetune.task"
        )
        return
    for name in ("order", "validate_blocks"):
        if getattr(recipe.train, name) != default_of(f"train.{name}"):
            yield Problem(
                (f"train.{name}", "finetune.task"),
                "has no effect in fine-tuning, which shuffles examples and validates on all",
                "Leave it out.",
            )
    yield from recipe.eval.without_effect(
        "eval", "a task", "as a task is evaluated text by text", "finetune.task"
    )


def _closest(number: int, candidates: Iterable[int]) -> int:
    return min(candidates, key=lambda candidate: (abs(candidate - number), candidate))
