"""On CUDA everything computes what it does on a CPU in fp32, gradients too.

A CPU takes paths of its own (attention in tiles, experts one product each), so it is an oracle and
not the same code. On a machine without CUDA the path of other devices is taken on the CPU.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simsmoe_cli import registry
from simsmoe_cli.kernels import cross_entropy
from simsmoe_cli.kernels.cpu import as_on_accelerators
from simsmoe_cli.model.attention import RelativeAttention, RopeAttention
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe import dispatch
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.similarity.contrastive import expert_confusion
from tests.gpu.devices import BOTH, assert_near
from tests.train.test_resume import PAPER_MODEL
from tests.train.tiny import recipe

Found = dict[str, Tensor | None]

# Relative errors allowed, of the norm of all entries.
MOST = {"fp32": 1e-4, "bf16": 3e-2}
PRECISIONS = ["fp32", "bf16"]


@contextlib.contextmanager
def as_trained(device: str, precision: str) -> Any:
    """Autocast as in training, on the path of accelerators."""
    with (
        as_on_accelerators(),
        torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"),
    ):
        yield


def made(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_gradients(module: nn.Module, call: Callable[..., Tensor], *inputs: Tensor) -> Found:
    """Output, and gradients of a fixed weighting of it to inputs and parameters, all on the CPU."""
    module.zero_grad()
    given = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
    out = call(*given)
    (out.float() * made(99, *out.shape).to(out.device)).sum().backward()
    return (
        {"out": out}
        | {f"input {place}": x.grad for place, x in enumerate(given) if x.is_floating_point()}
        | {name: p.grad for name, p in module.named_parameters()}
    )


def compare(
    device: str,
    precision: str,
    module: nn.Module,
    call: Callable[..., Callable[..., Tensor]],
    *inputs: Tensor,
) -> float:
    """The largest relative error of a device against the CPU in fp32; `call` of a module is what
    it computes."""
    there = copy.deepcopy(module).to(device)
    expected = with_gradients(module, call(module), *inputs)
    with as_trained(device, precision):
        found = with_gradients(there, call(there), *(x.to(device) for x in inputs))
    return assert_near(found, expected, MOST[precision])


# Attention


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("block", "window"), [(96, 96), (300, 100), (640, 512), (33, 7)])
@pytest.mark.parametrize("device", BOTH)
def test_attention_with_rotary_positions(
    device: str, block: int, window: int, precision: str, record_property: Any
) -> None:
    torch.manual_seed(0)
    attention = RopeAttention(64, 4, window, 10_000.0, 0.0)
    error = compare(device, precision, attention, lambda m: m, made(1, 2, block, 64))
    record_property("relative error", error)


@pytest.mark.parametrize("device", BOTH)
def test_attention_that_extends_a_cache(device: str) -> None:
    torch.manual_seed(0)
    attention = RopeAttention(64, 4, 50, 10_000.0, 0.0)

    def call(module: RopeAttention) -> Callable[..., Tensor]:
        return lambda x, cache: module.extend(x, cache)[0]

    compare(device, "fp32", attention, call, made(1, 2, 17, 64), made(2, 2, 49, 128))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("block", "span"), [(96, 64), (300, 100), (130, 500)])
@pytest.mark.parametrize("device", BOTH)
def test_relative_attention_with_memory(
    device: str, block: int, span: int, precision: str, record_property: Any
) -> None:
    torch.manual_seed(0)
    attention = RelativeAttention(64, 4, 0.0)
    given = made(1, 2, block, 64), made(2, 2, span, 64), made(3, 16, span)
    error = compare(device, precision, attention, lambda m: m, *given)
    record_property("relative error", error)


def in_documents(batch: int, block: int) -> Tensor:
    """The documents of a block's positions, of every length from 0 on; not those of a batch."""
    ends = torch.zeros(batch, block, dtype=torch.int64)
    for row in range(batch):
        ends[
            row, [n * (n + 1) // 2 + row for n in range(block) if n * (n + 1) // 2 + row < block]
        ] = 1
    return ends.cumsum(1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("block", "window"), [(300, 100), (96, 96)])
@pytest.mark.parametrize("device", BOTH)
def test_attention_within_documents(
    device: str, block: int, window: int, precision: str, record_property: Any
) -> None:
    torch.manual_seed(0)
    documents = in_documents(2, block)

    def call(module: nn.Module) -> Callable[..., Tensor]:
        return lambda x, *rest: module(x, *rest, documents.to(x.device))

    rope = RopeAttention(64, 4, window, 10_000.0, 0.0)
    error = compare(device, precision, rope, call, made(1, 2, block, 64))
    record_property("relative error, rope", error)
    relative = RelativeAttention(64, 4, 0.0)
    given = made(1, 2, block, 64), made(2, 2, window, 64), made(3, 16, window)
    error = compare(device, precision, relative, call, *given)
    record_property("relative error, relative", error)


# Experts


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backend", ["loop", "grouped"])
@pytest.mark.parametrize(("activation", "bias"), [("relu", True), ("swiglu", False)])
@pytest.mark.parametrize(("width", "hidden", "count"), [(64, 96, 8), (24, 40, 5), (136, 8, 3)])
@pytest.mark.parametrize("device", BOTH)
def test_experts(
    device: str,
    width: int,
    hidden: int,
    count: int,
    activation: str,
    bias: bool,
    backend: str,
    precision: str,
    record_property: Any,
) -> None:
    """Dispatch and combination as well; one expert gets no token, and some slots are empty."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"activation": activation, "bias": bias}
    loop, other = (
        registry.load("experts", name)(count, width, hidden, **options)
        for name in ("loop", backend)
    )
    other.load_state_dict(loop.state_dict())
    score_TN = made(4, 203, count)
    score_TN[:, 1] = -9
    weight_TK, index_TK = score_TN.topk(2)
    index_TK[::7, 1] = count
    x_TD = made(5, 203, width)

    def call(experts: Any) -> Callable[..., Tensor]:
        return lambda x, weight, index: experts.mixture(x, index, weight, partial=True)

    expected = with_gradients(loop, call(loop), x_TD, weight_TK.softmax(1), index_TK)
    other.to(device)
    with as_trained(device, precision):
        given = (x.to(device) for x in (x_TD, weight_TK.softmax(1), index_TK))
        found = with_gradients(other, call(other), *given)
    # In bf16 some units are on the other side of their ReLU.
    most = 0.1 if (precision, activation) == ("bf16", "relu") else MOST[precision]
    record_property("relative error", assert_near(found, expected, most))
    for name in ("w_in", "w_out"):
        gradient = found[name]
        assert gradient is not None
        assert gradient[1].count_nonzero() == 0, f"{name}: a gradient of an expert without tokens"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("device", BOTH)
def test_all_experts_on_all_tokens(device: str, precision: str) -> None:
    torch.manual_seed(0)
    experts = registry.load("experts", "grouped")(6, 32, 48, activation="swiglu", bias=False)
    compare(device, precision, experts, lambda m: m.dense, made(1, 70, 32))


@pytest.mark.parametrize("device", BOTH)
def test_dispatch(device: str) -> None:
    """The same plan; rows that were only moved are the same to the bit."""
    index_TK = torch.randint(9, (333, 3), generator=torch.Generator().manual_seed(0))
    x_TD = made(1, 333, 16)
    here = dispatch.plan(index_TK, 8, partial=True)
    there = dispatch.plan(index_TK.to(device), 8, partial=True)
    for name in ("order_R", "inverse_R", "count_N"):
        assert torch.equal(getattr(here, name), getattr(there, name).cpu()), name
    rows = dispatch.gather(x_TD.to(device), there)
    assert torch.equal(rows.cpu(), dispatch.gather(x_TD, here))


# Similarity


@pytest.mark.parametrize("measure", registry.MEASURES)
@pytest.mark.parametrize("device", BOTH)
def test_measures_of_pairs(device: str, measure: str, record_property: Any) -> None:
    """Values and gradients, with a mask, on outputs that have something in common; one pair is
    undefined."""
    compute = registry.load("similarity", measure)
    x_PnD = made(1, 3, 40, 24)
    y_PnD = 0.5 * x_PnD + made(2, 3, 40, 24)
    x_PnD[2] = 1.0
    mask_Pn = torch.rand(3, 40, generator=torch.Generator().manual_seed(3)) < 0.8

    # As wide as rows are apart. With sigma 0.8 nearly all gradients of these rows vanish.
    options = {"sigma": 5.0} if measure == "cka-rbf" else {}

    def call(_: nn.Module) -> Callable[..., Tensor]:
        return lambda x, y, mask: torch.nan_to_num(compute(x, y, mask, **options), nan=-7.0)

    error = compare(device, "fp32", nn.Module(), call, x_PnD, y_PnD, mask_Pn)
    record_property("relative error", error)


@pytest.mark.parametrize(
    "measure", [name for name, entry in registry.MEASURES.items() if entry.all_pairs]
)
@pytest.mark.parametrize("device", BOTH)
def test_measures_of_all_pairs(device: str, measure: str) -> None:
    compute = registry.resolve(registry.MEASURES[measure].all_pairs)
    outputs_NnD = made(1, 5, 60, 16) + made(2, 60, 16)
    compare(device, "fp32", nn.Module(), lambda _: compute, outputs_NnD)


@pytest.mark.parametrize("device", BOTH)
def test_contrast_across_experts(device: str) -> None:
    outputs_NnD = made(1, 5, 60, 16) + made(2, 60, 16)
    compare(device, "fp32", nn.Module(), lambda _: expert_confusion, outputs_NnD)


# Loss and whole models


class Output(nn.Module):
    """An output layer whose forward pass is its loss."""

    def __init__(self, width: int, vocabulary: int):
        super().__init__()
        self.layer = nn.Linear(width, vocabulary)

    def forward(self, hidden_TD: Tensor, target_T: Tensor) -> Tensor:
        weight, bias = self.layer.weight, self.layer.bias
        return cross_entropy.total_cross_entropy(hidden_TD, weight, bias, target_T)[None]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("chunk", [1 << 25, 205 * 30])
@pytest.mark.parametrize("device", BOTH)
def test_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, device: str, chunk: int, precision: str
) -> None:
    """Whole and in chunks; some targets cost nothing."""
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", chunk)
    torch.manual_seed(0)
    target_T = torch.randint(205, (101,), generator=torch.Generator().manual_seed(1))
    target_T[::9] = cross_entropy.IGNORED
    compare(device, precision, Output(32, 205), lambda m: m, made(2, 101, 32), target_T)


MODELS: dict[str, dict[str, Any]] = {
    "modern": {"model": {"span": 24}},
    "paper": {"model": PAPER_MODEL | {"dropout": 0.0}, "moe": {"init": "linear"}},
    "dense layers too": {"model": PAPER_MODEL | {"dropout": 0.0, "pattern": "sgf"}},
}
# All tokens are compared, so that nothing is drawn.
SIMILARITY = {"preset": "calibrated", "tokens": 1024, "check_every": 0.0, "min_tokens": 4}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("device", BOTH)
def test_a_whole_model_in_fp32(device: str, kind: str, record_property: Any) -> None:
    """Loss of the second of two blocks, memory, auxiliary losses and all gradients."""
    made_recipe = recipe(**MODELS[kind], similarity=SIMILARITY)
    torch.manual_seed(0)
    model = LanguageModel(made_recipe, 205)
    error = compare(device, "fp32", model, whole_loss, *tokens())
    record_property("relative error", error)


def whole_loss(model: LanguageModel) -> Callable[..., Tensor]:
    def call(first_BM: Tensor, second_BM: Tensor, target_BM: Tensor) -> Tensor:
        context = StepContext(step=1, total_steps=10)
        memory = model.encode(first_BM, model.initial_memory(first_BM.shape[0]), context).memory
        output = model.score(second_BM, target_BM, memory, context)
        losses = [output.losses[name] for name in sorted(output.losses)]
        return torch.stack([output.nats / target_BM.numel(), *losses]).float()

    return call


def tokens() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(205, (4, 48), generator=generator) for _ in range(3)]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("device", BOTH)
def test_a_whole_model_in_bf16(device: str, kind: str, record_property: Any) -> None:
    """Some tokens go to other experts, so gradients only point the same way."""
    made_recipe = recipe(**MODELS[kind])
    torch.manual_seed(0)
    model = LanguageModel(made_recipe, 205)
    expected = with_gradients(model, whole_loss(model), *tokens())
    model.to(device)
    with as_trained(device, "bf16"):
        given = [part.to(device) for part in tokens()]
        found = with_gradients(model, whole_loss(model), *given)
    assert found["out"] is not None
    assert expected["out"] is not None
    loss, wanted = found["out"][0].item(), expected["out"][0].item()
    directions = []
    for results in (found, expected):
        parts = [g.cpu().flatten() for n, g in results.items() if n != "out" and g is not None]
        directions.append(torch.cat(parts))
    cosine = torch.cosine_similarity(*directions, dim=0).item()
    record_property("relative error of the loss", abs(loss - wanted) / wanted)
    record_property("cosine of the gradients", cosine)
    assert abs(loss - wanted) / wanted < 1e-2
    assert cosine > 0.98
