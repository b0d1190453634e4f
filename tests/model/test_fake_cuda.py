"""Every recipe's forward pass and losses on a CUDA device that is not there.

Fake tensors carry device and shape without data: a tensor made on the wrong device, or a value
read by the host, raises. (Gradients are left out: autograd needs a CUDA build of torch even for
fake tensors.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from simsmoe_cli.kernels import cross_entropy
from simsmoe_cli.model.language_model import LanguageModel, ModelOutput
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.load import list_recipes, load_recipe
from simsmoe_cli.registry import MEASURES
from tests.routers import CASES

VOCABULARY = 205


class ByOperators(TorchFunctionMode):
    """`tensor[...]` and `~tensor` as operators: Python's own ask for a CUDA build of torch."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.__getitem__:
            return self.index(*args)
        if func is torch.Tensor.__setitem__:
            tensor, key, value = args
            return torch.ops.aten.index_put_(tensor, list(key), value)
        if func is torch.Tensor.__invert__:
            return torch.ops.aten.bitwise_not(*args)
        return func(*args, **(kwargs or {}))

    @staticmethod
    def index(tensor: torch.Tensor, key: Any) -> torch.Tensor:
        keys = list(key) if isinstance(key, tuple) else [key]
        given = sum(k is not None and k is not Ellipsis for k in keys)
        if Ellipsis in keys:
            at = keys.index(Ellipsis)
            keys[at : at + 1] = [slice(None)] * (tensor.ndim - given)
        dim, gathered = 0, []
        for k in keys:
            if k is None:
                tensor = torch.ops.aten.unsqueeze(tensor, dim)
            elif isinstance(k, slice):
                tensor = torch.ops.aten.slice(tensor, dim, k.start, k.stop, k.step or 1)
            elif isinstance(k, int):
                tensor = torch.ops.aten.select(tensor, dim, k)
                continue
            else:
                gathered += [None] * (dim - len(gathered)) + [k]
            dim += 1
        return torch.ops.aten.index(tensor, gathered) if gathered else tensor


@contextlib.contextmanager
def cuda_autocast() -> Iterator[None]:
    """bf16 autocast for CUDA, which torch.autocast refuses to start on a machine without it."""
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()


def run_on_fake_cuda(
    recipe_name: str, *overrides: str, step: int = 1, training: bool = True
) -> tuple[ModelOutput, torch.Tensor]:
    """Two blocks of a recipe under bf16 autocast, as pretrain runs them at a step of 10."""
    recipe = load_recipe(recipe_name, ["model.repeats=1", *overrides])
    with torch.device("meta"):
        model = LanguageModel(recipe, VOCABULARY).train(training)
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    context = StepContext(step=step, total_steps=10)
    with FakeTensorMode(), torch.no_grad(), cuda_autocast(), ByOperators():
        tensors = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
            for name, tensor in state.items()
        }
        tokens = torch.zeros(2, recipe.train.block, dtype=torch.int64, device="cuda")
        output = functional_call(model, tensors, (tokens, (), context))
        if output.memory:  # what attention carries over to the next block
            output = functional_call(model, tensors, (tokens, output.memory, context))
        loss = F.cross_entropy(output.logits.flatten(0, 1).float(), tokens.flatten())
        return output, sum(output.losses.values(), loss)


def different_models() -> list[str]:
    """A recipe for each model that differs from the others in more than sizes."""
    sizes = ["model.repeats=1", "model.width=64", "model.heads=4", "model.ffn_hidden=64"]
    sizes += ["model.span=64", "moe.experts=8", "moe.hidden=64", "similarity.preset=calibrated"]
    found: dict[str, str] = {}
    for name, _ in list_recipes():
        recipe = load_recipe(name, sizes)
        found.setdefault(
            repr([recipe.model, recipe.moe, recipe.router_settings, recipe.similarity]), name
        )
    return list(found.values())


@pytest.mark.parametrize(
    ("recipe", "preset"),
    [
        *((name, "calibrated") for name in different_models()),
        *(("quickstart", preset) for preset in ("none", "published", "paper")),
    ],
)
def test_recipe_stays_on_the_device(recipe: str, preset: str) -> None:
    output, loss = run_on_fake_cuda(recipe, f"similarity.preset={preset}")
    tensors = [output.logits, *output.memory, *output.losses.values(), loss]
    assert {tensor.device.type for tensor in tensors} == {"cuda"}
    assert loss.shape == ()
    assert ("similarity" in output.losses) == (preset != "none")


@pytest.mark.parametrize("case", CASES)
def test_router_stays_on_the_device(case: str) -> None:
    changes = ["model.pattern=g", "similarity.preset=published", *CASES[case]]
    for step, training in ((0, True), (9, True), (9, False)):
        output, loss = run_on_fake_cuda("quickstart", *changes, step=step, training=training)
        routing = output.moe[0].routing
        tensors = [
            loss,
            output.logits,
            routing.index_TK,
            routing.weight_TK,
            routing.logits_TN,
            *output.losses.values(),
            *routing.metrics.values(),
        ]
        assert {tensor.device.type for tensor in tensors} == {"cuda"}
        assert routing.logits_TN.dtype == torch.float32
        assert ("similarity" in output.losses) == training


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("scope", ["pairs", "layer"])
def test_measure_stays_on_the_device(scope: str, measure: str) -> None:
    changes = [f"similarity.scope={scope}", f"similarity.measure={measure}"]
    output, _ = run_on_fake_cuda("quickstart", "model.pattern=g", *changes)
    assert output.losses["similarity"].device.type == "cuda"


def test_contrast_across_experts_stays_on_the_device() -> None:
    output, _ = run_on_fake_cuda("quickstart", "similarity.scope=experts")
    assert output.losses["similarity"].device.type == "cuda"


def test_a_value_read_by_the_host_is_caught() -> None:
    with pytest.raises(DataDependentOutputException):
        run_on_fake_cuda("quickstart", "moe.backend=loop")


def test_the_loss_in_chunks_stays_on_the_device() -> None:
    """With its gradients, which are made in the forward pass."""
    made: list[torch.Tensor] = []
    context = SimpleNamespace(
        needs_input_grad=(True, True, True), save_for_backward=lambda *tensors: made.extend(tensors)
    )
    with FakeTensorMode(), torch.no_grad():
        hidden, weight, bias = (
            torch.empty(shape, dtype=torch.bfloat16, device="cuda")
            for shape in ((10, 8), (VOCABULARY, 8), (VOCABULARY,))
        )
        target = torch.empty(10, dtype=torch.int64, device="cuda")
        nats = cross_entropy._InChunks.forward(context, hidden, weight, bias, target, 3)
    assert [tensor.shape for tensor in made] == [hidden.shape, weight.shape, bias.shape]
    assert {tensor.device.type for tensor in (nats, *made)} == {"cuda"}
    assert nats.dtype == torch.float32
