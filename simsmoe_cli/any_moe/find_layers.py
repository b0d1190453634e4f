"""Finds the layers with experts in any model, by their structure and not by their class names.

A layer is a module with two children: one whose name ends with "experts", and a router, which has a
matrix with one row per expert. There are four kinds of experts:

- stacked (transformers 5): one module with 3-D parameters [N, ., .], or with matrices of N blocks
  of rows (DBRX), called with rows, the chosen experts and their weights. Further indices may stand
  for experts that compute nothing (LongCat-Flash);
- repeated (Llama 4): stacked, and called with every row once per expert, scaled by its weight;
- listed (transformers 4, many custom models, Switch): a ModuleList or ModuleDict of N equal
  modules, called with rows;
- paired (JetMoE): two stacks of matrices next to the router, with an activation in between.

Shared experts, which run for every token, are left out, because the router does not choose them.
Experts that do not process text (for images or sound, or for predicting several tokens ahead) are
left out too.

Shapes: T tokens, D width, H expert hidden width, N experts.
"""

from __future__ import annotations

import inspect
import operator
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simsmoe_cli.errors import DataError, UserError

# Names of the matrix that maps hidden units back to the model width.
LEAVING = ("down", "w2", "fc2", "wo", "out")
NOT_OF_TEXT = re.compile(r"(^|[._])(vision|visual|image|audio|speech|talker|mtp)([._]|$)")


@dataclass
class ExpertLayer:
    """A layer found in a model; its experts are stacked.

    Attributes:
        name: of the module that holds both.
        module: that module.
        experts: the module that computes them.
        router: gives scores [T, N], alone or among other things.
        number: N.
        idle: the number of further experts, with indices from N on, that compute nothing.
    """

    name: str
    module: nn.Module
    experts: nn.Module
    router: nn.Module
    number: int
    idle: int = 0

    @property
    def stacked(self) -> bool:
        """Whether the experts are called with the router's choice."""
        return True

    def run(self, rows_RD: Tensor, count_N: Tensor) -> Tensor:
        """Run each row through its expert: [R, D] in the model's precision.

        Args:
            rows_RD: sorted by expert.
            count_N: how many rows each expert gets, int64.
        """
        slots = 1 + bool(self.idle)  # LongCat-Flash fails on one slot: the second is an idle expert
        weight_RS = torch.ones(len(rows_RD), slots, dtype=rows_RD.dtype, device=rows_RD.device)
        weight_RS[:, 1:] = 0
        index_RS = torch.full(weight_RS.shape, self.number, device=rows_RD.device)
        expert_N = torch.arange(self.number, device=rows_RD.device)
        index_RS[:, 0] = expert_N.repeat_interleave(count_N, output_size=len(rows_RD))
        out: Tensor = self.experts(rows_RD, index_RS, weight_RS)
        return out.reshape(len(rows_RD), -1)

    def dense(self, x_TD: Tensor) -> Tensor:
        """Run every expert on the same rows: [N, T, D] in the model's precision."""
        # One call for all: many rows at once are computed several times as fast as few.
        count_N = torch.full((self.number,), len(x_TD), device=x_TD.device)
        return self.run(x_TD.repeat(self.number, 1), count_N).view(self.number, len(x_TD), -1)

    def hidden_units(self) -> list[Tensor]:
        """Weights by hidden unit, one [N, H, weights of a unit] per matrix; gate and up apart."""
        own = dict(self.experts.named_parameters(recurse=False))
        stacked = {
            name: part.detach()[: self.number] for name, part in own.items() if part.ndim == 3
        }
        if not stacked:  # each matrix is N blocks of hidden units
            return [
                part.detach().unflatten(0, (self.number, -1))
                for part in self.experts.parameters()
                if part.ndim == 2
            ]
        concatenated = getattr(self.experts, "is_concatenated", True)
        transposed = getattr(self.experts, "is_transposed", None)
        return _units(stacked, transposed=transposed, concatenated=concatenated)


