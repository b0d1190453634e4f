"""A source whose experts and routing are planted, so that what a report must say is known.

Inputs are independent Gaussians, so experts that read different features are unrelated; the router
sends each token where its own first features point.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simsmoe_cli.collapse.measure.options import Options
from simsmoe_cli.collapse.sources.base import Batch, LayerSpec, Size, WholeSource
from simsmoe_cli.collapse.subject import Subject
from simsmoe_cli.moe.experts.loop import LoopExperts
from simsmoe_cli.similarity.routed import Routed

WIDTH, HIDDEN, EXPERTS = 40, 12, 5
QUICK = Options(rows=1024, tokens=4096, blocks=16, resamples=100)


class Planted(WholeSource):
    """Layers of SwiGLU experts, each on its own slice of the input: unrelated until changed."""

    def __init__(self, layers: int = 1, seed: int = 0):
        subject = Subject(
            kind="run",
            name="planted",
            recipe="planted",
            router="smoe",
            similarity="none",
            settings={},
            parameters=0,
            checkpoint="best",
            step=0,
            seed=seed,
            simsmoe="0",
            torch="0",
        )
        super().__init__(
            subject=subject,
            layers=[LayerSpec(f"layers.{number}", EXPERTS) for number in range(layers)],
            corpus="noise",
            split="valid",
            unit="byte",
            block=64,
        )
        torch.manual_seed(seed)
        self.experts = [
            LoopExperts(EXPERTS, WIDTH, HIDDEN, activation="swiglu", bias=False)
            for _ in range(layers)
        ]
        self.bias_LN = torch.zeros(layers, EXPERTS)
        reads = WIDTH // EXPERTS
        for experts in self.experts:
            for expert in range(EXPERTS):
                own = torch.zeros(WIDTH)
                own[expert * reads : (expert + 1) * reads] = WIDTH
                experts.w_in.data[expert] *= own

    def copy(self, layer: int, source: int, target: int, permuted: bool = False) -> None:
        """Give an expert the weights of another, its hidden units in another order if asked."""
        experts = self.experts[layer]
        order = torch.randperm(HIDDEN) if permuted else torch.arange(HIDDEN)
        both = torch.cat([order, order + HIDDEN])
        experts.w_in.data[target] = experts.w_in.data[source][both]
        experts.w_out.data[target] = experts.w_out.data[source][:, order]

    def read(self, tokens: int, rows: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(1)
        for start in range(0, tokens, 512):
            x_TD = torch.randn(512, WIDTH, generator=generator)
            routed = []
            for bias_N in self.bias_LN:
                logits_TN = x_TD[:, :EXPERTS] + bias_N
                routed.append(Routed(x_TD, logits_TN.topk(2).indices, logits_TN))
            yield Batch(torch.arange(start, start + 512), routed, start < rows, 512.0, 512)

    def dense(self, layer: int, x_TD: Tensor) -> Tensor:
        return self.experts[layer].dense(x_TD).detach()

    def weights(self, layer: int) -> list[Tensor]:
        experts = self.experts[layer]
        return [*experts.w_in.detach().chunk(2, dim=1), experts.w_out.detach().mT]

    @property
    def size(self) -> Size:
        weights = [self.weights(layer) for layer in range(len(self.layers))]
        return Size.of(nn.ModuleList(self.experts), weights, 2, 0)

    def text_of(self, ids: list[int]) -> list[str]:
        return [f"t{token}" for token in ids]


def oracle_debiased(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Debiased linear CKA from U-centred Gram matrices (Szekely and Rizzo 2014)."""

    def u_centred(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        n = len(rows)
        gram = rows @ rows.T
        np.fill_diagonal(gram, 0)
        sums = gram.sum(0)
        centred = gram - (sums[:, None] + sums) / (n - 2) + gram.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(centred, 0)
        return centred

    k, m = u_centred(x.astype(np.float64)), u_centred(y.astype(np.float64))
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def oracle_biased(
    x: NDArray[np.float64], y: NDArray[np.float64], sigma: float | None = None
) -> float:
    """CKA as tr(KHLH) with explicit matrices; Gaussian kernels of sigma medians if given."""

    def kernel(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = rows.astype(np.float64)
        if sigma is None:
            return rows @ rows.T
        distance = np.linalg.norm(rows[:, None] - rows, axis=-1)
        median = np.median(distance[np.triu_indices(len(rows), 1)])
        return np.exp(-(distance**2) / (2 * (sigma * median) ** 2))

    h = np.eye(len(x)) - 1 / len(x)
    k, m = h @ kernel(x) @ h, h @ kernel(y) @ h
    return float(np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m)))
