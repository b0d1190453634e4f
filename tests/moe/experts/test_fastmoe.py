"""The fastmoe backend: what its functions are given and what comes of it, against the loop.

Everywhere on a stand-in for fastmoe in plain torch; on fastmoe itself where there is one (gpu).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from simsmoe_cli.errors import EXIT_USAGE, UserError
from simsmoe_cli.moe.experts import fastmoe
from simsmoe_cli.moe.experts.base import Experts
from simsmoe_cli.moe.experts.fastmoe import FastMoEExperts
from simsmoe_cli.moe.experts.loop import LoopExperts
from simsmoe_cli.moe.layer import MoELayer, portable
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.schema import Recipe

TOKENS, WIDTH, HIDDEN, EXPERTS = 37, 12, 20, 5
VARIANTS = [
    {"activation": "relu", "bias": True},
    {"activation": "swiglu", "bias": False},
    {"activation": "swiglu", "bias": True},
]


def pair(device: str = "cpu", **options: Any) -> tuple[FastMoEExperts, LoopExperts]:
    """The backend and its oracle with the same weights."""
    torch.manual_seed(0)
    loop = LoopExperts(EXPERTS, WIDTH, HIDDEN, **options)
    fast = FastMoEExperts(EXPERTS, WIDTH, HIDDEN, **options)
    fast.load_state_dict(loop.state_dict())
    return fast.to(device), loop.to(device)


def routed(top_k: int, *, partial: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, their experts, of which the third gets none, and weights."""
    generator = torch.Generator().manual_seed(1)
    x_TD = torch.randn(TOKENS, WIDTH, generator=generator)
    score_TN = torch.rand(TOKENS, EXPERTS, generator=generator)
    score_TN[:, 2] = -1
    weight_TK, index_TK = score_TN.topk(top_k)
    if partial:
        empty_TK = torch.rand(index_TK.shape, generator=generator) < 0.4
        index_TK = index_TK.masked_fill(empty_TK, EXPERTS)
    return x_TD, index_TK, weight_TK


def results(
    experts: Experts, loss: Callable[[Tensor], Tensor], *given: Tensor, partial: bool = False
) -> dict[str, Tensor | None]:
    """Output of `mixture` and every gradient of a loss of it."""
    x, index, weight = given
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    experts.zero_grad()
    out = experts.mixture(x, index, weight, partial=partial)
    loss(out).backward()
    grads = {name: parameter.grad for name, parameter in experts.named_parameters()}
    return {"out": out, "x": x.grad, "weight": weight.grad} | grads