class RepeatedLayer(ExpertLayer):
    """Stacked experts that are called with every row once per expert."""

    @property
    def stacked(self) -> bool:
        return False

    def run(self, rows_RD: Tensor, count_N: Tensor) -> Tensor:
        expert_N = torch.arange(self.number, device=rows_RD.device)
        expert_R = expert_N.repeat_interleave(count_N, output_size=len(rows_RD))
        row_R = torch.arange(len(rows_RD), device=rows_RD.device)
        return self.dense(rows_RD)[expert_R, row_R]

    def dense(self, x_TD: Tensor) -> Tensor:
        out: Tensor = self.experts(x_TD.repeat(self.number, 1))
        return out.view(self.number, len(x_TD), -1)


class ListedLayer(ExpertLayer):
    """Experts that are modules of their own."""

    @property
    def stacked(self) -> bool:
        return False

    @property
    def modules(self) -> list[nn.Module]:
        """The experts, in order."""
        return _listed(self.experts)

    def run(self, rows_RD: Tensor, count_N: Tensor) -> Tensor:
        parts = rows_RD.split(count_N.tolist())
        made = [expert(part) for expert, part in zip(self.modules, parts, strict=True) if len(part)]
        return torch.cat(made)

    def dense(self, x_TD: Tensor) -> Tensor:
        return torch.stack([expert(x_TD) for expert in self.modules])

    def hidden_units(self) -> list[Tensor]:
        matrices: dict[str, list[Tensor]] = {}
        for expert in self.modules:
            for name, parameter in expert.named_parameters():
                if parameter.ndim == 2:
                    matrices.setdefault(name, []).append(parameter.detach())
        return _units({name: torch.stack(parts) for name, parts in matrices.items()})


class PairedLayer(ExpertLayer):
    """Two stacks of matrices, into the hidden units and out of them, each called with rows sorted
    by expert and the number of rows of each."""

    @property
    def stacked(self) -> bool:
        return False

    def run(self, rows_RD: Tensor, count_N: Tensor) -> Tensor:
        sizes = count_N.tolist()
        into, out = (getattr(self.module, name) for name in PAIR)
        gate, up = into(rows_RD, sizes).chunk(2, dim=-1)
        mixed: Tensor = out(self.module.activation(gate) * up, sizes)  # type: ignore[operator]
        return mixed

    def hidden_units(self) -> list[Tensor]:
        into, out = (getattr(self.module, name).weight.detach() for name in PAIR)
        return [*into.chunk(2, dim=1), out.mT]


PAIR = ("input_linear", "output_linear")


def find_expert_layers(model: nn.Module) -> list[ExpertLayer]:
    """The layers with experts of a model, in the order of its modules; empty if there are none."""
    found = []
    for name, parent in model.named_modules():
        if NOT_OF_TEXT.search(name):
            continue
        children = dict(parent.named_children())
        if paired := _paired(name, parent, children):
            found.append(paired)
        for child_name, experts in children.items():
            if not child_name.endswith("experts") or "shared" in child_name:
                continue
            kind, number, idle = _experts_in(experts)
            others = {key: child for key, child in children.items() if child is not experts}
            if number >= 2 and (router := _router(others, number)):
                found.append(kind(name, parent, experts, router, number, idle))
    return found


def _paired(name: str, parent: nn.Module, children: dict[str, nn.Module]) -> ExpertLayer | None:
    """JetMoE's layer of experts, if a module is one; its routed attention heads are left out."""
    if not {*PAIR, "router"} <= set(children) or not callable(getattr(parent, "activation", None)):
        return None
    sizes = [getattr(children[part], "weight", torch.empty(0)).shape for part in PAIR]
    if any(len(size) != 3 for size in sizes) or sizes[0][1] != 2 * sizes[1][2]:
        return None
    return PairedLayer(name, parent, children[PAIR[1]], children["router"], sizes[0][0])


def _experts_in(module: nn.Module) -> tuple[type[ExpertLayer], int, int]:
    """The layer class for a module's experts, N, and the number of idle experts; N is 0 if the
    module is not a layer with experts."""
    while isinstance(inner := getattr(module, "base_layer", None), nn.Module):
        module = inner  # peft wraps stacked experts, once for each of their matrices
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        experts = _listed(module)
        alike = len({type(expert) for expert in experts}) == 1
        return ListedLayer, len(experts) if alike else 0, 0
    takes = len(inspect.signature(module.forward).parameters)
    sizes = {len(p) for p in module.parameters(recurse=False) if p.ndim == 3}
    if sizes and takes >= 3:
        return ExpertLayer, min(sizes), max(sizes) - min(sizes)
    if sizes:
        return RepeatedLayer, min(sizes) if takes == 1 and len(sizes) == 1 else 0, 0
    declared = getattr(module, "num_experts", None)
    matrices = [p for p in module.parameters() if p.ndim == 2]
    if takes >= 3 and isinstance(declared, int) and declared > 0 and matrices:
        blocks = all(p.shape == matrices[0].shape for p in matrices)
        return ExpertLayer, declared if blocks and len(matrices[0]) % declared == 0 else 0, 0
    return ExpertLayer, 0, 0


