"""Records which experts each token is sent to while a model runs, and with which weights.

The routing of stacked experts is read from the arguments of their call. For listed experts it is
the router's own indices, or the K largest of its scores. At the first run of a layer the result is
checked: the outputs of the chosen experts, computed one by one and summed with the recorded
weights, must equal the layer's own output. A model that fails this check is refused.

Shapes: T tokens, D width, N experts, K experts per token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from simsmoe_cli.any_moe.find_layers import (
    ExpertLayer,
    ListedLayer,
    PairedLayer,
    RepeatedLayer,
)
from simsmoe_cli.any_moe.router_scores import RouterScores, read_router, scores_of
from simsmoe_cli.errors import DataError, UserError
from simsmoe_cli.similarity.routed import Routed

CHECKED_ROWS = 8
# The largest error of the check, relative to the size of the output; rounding explains less.
DISAGREES = {torch.float32: 1e-3, torch.float64: 1e-6}
DISAGREES_16_BITS = 0.05


@dataclass
class Choice:
    """Which experts some tokens were sent to.

    Attributes:
        input_TD: what the experts are given.
        index_TK: chosen experts; N for an empty slot.
        weight_TK: what their outputs, or the inputs of repeated experts, are scaled with; None:
            not seen.
        output_TD: the weighted sum of their outputs; None: not seen.
    """

    input_TD: Tensor
    index_TK: Tensor
    weight_TK: Tensor | None = None
    output_TD: Tensor | None = None


@dataclass
class LayerRecorder:
    """Records one layer while its model runs.

    Attributes:
        layer: of a model.
        top_k: K where the router gives scores alone; None: not known.
        reading: how the router's outputs are interpreted, detected at the first run.
    """

    layer: ExpertLayer
    top_k: int | None = None
    reading: RouterScores | None = None
    calls: int = 0
    routed: tuple[Any, ...] = ()
    router_input: Tensor | None = None
    given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    made: Any = None
    rows_of_expert: list[int] = field(default_factory=list)

    def begin(self) -> None:
        """Forget what was seen before."""
        self.calls, self.routed, self.router_input = 0, (), None
        self.given, self.made = ((), {}), None
        self.rows_of_expert = [0] * self.layer.number

    def hooks(self) -> list[RemovableHandle]:
        """Start recording, and forget earlier calls; returns the hooks."""
        self.begin()
        layer, watched = self.layer, self._watched
        hooks = [
            layer.router.register_forward_hook(self._router, with_kwargs=True),
            watched.register_forward_hook(self._experts, with_kwargs=True),
        ]
        if isinstance(layer, ListedLayer):
            for number, expert in enumerate(layer.modules):
                count = self._rows(number)
                hooks.append(expert.register_forward_pre_hook(count, with_kwargs=True))
        return hooks

    @property
    def _watched(self) -> nn.Module:
        """The module whose arguments and result are recorded."""
        layer = self.layer
        return layer.module if isinstance(layer, PairedLayer) else layer.experts

    def _router(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        self.calls += 1
        self.router_input = next(_tensors(args, kwargs), None)
        self.routed = output if isinstance(output, tuple) else (output,)

    def _experts(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        self.given, self.made = (args, kwargs), output

    def _rows(self, number: int) -> Any:
        def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            rows = next(_tensors(args, kwargs), None)
            if rows is not None:
                self.rows_of_expert[number] += len(rows.flatten(0, -2))

        return count

    def result(self, real_T: Tensor | None, where: str) -> Routed:
        """The routing of the real tokens (without padding).

        Args:
            real_T: which of the tokens are real, as a mask or indices; None: all.
            where: the model, for errors.

        Raises:
            UserError: it did not run, or it cannot be read.
        """
        layer = self.layer
        if not self.routed:
            raise self._unreadable("is not run on text", where)
        choice = self._choice(where)
        tensors = [value for value in self.routed if isinstance(value, Tensor)]
        scores = scores_of(tensors, layer.number, choice.weight_TK)
        wider = any(score.shape[-1] > layer.number for score in scores)
        if self.reading is None:
            self._check(choice, where)
            self.reading = read_router(scores, choice.index_TK, choice.weight_TK)
        if wider and choice.weight_TK is not None:  # a choice of none of the experts
            choice.index_TK = choice.index_TK.masked_fill(choice.weight_TK == 0, layer.number)
        choice.index_TK = choice.index_TK.clamp(max=layer.number)
        logits_TN = self.reading.logits(scores, layer.number)
        routed = Routed(choice.input_TD, choice.index_TK, logits_TN, choice.weight_TK)
        return routed if real_T is None else routed.of(real_T)

    def _choice(self, where: str) -> Choice:
        layer = self.layer
        tensors = list(_tensors(*self.given))
        floating = [value for value in tensors if value.is_floating_point()]
        whole = [value for value in tensors if not value.is_floating_point()]
        if isinstance(layer, PairedLayer):
            return self._paired(where)
        if isinstance(layer, RepeatedLayer):
            return self._repeated(floating)
        if isinstance(layer, ListedLayer):
            return self._of_listed(floating, whole, where)
        if len(floating) < 2 or not whole:
            raise self._unreadable("is called without a choice of experts and weights", where)
        made = self.made if isinstance(self.made, Tensor) else None
        x_TD = floating[0].flatten(0, -2)
        return Choice(
            x_TD,
            whole[0].flatten(0, -2).long(),
            floating[1].flatten(0, -2),
            None if made is None else made.reshape(len(x_TD), -1),
        )

    def _repeated(self, floating: list[Tensor]) -> Choice:
        """Repeated experts: the weight of an expert is the scale of its copy of a row."""
        assert self.router_input is not None
        x_TD = self.router_input.flatten(0, -2)
        scaled_NTD = floating[0].reshape(self.layer.number, *x_TD.shape)
        chosen_NT = scaled_NTD.any(-1)
        top_k = max(1, int(chosen_NT.sum(0).max()))
        square_T = x_TD.float().square().sum(-1).clamp(min=1e-30)
        weight_NT = (scaled_NTD.float() * x_TD.float()).sum(-1) / square_T
        weight_TK, index_TK = weight_NT.masked_fill(~chosen_NT, 0).T.topk(top_k)
        chosen_TK = chosen_NT.T.gather(1, index_TK)
        return Choice(x_TD, index_TK.masked_fill(~chosen_TK, self.layer.number), weight_TK)

    def _paired(self, where: str) -> Choice:
        """Paired experts: the router sorts its choices by expert and returns the slot of each."""
        x_TD = self.given[0][0].flatten(0, -2)
        try:
            slot_R, _, weight_R, sizes = self.routed[:4]
            number_R = torch.arange(self.layer.number).repeat_interleave(torch.tensor(sizes))
            index_R, weights_R = torch.empty_like(slot_R), torch.empty_like(weight_R)
            index_R[slot_R] = number_R.to(index_R.device)
            weights_R[slot_R] = weight_R
        except (ValueError, TypeError, RuntimeError, AttributeError):
            raise self._unreadable("has a router that is not understood", where) from None
        bias = self.layer.module.bias
        made = self.made - bias if isinstance(self.made, Tensor) and bias is not None else None  # type: ignore[operator]
        return Choice(
            x_TD,
            index_R.view(len(x_TD), -1),
            weights_R.view(len(x_TD), -1),
            None if made is None else made.flatten(0, -2),
        )

    def _of_listed(self, floating: list[Tensor], whole: list[Tensor], where: str) -> Choice:
        number = self.layer.number
        if floating and whole:  # called as a whole, with ones where a token is sent
            taken_TN = whole[0].reshape(len(floating[0].flatten(0, -2)), -1)[:, -number:]
            index_T1 = taken_TN.argmax(-1, keepdim=True)
            index_T1 = index_T1.masked_fill(~taken_TN.bool().any(-1, keepdim=True), number)
            x_TD = floating[0].flatten(0, -2)
            weight_T1 = floating[1].reshape(len(x_TD), -1) if len(floating) > 1 else None
            made = self.made.reshape(len(x_TD), -1) if isinstance(self.made, Tensor) else None
            return Choice(x_TD, index_T1, weight_T1, made)
        if self.router_input is None:
            raise self._unreadable("has a router that is called without rows", where)
        x_TD = self.router_input.flatten(0, -2)
        tensors = [value for value in self.routed if isinstance(value, Tensor) and value.ndim >= 2]
        index = next((value for value in tensors if not value.is_floating_point()), None)
        if index is not None:
            return Choice(x_TD, index.flatten(0, -2).long())
        scores = scores_of(tensors, number, None)
        if not scores:
            raise self._unreadable("has a router that gives neither choice nor scores", where)
        if self.top_k is None:
            raise DataError(
                "the model's config does not say how many experts a token is sent to",
                where=where,
                hint="It needs num_experts_per_tok.",
            )
        return Choice(x_TD, scores[0].topk(min(self.top_k, number), dim=-1).indices)

    def _check(self, choice: Choice, where: str) -> None:
        """Refuse a layer whose own output differs from the output computed with the recorded
        routing.

        Raises:
            UserError: the layer computes something else.
        """
        layer, number = self.layer, self.layer.number
        if isinstance(layer, ListedLayer) and choice.output_TD is None:
            counted = torch.bincount(choice.index_TK.flatten(), minlength=number)[:number]
            if counted.tolist() != self.rows_of_expert:
                raise self._unreadable(
                    "sends its experts other tokens than those that were read", where
                )
            return
        rows = (choice.index_TK < number).all(1).nonzero().flatten()
        rows = rows[torch.linspace(0, len(rows) - 1, min(len(rows), CHECKED_ROWS)).long()]
        if not len(rows) or choice.weight_TK is None:
            return
        if not isinstance(layer, RepeatedLayer) and choice.output_TD is None:
            return
        given = self.given  # running the experts is recorded as well
        with in_evaluation(layer.experts):
            agrees = self._agrees(choice, rows)
        if not agrees and layer.experts.training:  # it may have drawn dropout
            again = self._again(given, where)
            with in_evaluation(layer.experts):
                agrees = self._agrees(again, rows)
        if not agrees:
            raise self._unreadable("does not compute the weighted sum of its chosen experts", where)

    def _again(self, given: tuple[tuple[Any, ...], dict[str, Any]], where: str) -> Choice:
        """The layer's choice and output of a second call with the given arguments, without
        dropout."""
        seen = self.calls, self.routed, self.router_input, self.given, self.made
        counted = list(self.rows_of_expert)
        (args, kwargs), watched = given, self._watched
        try:
            with in_evaluation(self.layer.module):
                watched(*args, **kwargs)
            return self._choice(where)
        finally:
            self.calls, self.routed, self.router_input, self.given, self.made = seen
            self.rows_of_expert = counted

    def _agrees(self, choice: Choice, rows: Tensor) -> bool:
        """Whether the outputs of some rows are the weighted sums of their experts' outputs."""
        layer = self.layer
        x_RD, index_RK = choice.input_TD[rows], choice.index_TK[rows]
        assert choice.weight_TK is not None
        given_RK = choice.weight_TK[rows]
        weight_RK = given_RK.float()
        if isinstance(layer, RepeatedLayer):
            own_NTD = self.made.reshape(layer.number, len(choice.input_TD), -1)
            scaled_RD = (x_RD.float() * weight_RK[:, :1]).to(x_RD.dtype)
            made_RD = own_NTD[index_RK[:, 0], rows]
            weight_RK = torch.zeros_like(weight_RK)
            weight_RK[:, 0] = 1
            dense_NRD = layer.dense(scaled_RD)
        else:
            assert choice.output_TD is not None
            made_RD, dense_NRD = choice.output_TD[rows], layer.dense(x_RD)
        picked_RKD = dense_NRD.float()[index_RK.T, torch.arange(len(rows))].transpose(0, 1)
        parts_RKD = picked_RKD * weight_RK[..., None]  # these may nearly cancel each other
        error = (parts_RKD.sum(1) - made_RD.float()).norm().item()
        size = max(parts_RKD.norm().item(), made_RD.float().norm().item(), 1e-12)
        # A value that is not finite says nothing about the sum.
        return not error > _rounding(x_RD, made_RD, dense_NRD, given_RK) * size

    def _unreadable(self, what: str, where: str) -> UserError:
        name = type(self.layer.module).__name__
        return DataError(
            f"the layer {self.layer.name} ({name}) {what}",
            where=where,
            hint="This kind of model is not supported.",
        )


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors among the arguments of a call."""
    return (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


def _rounding(*tensors: Tensor) -> float:
    """The largest error that rounding explains where a layer computes with these tensors; under
    autocast some of its products are in 16 bits, whatever its inputs are."""
    if torch.is_autocast_enabled(tensors[0].device.type):
        return DISAGREES_16_BITS
    return max(DISAGREES.get(tensor.dtype, DISAGREES_16_BITS) for tensor in tensors)


@contextlib.contextmanager
def in_evaluation(module: nn.Module) -> Iterator[None]:
    """Switch off dropout meanwhile, because it would draw from the user's generator."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextlib.contextmanager
def recording(layers: Sequence[LayerRecorder]) -> Iterator[None]:
    """Watch layers while their model runs."""
    hooks = [hook for watched in layers for hook in watched.hooks()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