def assert_near(first: dict[str, Any], second: dict[str, Any], relative: float) -> None:
    """Equal up to a rounding that may also turn a ReLU on or off: by norm."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        error = (value.float() - second[name].float()).norm() / second[name].float().norm()
        assert error < relative, name


def assert_same(first: dict[str, Any], second: dict[str, Any], **tolerance: float) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(
            value, second[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance
        )


@pytest.mark.usefixtures("standin")
@pytest.mark.parametrize("partial", [False, True], ids=["full", "partial"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_mixture_equals_the_loops(top_k: int, options: dict[str, Any], partial: bool) -> None:
    fast, loop = pair(**options)
    given = routed(top_k, partial=partial)
    expected = results(loop, lambda out: out.square().sum(), *given, partial=partial)
    found = results(fast, lambda out: out.square().sum(), *given, partial=partial)
    assert_same(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("standin")
def test_rows_and_gradients_of_any_layout() -> None:
    fast, loop = pair()
    count_N = torch.tensor([3, 0, 4, 2, 1])
    columns_DR = torch.randn(WIDTH, 10)
    grads = []
    for experts in (fast, loop):
        experts.zero_grad()
        # Rows with strides, and a gradient whose strides are all zero.
        experts(columns_DR.T, count_N).sum().backward()
        grads.append({name: p.grad for name, p in experts.named_parameters()})
    assert_same(grads[0], grads[1], atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("standin")
def test_no_slot_filled_at_all() -> None:
    fast, _ = pair()
    x_TD, index_TK, weight_TK = routed(2)
    out = fast.mixture(x_TD, torch.full_like(index_TK, EXPERTS), weight_TK, partial=True)
    assert torch.equal(out, torch.zeros_like(x_TD))


@pytest.mark.usefixtures("standin")
def test_autocast_decides_the_precision_of_products() -> None:
    fast, loop = pair()
    given = routed(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results(fast, lambda out: out.float().square().sum(), *given)
    expected = results(loop, lambda out: out.square().sum(), *given)
    assert found["out"] is not None
    assert found["out"].dtype == torch.bfloat16
    assert fast.w_in.grad is not None
    assert fast.w_in.grad.dtype == torch.float32
    assert_near(found, expected, 2e-2)


@pytest.mark.usefixtures("standin")
def test_a_layer_with_similarity_learning_equals_the_loops() -> None:
    x_BMD = torch.randn(4, 64, 16)
    found = []
    for backend in ("fastmoe", "loop"):
        torch.manual_seed(0)
        layer = MoELayer(recipe(backend, similarity={"preset": "calibrated"}))
        output = layer(x_BMD, StepContext())
        loss = output.hidden.square().mean() + sum(output.losses.values())
        loss.backward()
        grads = {name: p.grad for name, p in layer.named_parameters()}
        found.append({"hidden": output.hidden} | output.losses | grads)
    assert found[0]["similarity"] > 0
    assert_same(found[0], found[1], atol=1e-5, rtol=1e-4)


# torch's compiler looks at gradients of tensors that have none.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.usefixtures("standin")
def test_compiled_code_steps_around_it() -> None:
    fast, loop = pair()
    x_TD, index_TK, weight_TK = routed(2)

    def twice(experts: Experts, x_TD: Tensor) -> Tensor:
        return experts.mixture(x_TD * 2, index_TK, weight_TK) + experts.dense(x_TD).sum(0)

    compiled = torch.compile(twice, backend="eager")
    torch.testing.assert_close(compiled(fast, x_TD), twice(loop, x_TD), atol=1e-4, rtol=1e-4)


def recipe(backend: str, **sections: dict[str, Any]) -> Recipe:
    moe = {"experts": 4, "hidden": 32, "backend": backend}
    return Recipe.model_validate({"model": {"width": 16}, "moe": moe} | sections)


def test_without_cuda_it_is_refused_and_fmoe_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # fastmoe's extension ends the process where there is no CUDA.
    (tmp_path / "fmoe.py").write_text("raise SystemExit('killed')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fmoe", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError) as caught:
        MoELayer(recipe("fastmoe"))
    assert caught.value.code == EXIT_USAGE
    assert str(caught.value).startswith("moe.backend: fastmoe needs CUDA")
    assert "simsmoe doctor" in str(caught.value)


@pytest.mark.parametrize(
    ("module", "reason"),
    [(None, "import of fmoe halted"), ("import tree_of_no_kind", "No module named 'tree_of_no_")],
    ids=["absent", "broken"],
)
def test_without_fmoe_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str | None, reason: str
) -> None:
    monkeypatch.setattr(fastmoe, "DEVICE", "cpu")
    if module is None:
        monkeypatch.setitem(sys.modules, "fmoe", None)
    else:
        (tmp_path / "fmoe.py").write_text(module)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "fmoe", raising=False)
    with pytest.raises(UserError, match="needs the package fmoe") as caught:
        MoELayer(recipe("fastmoe"))
    assert reason in str(caught.value)


@pytest.mark.usefixtures("standin")
def test_another_device_is_refused_before_it_reaches_a_kernel() -> None:
    elsewhere = torch.device("meta")
    with pytest.raises(UserError, match="the device is meta"):
        FastMoEExperts.require(elsewhere)
    fast, _ = pair()
    x_TD, index_TK, weight_TK = (tensor.to(elsewhere) for tensor in routed(2))
    for call in (
        lambda: fast.mixture(x_TD, index_TK, weight_TK),
        lambda: fast(x_TD, torch.zeros(EXPERTS, dtype=torch.int64)),
    ):
        with pytest.raises(UserError, match="the device is meta"):
            call()


@pytest.mark.usefixtures("standin")
def test_a_model_trained_by_it_runs_elsewhere() -> None:
    trained = MoELayer(recipe("fastmoe")).eval()
    elsewhere = portable(recipe("fastmoe"), torch.device("meta"))
    assert elsewhere == recipe("auto")
    assert portable(recipe("fastmoe"), torch.device("cpu")) == recipe("fastmoe")
    other = MoELayer(elsewhere).eval()
    other.load_state_dict(trained.state_dict())
    x_BMD = torch.randn(1, 9, 16)
    expected = trained(x_BMD, StepContext()).hidden
    torch.testing.assert_close(other(x_BMD, StepContext()).hidden, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("partial", [False, True], ids=["full", "partial"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize(("precision", "relative"), [("fp32", 1e-5), ("bf16", 2e-2)])
def test_on_fastmoe_itself(
    precision: str, relative: float, options: dict[str, Any], partial: bool
) -> None:
    if lacking := fastmoe.missing():
        pytest.skip(f"no {lacking}")
    fast, loop = pair("cuda", **options)
    given = [tensor.cuda() for tensor in routed(2, partial=partial)]
    found = []
    for experts in (fast, loop):
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision == "bf16"):
            found.append(
                results(experts, lambda out: out.float().square().sum(), *given, partial=partial)
            )
    assert_near(found[0], found[1], relative)


@pytest.mark.gpu
def test_a_layer_with_similarity_learning_on_fastmoe_itself() -> None:
    if lacking := fastmoe.missing():
        pytest.skip(f"no {lacking}")
    x_BMD = torch.randn(4, 64, 16, device="cuda")
    found = []
    for backend in ("fastmoe", "loop"):
        torch.manual_seed(0)
        layer = MoELayer(recipe(backend, similarity={"preset": "calibrated"})).cuda()
        # The same sampled tokens for both.
        torch.manual_seed(1)
        output = layer(x_BMD, StepContext())
        (output.hidden.square().mean() + output.losses["similarity"]).backward()
        grads = {name: p.grad for name, p in layer.experts.named_parameters()}
        found.append({"hidden": output.hidden} | grads)
    assert_same(found[0], found[1], atol=1e-3, rtol=1e-3)
