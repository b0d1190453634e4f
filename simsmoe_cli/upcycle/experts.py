"""How an expert is made from a dense feed-forward block: a copy, or one that is made different.

- `drop_ratio` (Drop-Upcycling, Nakamura et al. 2502.19261): in each expert a random share of the
  hidden units is drawn anew, the same units in all its matrices, from a normal distribution with
  the mean and the standard deviation of the dense matrix. The published code takes them over the
  drawn units alone, and draws other units for each of the matrices.
- `noise`: normal noise, in units of the standard deviation of the dense matrix.

Every tensor has a random generator of its own, seeded by the seed and its name, so the result does
not depend on the order in which tensors are made.

Shapes: H hidden units, D model width.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from simsmoe_cli.errors import UserError

MOST_EXPERTS = 1024


@dataclass(frozen=True)
class Settings:
    """How experts are made.

    Attributes:
        experts: experts a layer, N.
        top_k: experts a token, K.
        drop_ratio: share of the hidden units of each expert that is drawn anew.
        noise: standard deviation of added noise over that of the matrix.
        seed: of everything random.
    """

    experts: int = 8
    top_k: int = 2
    drop_ratio: float | None = None
    noise: float | None = None
    seed: int = 0

    def check(self) -> None:
        """Raise a UserError for values that make no mixture of experts."""
        if not 2 <= self.experts <= MOST_EXPERTS:
            raise UserError(
                f"expected 2 to {MOST_EXPERTS:,} experts, got {self.experts:,}", where="--experts"
            )
        if not 1 <= self.top_k <= self.experts:
            raise UserError(
                f"expected 1 to {self.experts:,} (the number of experts), got {self.top_k:,}",
                where="--top-k",
            )
        if self.drop_ratio is not None and self.noise is not None:
            raise UserError("give --drop-ratio or --noise, not both")
        if self.drop_ratio is not None and not 0 <= self.drop_ratio <= 1:
            raise UserError(f"expected 0 to 1, got {self.drop_ratio:g}", where="--drop-ratio")
        if self.noise is not None and not (math.isfinite(self.noise) and self.noise >= 0):
            raise UserError(f"expected 0 or more, got {self.noise:g}", where="--noise")

    @property
    def exact(self) -> bool:
        """Whether experts are exact copies."""
        return not self.drop_ratio and not self.noise

    def random(self, name: str) -> torch.Generator:
        """The generator of a tensor."""
        digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class DenseMatrix:
    """A matrix of a dense block, and how its numbers are distributed.

    Attributes:
        weight: [H, D] of a matrix into the hidden units, [D, H] of the one out of them.
        mean, std: of its numbers; None: no expert is drawn from them.
    """

    weight: Tensor
    mean: float = 0.0
    std: float = 0.0

    @classmethod
    def of(cls, weight: Tensor, settings: Settings) -> DenseMatrix:
        """A matrix, measured where the settings need that."""
        if settings.exact:
            return cls(weight)
        values = weight.float()
        return cls(weight, values.mean().item(), values.std(correction=0).item())

    def expert(
        self, settings: Settings, name: str, layer: int, expert: int, *, out: bool
    ) -> Tensor:
        """The matrix of one expert, in memory of its own.

        Args:
            settings: how experts are made.
            name: of the new tensor, unique in the model.
            layer, expert: their numbers; the hidden units that are drawn anew depend on them.
            out: whether it is the matrix out of the hidden units.
        """
        weight = self.weight.clone()
        if settings.noise:
            drawn = torch.randn(weight.shape, generator=settings.random(name))
            return (weight.float() + drawn * (settings.noise * self.std)).to(weight.dtype)
        if settings.drop_ratio:
            dimension = 1 if out else 0  # that of the H hidden units
            hidden = weight.shape[dimension]
            units = torch.randperm(hidden, generator=settings.random(f"units of {layer} {expert}"))[
                : round(settings.drop_ratio * hidden)
            ]
            shape = list(weight.shape)
            shape[dimension] = len(units)
            drawn = torch.randn(shape, generator=settings.random(name))
            weight.index_copy_(dimension, units, (drawn * self.std + self.mean).to(weight.dtype))
        return weight
