"""Settings of the routers that have any: one section of a recipe each.

A section is named as its router, with underscores, and may only be set where that router is
chosen. `loss_weights` are the coefficients of the losses a router adds to the common ones.
Published values: METHODS of the papers named in `registry.py`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from simsmoe_cli.recipe.section import Section


class RouterSettings(Section):
    """Base of all sections of routers."""

    @property
    def loss_weights(self) -> dict[str, float]:
        """Coefficients of the router's own losses, by name."""
        return {}


class SwitchSettings(RouterSettings):
    """Router switch."""

    jitter: float = Field(
        0.1, ge=0, lt=1, description="eps: inputs are scaled by 1 +- eps in training; 0: not"
    )


class GShardSettings(RouterSettings):
    """Router gshard."""

    random_second: bool = Field(
        True, description="keep the second expert with probability min(1, 2 g2) in training"
    )


class XMoESettings(RouterSettings):
    """Router xmoe."""

    published: bool = Field(
        False, description="as SimSMoE's baseline: 8 dimensions, token not normalised, fixed tau"
    )
    dimension: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="of the space tokens and experts meet in; 0: N/2 rounded to 8s",
    )
    tau: float = Field(0.3, gt=0, le=1e6, description="temperature at the start; learned")
    tau_min: float = Field(0.01, gt=0, le=1e6, description="the temperature never falls below this")


class StableMoESettings(RouterSettings):
    """Router stablemoe."""

    published: bool = Field(
        False, description="as SimSMoE's baseline: one stage, normalised expert embeddings"
    )
    freeze_after: float = Field(
        0.1, gt=0, le=1, description="share of training after which the light router is frozen"
    )
    token_width: int = Field(
        50, ge=1, le=1_000_000, description="width of the light router's token embedding"
    )
    distill_weight: float = Field(
        0.3, ge=0, le=1e6, description="coefficient of the distillation loss"
    )

    @property
    def loss_weights(self) -> dict[str, float]:
        return {"distill": self.distill_weight}


class SMoEDropoutSettings(RouterSettings):
    """Router smoe-dropout."""

    k_start: int = Field(
        0, ge=0, le=8_192, description="experts per token at the first step; 0: moe.top_k"
    )
    k_end: int = Field(
        0,
        ge=0,
        le=8_192,
        description="experts per token at the last step; 0: N/2, at least k_start",
    )

    def range_of_k(self, top_k: int, experts: int) -> tuple[int, int]:
        """K at the first and at the last step of training, of N experts."""
        start = self.k_start or top_k
        return start, self.k_end or max(start, experts // 2)


class HyperRouterSettings(RouterSettings):
    """Router hyperrouter."""

    hidden: int = Field(
        256, ge=1, le=10_000_000, description="hidden width of the frozen hypernetwork"
    )


class CompeteSMoESettings(RouterSettings):
    """Router competesmoe."""

    version: Literal[1, 2025] = Field(
        2025, description="affinity: mean softplus of the response (2025) or its norm (1)"
    )
    rate: float = Field(0.05, ge=0, le=1, description="share of steps with a competition")
    warmup: float = Field(
        0.05, ge=0, le=1, description="share of training before the first competition"
    )
    max_layers: int = Field(
        3, ge=1, le=2_000, description="layers that compete in one step at most"
    )
    router_weight: float = Field(
        0.01, ge=0, le=1e6, description="coefficient of the router's loss on competition steps"
    )

    @property
    def loss_weights(self) -> dict[str, float]:
        return {"compete": self.router_weight}


class LossFreeSettings(RouterSettings):
    """Router loss-free."""

    gamma: float = Field(1e-3, ge=0, le=1e6, description="step of the selection bias")


class ReMoESettings(RouterSettings):
    """Router remoe."""

    l1_start: float = Field(
        1e-8, gt=0, le=1, description="L1 coefficient at the first step, and its lower bound"
    )
    l1_factor: float = Field(
        1.2, gt=1, le=1e3, description="the coefficient is multiplied or divided by this every step"
    )

    @property
    def loss_weights(self) -> dict[str, float]:
        return {"sparsity": 1.0}  # the router steers its own coefficient


class ExpertChoiceSettings(RouterSettings):
    """Router expert-choice."""

    allow_leak: bool = Field(
        False, description="allow it in a causal language model, where it looks at future tokens"
    )
