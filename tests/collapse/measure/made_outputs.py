"""Outputs of experts whose CKA is known, made from a seed."""

from __future__ import annotations

import torch

from simsmoe_cli.collapse.measure.block_sums import Standardised
from simsmoe_cli.collapse.measure.linear_cka import PairwiseCka, cka_with_interval


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def related(experts: int, rows: int, width: int, own: float, seed: int = 0) -> torch.Tensor:
    """Z + own * E_i with Z and all E_i standard: population CKA of each pair 1 / (1 + own^2)^2."""
    source = generator(seed)
    common = torch.randn(rows, width, generator=source)
    return common + own * torch.randn(experts, rows, width, generator=source)


def cka(outputs: torch.Tensor, blocks: int = 16, resamples: int = 200) -> PairwiseCka:
    """CKA of all pairs with its interval, as a report measures it."""
    return cka_with_interval(Standardised(outputs), blocks, resamples, 0.95, generator())
