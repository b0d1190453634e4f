"""Layers with experts in a model that is not ours, found by what they are and not by their names.

A layer is a module with a child whose name ends with "experts" and a router beside it, a child that
has a matrix with one row per expert. The experts are either

- stacked (transformers 5): one module with 3-D parameters [N, ., .], called with rows, the chosen
  experts and their weights; or
- listed (transformers 4, code of one's own): a ModuleList of N equal modules, called with rows.

Experts that are always on (shared experts) are no choice of the router and not among them.

Shapes: T tokens, D width, H expert hidden width, N experts.
"""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simsmoe_cli.errors import EXIT_DATA, UserError

# What the matrix that leads out of the hidden units is called.
LEAVING = ("down", "w2", "fc2", "wo", "out")


@dataclass
class ExpertLayer:
    """A layer found in a model.

    Attributes:
        name: of the module that holds both.
        experts: stacked, or a ModuleList.
        router: gives logits [T, N], alone or among other things.
        number: N.
    """

    name: str
    experts: nn.Module
    router: nn.Module
    number: int

    @property
    def stacked(self) -> bool:
        return not isinstance(self.experts, nn.ModuleList)


def find_layers(model: nn.Module) -> list[ExpertLayer]:
    """The layers with experts of a model, in the order of its modules; empty if there are none."""
    found = []
    for name, parent in model.named_modules():
        children = dict(parent.named_children())
        for child_name, experts in children.items():
            number = _experts_in(experts) if child_name.endswith("experts") else 0
            if number < 2:
                continue
            routers = [
                child
                for child in children.values()
                if child is not experts and _scores(child, number)
            ]
            if routers:
                found.append(ExpertLayer(name, experts, routers[0], number))
    return found


def _experts_in(module: nn.Module) -> int:
    """N of stacked or listed experts, 0 for another module."""
    if isinstance(module, nn.ModuleList):
        return len(module) if len({type(expert) for expert in module}) == 1 else 0
    sizes = {len(parameter) for parameter in module.parameters(recurse=False)}
    stacked = any(parameter.ndim == 3 for parameter in module.parameters(recurse=False))
    takes_routing = len(inspect.signature(module.forward).parameters) >= 3
    return sizes.pop() if stacked and takes_routing and len(sizes) == 1 else 0


def _scores(module: nn.Module, number: int) -> bool:
    """Whether a module has a matrix with a row for each of so many experts."""
    return any(p.ndim == 2 and p.shape[0] == number for p in module.parameters())


def hidden_units(experts: nn.Module) -> list[Tensor]:
    """Weights by hidden unit, one [N, H, weights of a unit] per matrix; gate and up apart."""
    if isinstance(experts, nn.ModuleList):
        matrices: dict[str, list[Tensor]] = {}
        for expert in experts:
            for name, parameter in expert.named_parameters():
                if parameter.ndim == 2:
                    matrices.setdefault(name, []).append(parameter.detach())
        stacked = {name: torch.stack(parts) for name, parts in matrices.items()}
    else:
        named = experts.named_parameters(recurse=False)
        stacked = {name: part.detach() for name, part in named if part.ndim == 3}
    if getattr(experts, "is_transposed", False):
        stacked = {name: part.mT for name, part in stacked.items()}
    last = list(stacked)[-1]
    leaving = next((name for name in stacked if any(word in name for word in LEAVING)), last)
    hidden = stacked[leaving].shape[2]
    parts = []
    for name, part in stacked.items():
        if name == leaving:
            parts.append(part.mT)
        elif part.shape[1] == 2 * hidden and getattr(experts, "is_concatenated", True):
            parts += part.chunk(2, dim=1)
        elif part.shape[1] == 2 * hidden:
            parts += [part[:, ::2], part[:, 1::2]]
        else:
            parts.append(part)
    return parts


def no_experts(model: nn.Module, name: str) -> UserError:
    """The error for a model without experts, with what it has instead."""
    kinds = Counter(type(module).__name__ for module in model.modules())
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8))
    return UserError(
        f"no layer with experts and a router in this {type(model).__name__}; it has {listed}",
        where=name,
        hint="A layer needs a child named 'experts' (stacked or a ModuleList) and a router.",
        code=EXIT_DATA,
    )
