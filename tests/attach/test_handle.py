"""attach: a foreign model gets the gradient of the similarity loss, and nothing else changes.

Everything is compared with a loss written out by hand, on the model's own tensors.

Shapes: T tokens, D width, N experts, K experts per token.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simsmoe_cli.attach.find_layers import (
    ExpertLayer,
    PairedLayer,
    RepeatedLayer,
    find_expert_layers,
)
from simsmoe_cli.attach.handle import Handle, attach
from tests.collapse.sources.huggingface.families import VOCABULARY, families, tiny
from tests.collapse.sources.huggingface.test_families import whole_model

BATCH, BLOCK = 3, 40
# All tokens are taken, so that nothing is drawn; all pairs are due in every batch.
EVERYTHING = {"preset": "calibrated", "tokens": 10_000, "pairs": 10_000, "weight": 0.7}
FAMILIES = {  # how experts are held, K, and what the router gives
    "mixtral": {},
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 8},
    "qwen3_moe": {"num_experts": 16, "num_experts_per_tok": 4},
    "deepseek_v3": {},  # sigmoid with a bias for the choice, a shared expert
    "gpt_oss": {},  # softmax over the chosen
    "granitemoe": {},
    "phimoe": {"router_jitter_noise": 0.0, "input_jitter_noise": 0.0},
    "ernie4_5_moe": {},
    "glm4_moe": {},
    "jetmoe": {},  # two stacks
    "llama4_text": {"num_experts_per_tok": 1},  # every row once per expert
}


def made(model_type: str, **changes: Any) -> nn.Module:
    """A tiny random model in training mode whose router decides clearly and that drops nothing."""
    torch.manual_seed(0)
    config = tiny(families()[model_type], **{**FAMILIES[model_type], **changes})
    model = whole_model(config)
    assert model is not None
    with torch.no_grad():
        for layer in find_expert_layers(model):
            for parameter in layer.router.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(0, 0.4)
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return model.train()


def batch(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY - 5, (BATCH, BLOCK), generator=generator)


def loss_of(model: nn.Module, ids: Tensor) -> Tensor:
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None
    }


class Seen:
    """What each layer's router chose and its experts were given, read with hooks of this test."""

    def __init__(self, model: nn.Module):
        self.layers = find_expert_layers(model)
        self.x_TD: list[Tensor] = [torch.empty(0)] * len(self.layers)
        self.index_TK: list[Tensor] = [torch.empty(0)] * len(self.layers)
        for place, layer in enumerate(self.layers):
            watched = layer.module if isinstance(layer, PairedLayer) else layer.experts
            watched.register_forward_pre_hook(self._experts(place), with_kwargs=True)
            layer.router.register_forward_hook(self._router(place))

    def _experts(self, place: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
            layer = self.layers[place]
            if type(layer) is ExpertLayer:
                self.x_TD[place] = tensors[0].flatten(0, -2).detach()
                (index,) = [t for t in tensors if not t.is_floating_point()]
                self.index_TK[place] = index
            elif isinstance(layer, PairedLayer):
                self.x_TD[place] = tensors[0].flatten(0, -2).detach()

        return hook

    def _router(self, place: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            layer = self.layers[place]
            if isinstance(layer, RepeatedLayer):
                # One expert a token; the second best by the scores shares it.
                self.x_TD[place] = args[0].flatten(0, -2).detach()
                self.index_TK[place] = output[1].topk(2, dim=-1).indices
            elif isinstance(layer, PairedLayer):
                self.index_TK[place] = output[4].topk(2, dim=-1).indices

        return hook

    def expert(self, place: int, number: int) -> Tensor:
        """One expert on all rows."""
        layer, x_TD = self.layers[place], self.x_TD[place]
        if isinstance(layer, (RepeatedLayer, PairedLayer)):
            return layer.dense(x_TD)[number]
        index_T1 = torch.full((len(x_TD), 1), number)
        out: Tensor = layer.experts(x_TD, index_T1, torch.ones(len(x_TD), 1))
        return out

    def loss(self, threshold: float = 0.1) -> Tensor:
        """The similarity loss of all layers: of every pair on the tokens both were sent, and on all
        tokens, where it is above the threshold."""
        total = torch.zeros(())
        for place, layer in enumerate(self.layers):
            index_TK = self.index_TK[place]
            sent_TN = torch.zeros(len(index_TK), layer.number, dtype=torch.bool)
            sent_TN.scatter_(1, index_TK, True)
            outputs = [self.expert(place, number) for number in range(layer.number)]
            for first in range(layer.number):
                for second in range(first + 1, layer.number):
                    shared_T = sent_TN[:, first] & sent_TN[:, second]
                    if shared_T.sum() < 16:
                        continue
                    for rows_T in (shared_T, torch.ones_like(shared_T)):
                        value = cka(outputs[first][rows_T], outputs[second][rows_T])
                        if value > threshold:
                            total = total + value
        return total


def cka(first_nD: Tensor, second_nD: Tensor) -> Tensor:
    """Debiased linear CKA by the Gram matrices of Song et al. (2012), in float64."""

    def hsic(left_nn: Tensor, right_nn: Tensor) -> Tensor:
        n = len(left_nn)
        left_nn, right_nn = (m - m.diag().diag() for m in (left_nn, right_nn))
        ones = torch.ones(n, dtype=torch.float64)
        both = ones @ left_nn @ ones * (ones @ right_nn @ ones) / ((n - 1) * (n - 2))
        mixed = 2 / (n - 2) * (ones @ left_nn @ right_nn @ ones)
        return ((left_nn * right_nn).sum() + both - mixed) / (n * (n - 3))

    grams = [rows.double() @ rows.double().T for rows in (first_nD, second_nD)]
    own = hsic(grams[0], grams[0]) * hsic(grams[1], grams[1])
    return (hsic(*grams) / own.sqrt()).float()


def by_hand(model: nn.Module, batches: list[Tensor]) -> dict[str, Tensor]:
    """Gradients of the loop's loss plus the similarity loss, as a mean over batches."""
    model = copy.deepcopy(model)
    seen = Seen(model)
    for ids in batches:
        loss = loss_of(model, ids)
        total = loss + EVERYTHING["weight"] * seen.loss()
        (total / len(batches)).backward()
    return gradients(model)


def attached(
    model: nn.Module, batches: list[Tensor], checkpointing: bool | None = None
) -> tuple[dict[str, Tensor], Handle]:
    """The same by a loop that knows nothing of the similarity loss.

    Args:
        checkpointing: None: none; else whether it is the reentrant one.
    """
    model = copy.deepcopy(model)
    if checkpointing is not None:
        checkpoint_layers(model, checkpointing)
    handle = attach(model, EVERYTHING)
    handle.loss_scale = 1 / len(batches)
    for ids in batches:
        (loss_of(model, ids) / len(batches)).backward()
    handle.step()
    return gradients(model), handle


def require_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_gradient_is_that_of_an_explicit_loss(model_type: str) -> None:
    model = made(model_type)
    wanted = by_hand(model, [batch()])
    plain = copy.deepcopy(model)
    loss_of(plain, batch()).backward()
    without = gradients(plain)
    assert any((wanted[name] - without[name]).abs().max() > 1e-4 for name in without)
    found, _ = attached(model, [batch()])
    require_equal(found, wanted)


def checkpoint_layers(model: nn.Module, reentrant: bool) -> None:
    """Every decoder layer keeps its input alone and runs again in the backward pass."""

    def checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            return checkpoint(partial(forward, **kwargs), *args, use_reentrant=reentrant)

        return run

    for layer in model.model.layers:
        layer.forward = checkpointed(layer.forward)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("model_type", ["mixtral", "olmoe", "deepseek_v3", "gpt_oss", "jetmoe"])
def test_gradient_checkpointing_changes_no_gradient_and_counts_once(
    model_type: str, reentrant: bool
) -> None:
    batches = [batch(1), batch(2)]
    wanted, plain = attached(made(model_type), batches)
    found, handle = attached(made(model_type), batches, checkpointing=reentrant)
    require_equal(found, wanted)
    for layer, without in zip(handle.layers, plain.layers, strict=True):
        assert torch.equal(layer.slots_N, without.slots_N)
        assert layer.slots_N.sum() > 0
        state, expected = layer.state_dict(), without.state_dict()
        assert torch.equal(state["tracker.shared_NN"], expected["tracker.shared_NN"])


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recomputation_draws_the_tokens_of_its_first_pass(reentrant: bool) -> None:
    model = made("mixtral")
    few = {"preset": "calibrated", "tokens": 32, "min_tokens": 8, "pairs": 2, "weight": 0.7}
    found = []
    for checkpointing in (False, True):
        trained = copy.deepcopy(model)
        if checkpointing:
            checkpoint_layers(trained, reentrant)
        handle = attach(trained, few)
        for number in range(3):
            # Two forward passes before their backward passes, in an order of their own.
            losses = [loss_of(trained, batch(10 * number + half)) for half in range(2)]
            for loss in losses if reentrant else reversed(losses):
                loss.backward()
            handle.step()
        found.append((gradients(trained), [layer.state_dict() for layer in handle.layers]))
    if not reentrant:  # whose first passes count nothing, so that all counting is in their order
        require_equal(found[1][0], found[0][0])
        for left, right in zip(found[0][1], found[1][1], strict=True):
            assert all(torch.equal(left[name], right[name]) for name in left)


def test_accumulated_batches_give_the_mean() -> None:
    model = made("mixtral")
    batches = [batch(number) for number in range(4)]
    found, _ = attached(model, batches)
    require_equal(found, by_hand(model, batches))


@pytest.mark.parametrize("similarity", ["none", "detached"])
def test_measuring_leaves_a_training_bit_for_bit_as_it_was(similarity: str) -> None:
    weights = []
    for attach_it in (False, True):
        model = made("mixtral", attention_dropout=0.1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        handle = None
        if attach_it:
            handle = attach(model, "calibrated" if similarity == "detached" else "none")
            if similarity == "detached":
                handle.detach()
        torch.manual_seed(3)
        for number in range(4):
            optimizer.zero_grad()
            loss_of(model, batch(number)).backward()
            optimizer.step()
            if handle is not None and similarity == "none":
                handle.step()
        weights.append([part.clone() for part in model.parameters()])
    assert all(torch.equal(left, right) for left, right in zip(*weights, strict=True))


def test_learning_draws_nothing_from_the_users_generator() -> None:
    model = made("mixtral")
    few = {"preset": "calibrated", "tokens": 32, "min_tokens": 8}
    handle = attach(model, few, probe_every=1)
    before = torch.get_rng_state()
    for number in range(3):
        loss_of(model, batch(number)).backward()
        handle.step()
    assert handle.metrics()["similarity"] != 0
    assert torch.equal(torch.get_rng_state(), before)
