"""The sections of a recipe for routers that have settings.

To add a router with settings, add a class here, with its checks in `problems`, and a field of
`RouterSections` with the router's name (underscores for hyphens). Other code finds the section by
that name. Such a section may only be set where its router is chosen. Properties of a router that do
not depend on its settings (its losses, the K it works with) are in its row of `registry.py`, which
also names the papers of the defaults.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field

from simsmoe_cli.recipe.moe import MoESettings
from simsmoe_cli.recipe.section import Problem, Section


class RouterSettings(Section):
    """Base of the sections of routers; also used as the settings of a router without a section."""

    @property
    def loss_weights(self) -> dict[str, float]:
        """Coefficients of the losses that only this router has, by name."""
        return {}

    @property
    def balance_weight(self) -> float:
        """The coefficient of the balance loss where `moe.balance_weight` is "auto"."""
        return 0.01

    def first_k(self, moe: MoESettings) -> int:
        """Experts per token at the first step of training."""
        return moe.top_k

    def mean_k(self, moe: MoESettings, steps: int) -> float:
        """Experts per token, the mean over a training of so many steps."""
        return moe.top_k

    def problems(self, moe: MoESettings, *, causal: bool) -> Iterator[Problem]:
        """Contradictions between these settings, and with the rest of the recipe.

        Args:
            moe: the section `moe` of the same recipe.
            causal: whether a causal language model is trained.
        """
        return iter(())

    def continued(self, moe: MoESettings, step: int, steps: int) -> tuple[MoESettings, Self]:
        """The sections `moe` and this one for a training that starts from the weights of this run.

        Args:
            moe: the section `moe` of the same recipe.
            step: the step of the weights.
            steps: steps of the training they come from.
        """
        return moe, self


class SwitchSettings(RouterSettings):
    """Router switch."""

    jitter: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="eps: in training, inputs are multiplied by random factors from 1 - eps to "
        "1 + eps; 0: off",
    )


class GShardSettings(RouterSettings):
    """Router gshard."""

    random_second: bool = Field(
        True, description="in training, keep the second expert with probability min(1, 2 g2)"
    )


class XMoESettings(RouterSettings):
    """Router xmoe."""

    published: bool = Field(
        False, description="as SimSMoE's baseline: 8 dimensions, tokens not normalised, fixed tau"
    )
    dimension: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="dimensions of the space in which tokens and experts are compared; "
        "0: N/2 rounded to a multiple of 8",
    )
    tau: float = Field(0.3, gt=0, le=1e6, description="temperature at the start; it is learned")
    tau_min: float = Field(0.01, gt=0, le=1e6, description="lower bound of the temperature")

    def problems(self, moe: MoESettings, *, causal: bool) -> Iterator[Problem]:
        if self.published:
            yield from self.without_effect(
                "xmoe",
                "xmoe.published, which fixes it",
                "or set xmoe.published to false",
                "xmoe.published",
                keep="published",
            )
        elif self.tau <= self.tau_min:
            yield Problem(
                ("xmoe.tau", "xmoe.tau_min"),
                f"must be above xmoe.tau_min, and {self.tau} is not above {self.tau_min}",
                "Raise it, or lower xmoe.tau_min.",
            )


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

    @property
    def balance_weight(self) -> float:
        return 0.01 if self.published else 0.3

    def problems(self, moe: MoESettings, *, causal: bool) -> Iterator[Problem]:
        if self.published:
            yield from self.without_effect(
                "stablemoe",
                "stablemoe.published, which has one stage and no light router",
                "or set stablemoe.published to false",
                "stablemoe.published",
                keep="published",
            )


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

    def range_of_k(self, top_k: int, num_experts: int) -> tuple[int, int]:
        """K at the first and at the last step of training, of N experts."""
        start = self.k_start or top_k
        return start, self.k_end or max(start, num_experts // 2)

    def k_at(self, step: int, steps: int, top_k: int, experts: int) -> int:
        """K at a step of training (0 is the first), rounded; that of the last step after it."""
        start, end = self.range_of_k(top_k, experts)
        last = max(1, steps - 1)
        return start + (2 * (end - start) * min(step, last) + last) // (2 * last)

    def first_k(self, moe: MoESettings) -> int:
        return self.range_of_k(moe.top_k, moe.experts)[0]

    def mean_k(self, moe: MoESettings, steps: int) -> float:
        start, end = self.range_of_k(moe.top_k, moe.experts)
        last = max(1, steps - 1)
        # K is start + j or more from this step on (`k_at`), for j = 1 ... end - start.
        begins = (-(-(2 * j - 1) * last // (2 * (end - start))) for j in range(1, end - start + 1))
        return start + sum(steps - step for step in begins) / steps

    def continued(self, moe: MoESettings, step: int, steps: int) -> tuple[MoESettings, Self]:
        """K goes on growing from where it was, not from the start."""
        k = self.k_at(step, steps, moe.top_k, moe.experts)
        return moe.model_copy(update={"top_k": k}), self.model_copy(update={"k_start": 0})

    def problems(self, moe: MoESettings, *, causal: bool) -> Iterator[Problem]:
        start, end = self.range_of_k(moe.top_k, moe.experts)
        first = "smoe_dropout.k_start" if self.k_start else "moe.top_k"
        for path, given, k in (
            ("smoe_dropout.k_start", self.k_start, start),
            ("smoe_dropout.k_end", self.k_end, end),
        ):
            if given and k > moe.experts:
                yield Problem(
                    (path, "moe.experts", "moe.router", "model.pattern"),
                    f"{k} experts per token are more than the {moe.experts} there are",
                    f"Use at most {moe.experts}.",
                )
        if start > end:
            yield Problem(
                ("smoe_dropout.k_end", first, "moe.router", "model.pattern"),
                f"experts per token only grow, and {end} are fewer than the {start} of {first}",
                f"Use at least {start}, or lower {first}.",
            )
        if self.k_start and moe.top_k not in (self.k_start, MoESettings().top_k):
            yield Problem(
                ("moe.top_k", "smoe_dropout.k_start", "moe.router", "model.pattern"),
                "has no effect with smoe_dropout.k_start, which says the same",
                "Leave one of them out.",
            )


class HyperRouterSettings(RouterSettings):
    """Router hyperrouter."""

    hidden: int = Field(
        256, ge=1, le=10_000_000, description="hidden width of the frozen hypernetwork"
    )


class CompeteSMoESettings(RouterSettings):
    """Router competesmoe."""

    version: Literal[1, 2025] = Field(
        2025,
        description="how an expert's response to a token is scored: by its norm (1), or by the "
        "mean of its softplus (2025)",
    )
    rate: float = Field(0.05, ge=0, le=1, description="share of steps with a competition")
    warmup: float = Field(
        0.05, ge=0, le=1, description="share of training before the first competition"
    )
    max_layers: int = Field(
        3, ge=1, le=2_000, description="most layers that compete in the same step"
    )
    router_weight: float = Field(
        0.01, ge=0, le=1e6, description="coefficient of the router's loss in competition steps"
    )

    @property
    def loss_weights(self) -> dict[str, float]:
        return {"compete": self.router_weight}


class LossFreeSettings(RouterSettings):
    """Router loss-free."""

    gamma: float = Field(
        1e-3, ge=0, le=1e6, description="how far the selection bias moves in a step"
    )


class ReMoESettings(RouterSettings):
    """Router remoe."""

    l1_start: float = Field(
        1e-8, gt=0, le=1, description="L1 coefficient at the first step, and its lower bound"
    )
    l1_factor: float = Field(
        1.2,
        gt=1,
        le=1e3,
        description="the L1 coefficient is multiplied or divided by this at every step",
    )

    @property
    def loss_weights(self) -> dict[str, float]:
        return {"sparsity": 1.0}  # the router steers its own coefficient


class ExpertChoiceSettings(RouterSettings):
    """Router expert-choice."""

    allow_leak: bool = Field(
        False,
        description="train a causal language model although this router looks at later tokens",
    )

    def problems(self, moe: MoESettings, *, causal: bool) -> Iterator[Problem]:
        if causal and not self.allow_leak:
            yield Problem(
                ("moe.router", "expert_choice.allow_leak", "model.pattern"),
                "expert-choice picks a token by what comes after it, which a language model is to "
                "predict, so its loss would mean nothing",
                "Choose another, or set expert_choice.allow_leak to true to train it anyway.",
            )


class RouterSections(Section):
    """The part of a recipe that holds the sections of routers."""

    switch: SwitchSettings = SwitchSettings()
    gshard: GShardSettings = GShardSettings()
    xmoe: XMoESettings = XMoESettings()
    stablemoe: StableMoESettings = StableMoESettings()
    smoe_dropout: SMoEDropoutSettings = SMoEDropoutSettings()
    hyperrouter: HyperRouterSettings = HyperRouterSettings()
    competesmoe: CompeteSMoESettings = CompeteSMoESettings()
    loss_free: LossFreeSettings = LossFreeSettings()
    remoe: ReMoESettings = ReMoESettings()
    expert_choice: ExpertChoiceSettings = ExpertChoiceSettings()

    def of_router(self, router: str) -> RouterSettings:
        """The section of a router; an empty section for a router without settings."""
        found = getattr(self, section_name(router), None)
        return found if isinstance(found, RouterSettings) else RouterSettings()

    @staticmethod
    def idle(router: str) -> set[str]:
        """The sections of all other routers."""
        return set(RouterSections.model_fields) - {section_name(router)}

    def router_problems(
        self, moe: MoESettings, *, causal: bool, has_experts: bool
    ) -> Iterator[Problem]:
        """Settings of routers that are not chosen, and contradictions of the chosen one.

        Args:
            moe: the section `moe`.
            causal: whether a causal language model is trained.
            has_experts: whether any layer uses the router.
        """
        for name in sorted(self.idle(moe.router)):
            section: RouterSettings = getattr(self, name)
            choose = f"or set moe.router to {name.replace('_', '-')}"
            yield from section.without_effect(name, f"router {moe.router}", choose, "moe.router")
        if has_experts:
            yield from self.of_router(moe.router).problems(moe, causal=causal)


def section_name(router: str) -> str:
    """The name of a router's section, if it has one."""
    return router.replace("-", "_")
