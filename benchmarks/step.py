"""Training steps of a model against the machine's limit and against peers.

A step is forward, backward, clipping and the optimizer, on random tokens. The limit is a matrix
product at the shape that most of the model's arithmetic has. Model FLOPs are the matrix products a
token needs, forward (counted below) and twice that backward; attention counts the keys a causal
window lets a query see. Nothing recomputed counts.

Shapes: B batch, M block, T = B*M tokens, D width, H hidden width, N experts, K per token.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.timing import Case
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.train.evaluate import autocast
from simsmoe_cli.train.optim import build_optimizer

VOCABULARY = 205
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Way:
    """How a model is run: in "fp32" or "bf16", a training step or the forward pass, compiled."""

    precision: str = "fp32"
    train: bool = True
    compiled: bool = False


@dataclass
class Shape:
    """Tokens of one step: B streams of M."""

    batch: int = 8
    block: int = 1024

    @property
    def tokens(self) -> int:
        return self.batch * self.block

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        size = (2, self.batch, self.block)
        inputs, targets = torch.randint(VOCABULARY, size, generator=generator)
        return inputs, targets


def modern(*overrides: str) -> Recipe:
    """mistral-modern with four of its layers and no similarity learning, unless told otherwise."""
    return load_recipe("mistral-modern", ["model.repeats=4", "similarity.preset=none", *overrides])


def step_case(
    name: str,
    recipe: Recipe,
    shape: Shape,
    way: Way = Way(),
    contexts: Iterator[StepContext] | None = None,
) -> Case:
    """A training step of a recipe's model, or its forward pass alone; contexts are those of the
    steps, one after the other."""
    torch.manual_seed(0)
    model = LanguageModel(recipe, VOCABULARY)
    call = torch.compile(model, dynamic=False) if way.compiled else model
    optimizer = build_optimizer(model, recipe.train)
    inputs, targets = shape.draw()
    steps = contexts or itertools.repeat(StepContext(step=50, total_steps=100))

    def forward() -> torch.Tensor:
        with autocast(CPU, way.precision):
            output = call(inputs, model.initial_memory(shape.batch), next(steps))
        loss = F.cross_entropy(output.logits.flatten(0, 1).float(), targets.flatten())
        for value in output.losses.values():
            loss = loss + 0.01 * value
        return loss

    return Case(name, _step(model, optimizer, forward, way.train), shape.tokens, "tokens")


def _step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    forward: Callable[[], torch.Tensor],
    train: bool,
) -> Callable[[], None]:
    def step() -> None:
        if not train:
            with torch.inference_mode():
                forward()
            return
        forward().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    model.train(train)
    return step


def mixtral(recipe: Recipe, vocabulary: int) -> torch.nn.Module:
    """transformers' Mixtral with the recipe's widths (extra `bench`)."""
    from transformers import MixtralConfig, MixtralForCausalLM

    settings, moe = recipe.model, recipe.moe
    options: dict[str, Any] = {"experts_implementation": "grouped_mm", "pad_token_id": None}
    config = MixtralConfig(
        vocab_size=vocabulary,
        hidden_size=settings.width,
        intermediate_size=moe.hidden,
        num_hidden_layers=settings.repeats,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        num_local_experts=moe.experts,
        num_experts_per_tok=moe.top_k,
        sliding_window=settings.span,
        max_position_embeddings=recipe.train.block,
        output_router_logits=True,
        attn_implementation="sdpa",
        bos_token_id=None,
        eos_token_id=None,
        **options,
    )
    model: torch.nn.Module = MixtralForCausalLM(config)
    return model


def mixtral_case(name: str, recipe: Recipe, shape: Shape, way: Way = Way()) -> Case:
    """The same of transformers' Mixtral."""
    torch.manual_seed(0)
    model = mixtral(recipe, VOCABULARY)
    call = torch.compile(model, dynamic=False) if way.compiled else model
    optimizer = build_optimizer(model, recipe.train)
    inputs, targets = shape.draw()

    def forward() -> torch.Tensor:
        with autocast(CPU, way.precision):
            # Mixtral shifts labels itself; as many predictions, which is all that time depends on.
            loss: torch.Tensor = call(input_ids=inputs, labels=targets, use_cache=False).loss
        return loss

    return Case(name, _step(model, optimizer, forward, way.train), shape.tokens, "tokens")


def product_case(name: str, recipe: Recipe, shape: Shape, dtype: torch.dtype) -> Case:
    """The limit: one dense product of the rows an expert layer sees, [T*K, D] x [D, 2H]."""
    rows = shape.tokens * recipe.moe.top_k
    inner = recipe.moe.hidden * (2 if recipe.model.activation == "swiglu" else 1)
    left = torch.randn(rows, recipe.model.width).to(dtype)
    right = torch.randn(recipe.model.width, inner).to(dtype)
    out = torch.empty(rows, inner, dtype=dtype)
    times = 10

    def run() -> None:
        for _ in range(times):
            torch.mm(left, right, out=out)

    return Case(name, run, times * 2 * rows * recipe.model.width * inner / 1e9, "GFLOP")


def model_flops(recipe: Recipe, shape: Shape, *, train: bool = True) -> float:
    """Floating-point operations of one step's matrix products; 3 times forward for training."""
    settings, moe = recipe.model, recipe.moe
    width, kinds = settings.width, settings.sublayers
    matrices = 3 if settings.activation == "swiglu" else 2
    window = settings.span
    keys = [min(i + 1, window) for i in range(shape.block)]
    if settings.attention == "relative":
        keys = [window] * shape.block
    attention = 4 * width * width + 2 * width * sum(keys) / len(keys)
    if settings.attention == "relative":
        attention += width * window
    experts = moe.top_k * matrices * width * moe.hidden + width * moe.experts
    dense = matrices * width * settings.ffn_hidden
    per_token = (
        kinds.count("s") * attention
        + kinds.count("g") * experts
        + kinds.count("f") * dense
        + width * VOCABULARY
    )
    return 2 * per_token * shape.tokens * (3 if train else 1)


def dense_peer(recipe: Recipe) -> Recipe:
    """A dense model of equal active FLOPs: each MoE layer one FFN of K times the width."""
    pattern = recipe.model.pattern.replace("g", "f")
    hidden = recipe.moe.hidden * recipe.moe.top_k
    model = recipe.model.model_copy(update={"pattern": pattern, "ffn_hidden": hidden})
    return recipe.model_copy(update={"model": model})
