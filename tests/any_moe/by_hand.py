"""The similarity loss of a foreign model written out by hand, to hold `attach` against.

It is computed on tensors that hooks of this file read from the model.

Shapes: T tokens, D width, N experts, K experts per token, n rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simsmoe_cli.any_moe.find_layers import (
    ExpertLayer,
    PairedLayer,
    RepeatedLayer,
    find_expert_layers,
)
from simsmoe_cli.any_moe.handle import Handle, attach
from tests.collapse.sources.huggingface.test_families import whole_model
from tests.huggingface.families import VOCABULARY, tiny

BATCH, BLOCK = 3, 40
# All tokens are taken, so that nothing is drawn; all pairs are due in every batch.
EVERYTHING = {
    "preset": "calibrated",
    "tokens": 10_000,
    "pairs": 10_000,
    "weight": 0.7,
    "budget": None,
}
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
    config = tiny(transformers.CONFIG_MAPPING[model_type], **{**FAMILIES[model_type], **changes})
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
        self.watching = True
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
            if not self.watching:
                return
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
        self.watching = False
        out: Tensor = layer.experts(x_TD, index_T1, torch.ones(len(x_TD), 1))
        self.watching = True
        return out

    def sent_TN(self, place: int) -> Tensor:
        """Which experts each token was sent to."""
        index_TK = self.index_TK[place]
        sent_TN = torch.zeros(len(index_TK), self.layers[place].number, dtype=torch.bool)
        return sent_TN.scatter_(1, index_TK, True)

    def shared(self) -> list[Tensor]:
        """Of each layer, how many tokens each pair of experts shares, [N, N]."""
        sent = [self.sent_TN(place).float() for place in range(len(self.layers))]
        return [sent_TN.T @ sent_TN for sent_TN in sent]

    def loss(self, shared: list[Tensor], threshold: float = 0.1) -> Tensor:
        """The similarity loss of all layers: of every pair on the tokens both were sent, and on all
        tokens, where it is above the threshold.

        Args:
            shared: tokens of each pair; a mean over processes, and pairs below 16 wait.
        """
        total = torch.zeros(())
        for place, layer in enumerate(self.layers):
            sent_TN = self.sent_TN(place)
            outputs = [self.expert(place, number) for number in range(layer.number)]
            for first in range(layer.number):
                for second in range(first + 1, layer.number):
                    shared_T = sent_TN[:, first] & sent_TN[:, second]
                    if shared_T.sum() < 16 or shared[place][first, second] < 16:
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


def by_hand(
    model: nn.Module, batches: list[Tensor], at_once: bool = False, stands_for: int = 1
) -> dict[str, Tensor]:
    """Gradients of the loop's loss plus the similarity loss, as a mean over batches.

    Args:
        at_once: the batches are of one step on several processes, not one after the other.
        stands_for: how often the similarity loss counts.
    """
    model = copy.deepcopy(model)
    seen = Seen(model)
    means = None
    if at_once:
        counts = []
        for ids in batches:
            loss_of(model, ids)
            counts.append(seen.shared())
        means = [torch.stack(layer).mean(0) for layer in zip(*counts, strict=True)]
    for ids in batches:
        loss = loss_of(model, ids)
        total = loss + stands_for * EVERYTHING["weight"] * seen.loss(means or seen.shared())
        (total / len(batches)).backward()
    return gradients(model)


def checkpoint_layers(model: nn.Module, reentrant: bool) -> None:
    """Every decoder layer keeps its input alone and runs again in the backward pass."""

    def checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            return checkpoint(partial(forward, **kwargs), *args, use_reentrant=reentrant)

        return run

    for layer in model.model.layers:
        layer.forward = checkpointed(layer.forward)


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