def _listed(experts: nn.Module) -> list[nn.Module]:
    return list(experts.children())


def _router(children: dict[str, nn.Module], number: int) -> nn.Module | None:
    """The child that scores `number` experts, found by its name and a matrix with one row per
    expert (or more rows, for experts that compute nothing)."""
    rows = {
        name: {len(p) for p in child.parameters() if p.ndim == 2}
        for name, child in children.items()
        if "shared" not in name
    }
    named = [name for name in rows if re.search(r"gat|rout", name) and not name.endswith("proj")]
    for names, fits in (
        (named, operator.eq),
        (list(rows), operator.eq),
        (named, operator.gt),
    ):
        for name in names:
            if any(fits(size, number) for size in rows[name]):
                return children[name]
    return None


def _units(
    stacked: dict[str, Tensor], *, transposed: bool | None = None, concatenated: bool = True
) -> list[Tensor]:
    """Stacks of matrices by hidden unit; see `ExpertLayer.hidden_units`.

    Args:
        stacked: by name; rows are outputs unless `transposed`; None: by which the sizes fit.
        concatenated: gate and up of one matrix are halves, not every other row.
    """
    last = list(stacked)[-1]
    leaving = next((name for name in stacked if any(word in name for word in LEAVING)), last)
    if transposed is None:
        transposed = not _fit(stacked, leaving) and _fit(
            {name: part.mT for name, part in stacked.items()}, leaving
        )
    if transposed:
        stacked = {name: part.mT for name, part in stacked.items()}
    hidden = stacked[leaving].shape[2]
    parts: list[Tensor] = []
    for name, part in stacked.items():
        if name == leaving:
            parts.append(part.mT)
        elif part.shape[1] == 2 * hidden and concatenated:
            parts += part.chunk(2, dim=1)
        elif part.shape[1] == 2 * hidden:
            parts += [part[:, ::2], part[:, 1::2]]
        else:
            parts.append(part)
    return parts


def _fit(stacked: dict[str, Tensor], leaving: str) -> bool:
    """Whether the hidden units of one matrix match those of all others."""
    out = stacked[leaving]
    return all(
        part.shape[1] in (out.shape[2], 2 * out.shape[2]) and part.shape[2] == out.shape[1]
        for name, part in stacked.items()
        if name != leaving
    )


def no_experts(model: nn.Module, name: str, *, finder: bool = False) -> UserError:
    """The error for a model without experts; it names what the model has instead.

    Args:
        model, name: of the error.
        finder: whether the user may give a finder of expert layers.
    """
    kinds: Sequence[tuple[str, int]] = Counter(
        type(module).__name__ for module in model.modules()
    ).most_common(8)
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds)
    if reason := _why_not(model):
        own = "Give attach a finder of your own (layers=, docs/api.md)."
        no_finder = "In a training loop of your own, attach takes a finder (docs/api.md)."
        return DataError(reason, where=name, hint=own if finder else no_finder)
    return DataError(
        f"no layer with experts and a router in this {type(model).__name__}; it has {listed}",
        where=name,
        hint="A layer needs a child named 'experts' (stacked or a ModuleList) and a router.",
    )


def _why_not(model: nn.Module) -> str:
    """Why the first module that is named as experts does not fit; empty if there is none."""
    for name, parent in model.named_modules():
        for child_name, experts in parent.named_children():
            if not child_name.endswith("experts") or "shared" in child_name:
                continue
            where = f"{name}.{child_name}".lstrip(".")
            number = _experts_in(experts)[1]
            if NOT_OF_TEXT.search(name):
                return f"{where} does not process text"
            if number < 2:
                return f"{where} ({type(experts).__name__}) is not a stack or list of equal experts"
            return (
                f"{where} has {number} experts and no router beside it: a module with a matrix of "
                f"{number} rows"
            )
    return ""
