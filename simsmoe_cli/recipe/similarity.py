"""Settings of similarity learning: one section of a recipe, and its presets (METHODS section 4)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from simsmoe_cli.recipe.schedule import Schedule, value_at
from simsmoe_cli.recipe.section import Section
from simsmoe_cli.registry import MEASURES

Preset = Literal["none", "published", "paper", "calibrated"]
Positive = Annotated[float, Field(gt=0, le=1e6)]
NotNegative = Annotated[float, Field(ge=0, le=1e6)]
Fraction = Annotated[float, Field(ge=0, le=1)]

# METHODS: SimSMoE's published code, the text of its paper, and the setting that separates experts.
PRESETS: dict[str, dict[str, Any]] = {
    "none": {"weight": 0.0},
    "published": {
        "measure": "cka-rbf",
        "sigma": 0.8,
        "head": "linear",
        "check_every": 16.0,
        "threshold": 0.5,
        "weight": 0.01,
        "tokens": 512,
    },
    "paper": {
        "measure": "cka-rbf",
        "sigma": 0.8,
        "head": "mlp",
        "check_every": 8.0,
        "threshold": 0.5,
        "weight": 0.01,
        "tokens": 512,
    },
    "calibrated": {
        "measure": "cka-linear-debiased",
        "head": "none",
        "check_every": 0.0,
        # Pairs that differ already are left alone; more weight costs BPC. On shared tokens alone
        # experts stay alike elsewhere, on any alone where they work together. Measured: LOG.md.
        "threshold": 0.1,
        "weight": 0.003,
        "anywhere": True,
        "tokens": 128,
    },
}


class SimilaritySettings(Section):
    """Similarity learning (SimSMoE); fields left out come from the preset."""

    preset: Preset = Field("none", description="where fields left out come from")
    scope: Literal["pairs", "layer", "experts"] = Field(
        "pairs",
        description="pairs: the P pairs most overdue, each on tokens both received, their sum; "
        "layer: all pairs of a layer on tokens that every expert is given, their mean; experts: "
        "there too, each expert against all others at once, by contrast, their mean",
    )
    measure: str = Field(
        "cka-linear-debiased",
        max_length=100,
        description="how alike two experts are; `simsmoe list similarity`",
    )
    sigma: Positive | Literal["median"] | Schedule = Field(
        0.8, description="cka-rbf: bandwidth of the kernels, or 'median' (distance, detached)"
    )
    temperature: Positive | Literal["auto"] = Field(
        "auto",
        description="tau of infonce, directclr, rince, simclr, dcl and of scope experts; auto: "
        "0.1, 1 for simclr-v1, 0.2 for experts",
    )
    rince_lambda: float = Field(
        0.025, gt=0, lt=1, description="rince: weight of the candidates against the match"
    )
    rince_q: float = Field(
        0.5, gt=0, le=1, description="rince-v2: near 0 is InfoNCE, 1 is symmetric and most robust"
    )
    directclr_width: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="directclr: features it looks at; 0: 360 of 2048, as in the paper",
    )
    spread_weight: NotNegative | Literal["auto"] = Field(
        "auto",
        description="weight of the uniformity in hypersphere, the covariance in tico, the "
        "redundancy in barlow-twins; auto: 1, 1, 0.005",
    )
    head: Literal["none", "linear", "mlp"] = Field(
        "none", description="projection before measuring: none, D -> N, or D -> N -> N"
    )
    head_frozen: bool = Field(False, description="keep the head at its random start")
    check_every: NotNegative | Schedule = Field(
        0.0, description="f*: a pair is due past this many batches' worth of shared tokens"
    )
    threshold: Fraction | Schedule = Field(
        0.0, description="T*: what is less alike than this adds no loss; 0 is chance, 1 the same"
    )
    weight: NotNegative | Schedule = Field(
        0.0,
        description="beta: coefficient of the similarity loss. A schedule is points "
        "[share of training, value], as [[0, 0.0], [0.1, 0.003]], straight in between",
    )
    pairs: int = Field(
        4, ge=1, le=1_000_000, description="P: pairs examined a step, the most overdue first"
    )
    tokens: int = Field(
        128, ge=4, le=10_000_000, description="tokens sampled per pair, or for all experts"
    )
    anywhere: bool = Field(
        False,
        description="scope pairs: draw half of a pair's tokens from the whole batch instead, and "
        "compare the pair on each half",
    )
    min_tokens: int = Field(
        16, ge=4, le=10_000_000, description="fewer shared tokens than this: the pair waits"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        preset = given.get("preset", "none") if isinstance(given, dict) else None
        if isinstance(preset, str) and preset in PRESETS:
            return {**PRESETS[preset], **given}
        return given

    @property
    def enabled(self) -> bool:
        """Whether training measures pairs at all."""
        return self.preset != "none"

    @property
    def measure_options(self) -> tuple[str, ...]:
        """Fields that the measure in use takes."""
        if self.scope == "experts":
            return ("temperature",)
        return MEASURES[self.measure].options if self.measure in MEASURES else ()

    def in_force(self, progress: float) -> dict[str, float]:
        """What beta, T*, f* and sigma are now, as far as they have an effect.

        Args:
            progress: share of training that is done.
        """
        names = ["weight", "threshold"]
        names += ["check_every"] if self.scope == "pairs" else []
        names += ["sigma"] if "sigma" in self.measure_options and self.sigma != "median" else []
        return {name: value_at(getattr(self, name), progress) for name in names}
