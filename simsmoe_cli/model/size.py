"""Computes the cost of a recipe before training: parameters, arithmetic, memory.

The model is built and run forward on fake tensors, which have shapes but no contents, so the counts
come from the code that trains and not from a separate formula. Arithmetic is the usual count of
model FLOPs (Kaplan et al. 2001.08361, Chowdhery et al. 2204.02311): two per weight that multiplies
a token, plus the products of attention, and a training step is three forward passes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode

from simsmoe_cli.errors import EXIT_OUT_OF_MEMORY, UserError
from simsmoe_cli.kernels.cpu import as_on_accelerators
from simsmoe_cli.model.flops import (
    forward_flops,
    model_parameters,
    similarity_flops,
    training_flops,
)
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.similarity.cost import Cost

MOST_BYTES = 10**15  # a million GB, a thousand times what the largest machines have
BASIS = {
    "active_parameters": "Active parameters: all but the experts a token is not sent to, tables "
    "included.",
    "flops": "FLOPs: 2 per weight that multiplies the token, plus the products of attention with "
    "the mean number of positions seen; three times that in training. Where the router's K grows, "
    "those of a forward pass and of active parameters are counted with K of the first step, those "
    "of training with its mean over all steps. Similarity learning is "
    "counted apart: the experts' rows, the measure and its head, forward and backward, and which "
    "pairs share tokens. Probes are left out.",
    "memory": "Memory: weights, gradients and Adam's two moments in fp32, the carried memory of "
    "all streams, and what autograd keeps of one micro-batch on a GPU (in bf16 if train.precision "
    "says so; a CPU keeps less of relative attention). Temporary tensors and the framework's own "
    "memory are left out.",
}


@dataclass(frozen=True)
class ModelSize:
    """Sizes and costs of a model and its training.

    Attributes:
        parameters: of the model: embedding and output tables, norms and biases included, heads of
            similarity learning left out.
        active_parameters: those used for one token: K of the N experts of each layer, and all other
            parameters; K is that of the first step, as in the next count.
        head_parameters: of similarity learning's heads, which exist only in training.
        forward_flops_per_token: floating-point operations of a forward pass.
        training_flops_per_token: the same in training, without similarity learning; the mean over
            all steps, in which K may grow.
        similarity: what similarity learning costs; None: it is off.
        weight_bytes, gradient_bytes, optimizer_bytes: fp32; two moments per learning parameter.
        carried_bytes: hidden states carried from block to block, of all streams.
        activation_bytes: tensors that autograd keeps for one micro-batch.
    """

    parameters: int
    active_parameters: int
    head_parameters: int
    forward_flops_per_token: int
    training_flops_per_token: int
    similarity: Cost | None
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    carried_bytes: int
    activation_bytes: int

    @property
    def training_bytes(self) -> int:
        """Memory of a training step: the sum of the five byte counts."""
        fixed = self.weight_bytes + self.gradient_bytes + self.optimizer_bytes
        return fixed + self.carried_bytes + self.activation_bytes


def measure(recipe: Recipe, vocab_size: int) -> ModelSize:
    """Build the model of a recipe without memory for its contents, and count its costs.

    All repeats of the pattern cost the same, so of a deep model only two are built.

    Args:
        recipe: resolved.
        vocab_size: symbols of the tokenizer.

    Raises:
        UserError: it is larger than any machine.
    """
    require_possible(recipe, vocab_size)
    repeats = recipe.model.repeats
    if repeats <= 3:
        return _measure(recipe, vocab_size)
    one, two = (_measure(_repeated(recipe, count), vocab_size) for count in (1, 2))
    counts = {
        name: value + (repeats - 1) * (getattr(two, name) - value)
        for name, value in vars(one).items()
        if name != "similarity"
    }
    forward, layers = counts["forward_flops_per_token"], recipe.model.sublayers.count("g")
    similarity = similarity_flops(recipe, layers, forward)
    return ModelSize(**counts, similarity=similarity)


def _repeated(recipe: Recipe, repeats: int) -> Recipe:
    model = recipe.model.model_copy(update={"repeats": repeats})
    return recipe.model_copy(update={"model": model})


def _measure(recipe: Recipe, vocab_size: int) -> ModelSize:
    # Whatever the backend, rows and weights are the same; "grouped" never reads counts.
    moe = recipe.moe.model_copy(update={"backend": "grouped"})
    recipe = recipe.model_copy(update={"moe": moe})
    train = recipe.train
    with FakeTensorMode():
        model = LanguageModel(recipe, vocab_size)
        activations = _saved_bytes(model, recipe)
        carried = sum(_bytes(tensor) for tensor in model.initial_memory(train.batch))
    heads = sum(p.numel() for name, p in model.named_parameters() if ".similarity." in name)
    total = sum(p.numel() for p in model.parameters())
    learning = sum(_bytes(p) for p in model.parameters() if p.requires_grad)
    share = recipe.of_router(recipe.moe.router).first_k(recipe.moe) / recipe.moe.experts
    active = sum(
        round(p.numel() * (share if ".experts." in name else 1))
        for name, p in model_parameters(model)
    )
    forward = forward_flops(model)
    return ModelSize(
        parameters=total - heads,
        active_parameters=active,
        head_parameters=heads,
        forward_flops_per_token=forward,
        training_flops_per_token=training_flops(model),
        similarity=similarity_flops(recipe, len(model.moe_layers), forward),
        weight_bytes=sum(_bytes(p) for p in model.parameters()),
        gradient_bytes=learning,
        optimizer_bytes=2 * learning,
        carried_bytes=carried,
        activation_bytes=activations,
    )


def require_possible(recipe: Recipe, vocab_size: int, memory: int = MOST_BYTES) -> None:
    """Refuse a model that needs more than the given memory, before any of it is allocated.

    Args:
        recipe: resolved.
        vocab_size: symbols of the tokenizer.
        memory: bytes available; if left out, a limit above any machine's memory.

    Raises:
        UserError: its weights, gradients and moments, or its hidden states, need more.
    """
    needed = least_bytes(recipe, vocab_size)
    if needed <= memory:
        return
    model, moe, train = recipe.model, recipe.moe, recipe.train
    has = "no machine has" if memory == MOST_BYTES else "this machine has"
    raise UserError(
        f"training needs at least {needed / 1e9:,.0f} GB of memory, and {has} {memory / 1e9:,.0f}",
        hint=f"Lower model.width (now {model.width:,}), model.repeats (now {model.repeats:,}), "
        f"moe.experts (now {moe.experts:,}), moe.hidden (now {moe.hidden:,}), model.ffn_hidden "
        f"(now {model.ffn_hidden:,}), train.batch (now {train.batch:,}) or train.block (now "
        f"{train.block:,}).",
        code=EXIT_OUT_OF_MEMORY,
    )


def least_bytes(recipe: Recipe, vocab_size: int) -> int:
    """A lower bound on the memory for training, computed from the recipe alone.

    Weights, their gradients and Adam's two moments in fp32; and of one micro-batch the hidden state
    of every sub-layer, and the hidden units of experts and dense sub-layers, in bf16.
    """
    model, moe, train = recipe.model, recipe.moe, recipe.train
    width, matrices = model.width, 3 if model.activation == "swiglu" else 2
    attention, mixtures, dense = (model.sublayers.count(kind) for kind in "sgf")
    weights = (
        vocab_size * width * (1 if model.tie_embeddings else 2)
        + attention * 4 * width * width
        + mixtures * moe.experts * matrices * width * moe.hidden
        + dense * matrices * width * model.ffn_hidden
    )
    tokens = train.batch // train.micro_batches * train.block
    units = tokens * (
        (attention + mixtures + dense) * width
        + mixtures * moe.top_k * moe.hidden
        + dense * model.ffn_hidden
    )
    return 16 * weights + 2 * units


def memory_of(device: torch.device) -> int:
    """Bytes of memory that a process may use on a device: all memory of an accelerator; on a CPU
    the machine's memory plus swap, or the limit of the container."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError, IndexError):
        table = Path("/proc/meminfo").read_text(encoding="ascii")
        found[0] += 1024 * int(table.split("SwapTotal:")[1].split()[0])
    with contextlib.suppress(OSError, ValueError):
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(found)


def _saved_bytes(model: LanguageModel, recipe: Recipe) -> int:
    """Bytes autograd keeps of one micro-batch's forward pass and loss, parameters left out."""
    train = recipe.train
    own = {_storage(p) for p in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    tokens_BM = torch.zeros(train.batch // train.micro_batches, train.block, dtype=torch.int64)
    with (
        as_on_accelerators(),
        _GroupedProductShapes(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        with torch.autocast("cpu", torch.bfloat16, enabled=train.precision == "bf16"):
            output = model.score(tokens_BM, tokens_BM, model.initial_memory(tokens_BM.shape[0]))
        # The graph must live until all of it has been seen.
        loss = output.nats + sum(output.losses.values())
    total = sum(kept.values())
    del loss, output
    return total


class _GroupedProductShapes(TorchFunctionMode):
    """Replaces grouped products, whose fake version accepts bf16 only, by one expert's product.

    Both keep the rows and the weights for the backward pass, and give rows of the same shape.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "").endswith("grouped_mm"):
            rows, weight = args[:2]
            return rows @ weight[0]
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
