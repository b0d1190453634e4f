"""Models and loops as people write them: dropout, autocast, masks, wrappers, kinds of output."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simsmoe_cli.any_moe.handle import attach
from simsmoe_cli.errors import UserError
from tests.any_moe.by_hand import EVERYTHING, batch, gradients, loss_of, made, require_equal
from tests.any_moe.own_model import OwnLayer, OwnModel, loss_by_hand, own_batch

FEW = {"preset": "calibrated", "tokens": 32, "min_tokens": 4, "budget": None}


class Stacked(nn.Module):
    """Experts in two stacked matrices, called as those of transformers are."""

    def __init__(self, width: int, hidden: int, experts: int, dropout: float):
        super().__init__()
        self.up_proj = nn.Parameter(torch.randn(experts, hidden, width) * 0.3)
        self.down_proj = nn.Parameter(torch.randn(experts, width, hidden) * 0.3)
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        hidden = torch.einsum("td,nhd->tnh", rows, self.up_proj).relu()
        out = torch.einsum("tnh,ndh->tnd", self.dropout(hidden), self.down_proj)
        chosen = out.gather(1, index.long()[..., None].expand(-1, -1, out.shape[-1]))
        return torch.einsum("tkd,tk->td", chosen, weight.to(chosen.dtype))


class StackedLayer(nn.Module):
    """A layer of such experts.

    Attributes:
        index_type: of the choice that it gives its experts.
    """

    def __init__(self, dropout: float = 0.0, index_type: torch.dtype = torch.int64):
        super().__init__()
        self.gate = nn.Linear(16, 5, bias=False)
        self.experts = Stacked(16, 24, 5, dropout)
        self.index_type = index_type

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        weight, index = self.gate(rows).float().softmax(-1).topk(2)
        return self.experts(rows, index.to(self.index_type), weight).view_as(x)


def stacked(**given: Any) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(StackedLayer(**given), StackedLayer(**given))


def test_experts_with_dropout_are_read_and_nothing_is_drawn_from_the_users_generator() -> None:
    plain = stacked(dropout=0.3)
    learned = copy.deepcopy(plain)
    found = []
    for model in (plain, learned):
        handle = attach(model, FEW) if model is learned else None
        torch.manual_seed(5)
        outputs = [model(own_batch()) for _ in range(2)]
        found.append(outputs)
        if handle is not None:
            outputs[0].square().mean().backward()
            assert handle.layers[0].window["pairs_due"] > 0
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_layer_that_computes_something_else_is_still_refused() -> None:
    class Other(Stacked):
        def forward(self, rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
            return super().forward(rows, index, weight) + rows

    model = stacked()
    model[0].experts = Other(16, 24, 5, 0.1)
    attach(model, FEW)
    with pytest.raises(UserError, match="weighted sum of its chosen experts"):
        model(own_batch())


@pytest.mark.parametrize("index_type", [torch.int32, torch.int64])
def test_autocast_and_indices_of_any_kind(index_type: torch.dtype) -> None:
    model = stacked(index_type=index_type)
    handle = attach(model, FEW)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(own_batch()).float().square().mean()
    loss.backward()
    handle.step()
    assert handle.layers[0].slots_N.sum() == 2 * 200


def test_nothing_is_kept_of_a_pass_that_does_not_count() -> None:
    model = OwnModel()
    handle = attach(model, FEW)
    for training in (False, True):
        model.train(training)
        with torch.no_grad():
            model(own_batch())
        for layer in handle.layers:
            recorder = layer._recorder
            assert recorder.made is None
            assert recorder.router_input is None
            assert not recorder.routed
            assert recorder.given == ((), {})


@dataclass
class Out:
    hidden: Tensor
    aux: float


def as_dict(x: Tensor) -> Any:
    return {"aux": 1.0, "hidden": x}


def as_dataclass(x: Tensor) -> Any:
    return Out(x, 1.0)


def as_list(x: Tensor) -> Any:
    return [None, x]


def hidden_of(out: Any) -> Tensor:
    if isinstance(out, dict):
        return out["hidden"]
    return out.hidden if isinstance(out, Out) else out[1]


class Wrapping(OwnLayer):
    """A layer that returns its hidden states in something else."""

    wrap: Any = None

    def forward(self, x: Tensor) -> Any:
        return self.wrap(super().forward(x))


class WrappingModel(OwnModel):
    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + hidden_of(layer(x))
        return x


@pytest.mark.parametrize("wrap", [as_dict, as_dataclass, as_list])
def test_layers_return_what_they_like(wrap: Any) -> None:
    model, other = OwnModel(), WrappingModel()
    other.layers = nn.ModuleList(Wrapping() for _ in range(2))
    other.load_state_dict(model.state_dict())
    for layer in other.layers:
        layer.wrap = wrap
    attach(other, EVERYTHING)
    loss_by_hand(model, own_batch()).backward()
    other(own_batch()).square().mean().backward()
    require_equal(gradients(other), gradients(model))


def test_a_layer_that_returns_something_strange_is_refused() -> None:
    class Holder:
        def __init__(self, x: Tensor):
            self.x = x

    model = WrappingModel()
    model.layers = nn.ModuleList(Wrapping() for _ in range(2))
    for layer in model.layers:
        layer.wrap = Holder
    attach(model, EVERYTHING)
    with pytest.raises(UserError, match="a layer that returns a Holder"):
        model(own_batch())


class ByName(OwnLayer):
    """Calls its router and its experts by keyword."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        weight, index = self.gate(input=rows).softmax(-1).topk(self.top_k)
        out = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            token, slot = (index == number).nonzero(as_tuple=True)
            if len(token):
                out = out.index_add(0, token, expert(x=rows[token]) * weight[token, slot, None])
        return out.view_as(x)


class Wrapper(nn.Module):
    """Holds a model as DistributedDataParallel does, without its config."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def test_calls_by_keyword_in_a_wrapped_model() -> None:
    model, other = OwnModel(), OwnModel()
    other.layers = nn.ModuleList(ByName() for _ in range(2))
    other.load_state_dict(model.state_dict())
    wrapped = Wrapper(other)
    attach(wrapped, EVERYTHING)
    loss_by_hand(model, own_batch()).backward()
    wrapped(own_batch()).square().mean().backward()
    require_equal(gradients(other), gradients(model))


def test_copies_in_one_process_are_refused() -> None:
    with pytest.raises(UserError, match=r"DataParallel.*torchrun"):
        attach(nn.DataParallel(OwnModel()))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_mask_is_read_by_name_and_by_place(wrapped: bool) -> None:
    found = []
    ids = batch()
    mask = torch.ones_like(ids)
    mask[:, -5:] = 0
    for by_name in (True, False):
        inner = made("mixtral")
        model = Wrapper(inner) if wrapped else inner
        handle = attach(model, FEW)
        given = ((ids,), {"attention_mask": mask}) if by_name else ((ids, mask), {})
        model(*given[0], **given[1]).logits.mean().backward()
        found.append([layer.slots_N.tolist() for layer in handle.layers])
    assert found[0] == found[1]
    assert sum(found[0][0]) == 2 * int(mask.sum())


def test_metrics_may_be_read_at_any_time() -> None:
    events = []
    for reads in (0, 3):
        model = made("mixtral")
        handle = attach(model, FEW, log_every=None)
        for _ in range(4):
            loss_of(model, batch()).backward()
            handle.step()
            for _ in range(reads):
                handle.metrics()
        handle.log()
        events.append([numbers.slots for numbers in handle._numbers])
    assert events[0] == events[1]
