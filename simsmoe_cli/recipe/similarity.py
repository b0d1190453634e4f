"""Settings of similarity learning: one section of a recipe, its presets and its checks.

`similarity/learning.py` explains beta, T* and f*. The options of each measure are named in its row
of `registry.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from simsmoe_cli.errors import nearest, printable
from simsmoe_cli.recipe import schedule
from simsmoe_cli.recipe.schedule import Schedule, value_at
from simsmoe_cli.recipe.section import Problem, Section
from simsmoe_cli.registry import MEASURES

Preset = Literal["none", "published", "paper", "calibrated"]
Positive = Annotated[float, Field(gt=0, le=1e6)]
NotNegative = Annotated[float, Field(ge=0, le=1e6)]
Fraction = Annotated[float, Field(ge=0, le=1)]

# "published" has the settings of SimSMoE's code, "paper" those of its text, "calibrated" our own.
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
        # Pairs below the threshold add no loss; a larger weight costs BPC, and so does any weight
        # in the first fifth of training. Comparing only shared tokens leaves experts similar on
        # other tokens, and comparing only random tokens leaves them similar on the tokens they
        # share. Measured: LOG.md.
        "threshold": 0.1,
        "weight": [[0.2, 0.0], [0.5, 0.003]],
        "anywhere": True,
        "tokens": 128,
        "budget": 0.05,
    },
}
# Fields that may be schedules, and the bounds of their values.
SCHEDULED: dict[str, tuple[float, float]] = {
    "weight": (0, 1e6),
    "threshold": (0, 1),
    "check_every": (0, 1e6),
    "sigma": (1e-9, 1e6),
}
# Fields that only the pair tracker reads.
TRACKED = ("check_every", "pairs", "min_tokens", "anywhere")


class SimilaritySettings(Section):
    """Similarity learning (SimSMoE); fields left out come from the preset."""

    preset: Preset = Field("none", description="values of the fields that are left out")
    scope: Literal["pairs", "layer", "experts"] = Field(
        "pairs",
        description="what is compared. pairs: the P most overdue pairs, each on tokens that both "
        "experts received; their sum. layer: all pairs of a layer, on tokens given to every "
        "expert; their mean. experts: on such tokens too, each expert contrasted with all others "
        "at once; their mean",
    )
    measure: str = Field(
        "cka-linear-debiased",
        max_length=100,
        description="measure of how similar two experts are; `simsmoe list similarity`. With "
        "several processes, a pair is compared over the tokens of all: each process draws its own, "
        "and their HSIC, three numbers a pair, are averaged before the ratio is taken. This works "
        "for cka-linear, cka-linear-debiased and cka-rbf with a number for sigma. Other measures, "
        "and scope experts, compare tokens with each other and would need the rows of all "
        "processes, so they are refused there",
    )
    sigma: Positive | Literal["median"] | Schedule = Field(
        0.8, description="cka-rbf: bandwidth of the kernels, or 'median' (of distances, detached)"
    )
    temperature: Positive | Literal["auto"] = Field(
        "auto",
        description="temperature tau of contrastive measures and of scope experts; auto: 0.1, "
        "1 for simclr-v1, 0.2 for scope experts",
    )
    rince_lambda: float = Field(
        0.025, gt=0, lt=1, description="rince: weight of the other candidates relative to the match"
    )
    rince_q: float = Field(
        0.5,
        gt=0,
        le=1,
        description="rince-v2: near 0 is InfoNCE, 1 is symmetric and the most robust",
    )
    directclr_width: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="directclr: how many features are compared; 0: 360 of 2048, as in the paper",
    )
    spread_weight: NotNegative | Literal["auto"] = Field(
        "auto",
        description="weight of the uniformity in hypersphere (auto: 1), of the covariance in tico "
        "(1), of the redundancy in barlow-twins (0.005)",
    )
    head: Literal["none", "linear", "mlp"] = Field(
        "none", description="projection before measuring: none; linear, D -> N; mlp, D -> N -> N"
    )
    head_frozen: bool = Field(False, description="keep the head at its random initial weights")
    check_every: NotNegative | Schedule = Field(
        0.0,
        description="f*: a pair is due once it has shared this many batches' worth of tokens",
    )
    threshold: Fraction | Schedule = Field(
        0.0,
        description="T*: pairs less similar than this add no loss; with cka-linear-debiased 0 is "
        "chance level, and 1 the same up to rotation and scale",
    )
    weight: NotNegative | Schedule = Field(
        0.0,
        description="beta: coefficient of the similarity loss; while it is 0, experts are not "
        "compared. A schedule is a list of points [share of training, value], such as "
        "[[0, 0.0], [0.1, 0.003]], linear in between",
    )
    pairs: int = Field(
        4, ge=1, le=1_000_000, description="P: pairs compared per step, the most overdue first"
    )
    tokens: int = Field(
        128,
        ge=4,
        le=10_000_000,
        description="tokens sampled per pair; for the scopes layer and experts, for all experts",
    )
    anywhere: bool = Field(
        False,
        description="scope pairs: draw half of a pair's tokens from the whole batch, half from the "
        "shared tokens, and compare the pair on each half",
    )
    min_tokens: int = Field(
        16,
        ge=4,
        le=10_000_000,
        description="a pair that shares fewer tokens than this, in all processes together, is not "
        "compared yet",
    )

    budget: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="largest share of a step's FLOPs that similarity learning may take. Where a "
        "comparison in every step takes more, experts are compared in every m-th step, and that "
        "step's similarity loss is multiplied by m; null: in every step",
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
        """Whether training compares experts at all."""
        return self.preset != "none"

    def compares(self, progress: float) -> bool:
        """Whether training compares experts at this share of it: not while the weight is 0."""
        return value_at(self.weight, progress) > 0

    @property
    def measure_options(self) -> tuple[str, ...]:
        """Fields that the measure in use reads."""
        if self.scope == "experts":
            return ("temperature",)
        return MEASURES[self.measure].options if self.measure in MEASURES else ()

    def in_force(self, progress: float) -> dict[str, float]:
        """The present values of beta, T*, f* and sigma, of those that have an effect.

        Args:
            progress: share of training that is done.
        """
        names = ["weight", "threshold"]
        names += ["check_every"] if self.scope == "pairs" else []
        names += ["sigma"] if "sigma" in self.measure_options and self.sigma != "median" else []
        return {name: value_at(getattr(self, name), progress) for name in names}

    def problems(self, pattern: str, width: int, experts: int) -> Iterator[Problem]:
        """All contradictions within the section, and with the model.

        Args:
            pattern: of the model's sub-layers.
            width: of the model, D.
            experts: per layer, N.
        """
        if self.measure not in MEASURES:
            unknown = f"unknown measure '{printable(self.measure)}'"
            yield Problem(("similarity.measure",), unknown, nearest(self.measure, MEASURES))
        changed = self._changed()
        if not self.enabled:
            for name in changed:
                yield Problem(
                    (f"similarity.{name}", "similarity.preset"),
                    "has no effect with similarity.preset none",
                    "Choose a preset, or leave it out.",
                )
            return
        if "g" not in pattern:
            yield Problem(
                ("similarity.preset", "model.pattern"),
                f"similarity learning needs experts, and pattern '{pattern}' has no g",
                "Set it to none.",
            )
        elif experts < 2:
            yield Problem(
                ("similarity.preset", "moe.experts"),
                "similarity learning needs at least 2 experts",
                "Set it to none.",
            )
        for name, (least, most) in SCHEDULED.items():
            value = getattr(self, name)
            if isinstance(value, list) and (fault := schedule.fault(value, least, most)):
                yield Problem((f"similarity.{name}",), fault, "For example [[0, 0.0], [0.1, 0.5]].")
        weights = self.weight if isinstance(self.weight, list) else [[0.0, self.weight]]
        if not any(point[-1] for point in weights if point):
            yield Problem(
                ("similarity.weight", "similarity.preset"),
                "is 0 throughout, so experts would never be compared",
                "Set similarity.preset to none: probes measure similarity all the same.",
            )
        yield from self._scope_problems(changed)
        yield from self._measure_problems(changed, width if self.head == "none" else experts)
        if self.head_frozen and self.head == "none":
            yield Problem(
                ("similarity.head_frozen", "similarity.head"),
                "has no effect without a head",
                "Leave it out, or set similarity.head to linear or mlp.",
            )

    def problems_of(self, ranks: int) -> Iterator[Problem]:
        """What cannot be measured over the tokens of this many processes."""
        if ranks == 1 or not self.enabled:
            return
        adding = [name for name, entry in MEASURES.items() if entry.adds_up]
        hint = f"Use {', '.join(adding[:-1])} or {adding[-1]}, or train in one process."
        if self.scope == "experts":
            yield Problem(
                ("similarity.scope",),
                f"experts cannot be contrasted over the tokens of {ranks} processes",
                f"Set similarity.scope to pairs or layer. {hint}",
            )
        elif self.measure in MEASURES and not MEASURES[self.measure].adds_up:
            yield Problem(
                ("similarity.measure",),
                f"{self.measure} cannot be added up over the tokens of {ranks} processes",
                hint,
            )
        elif self.sigma == "median" and "sigma" in self.measure_options:
            yield Problem(
                ("similarity.sigma", "similarity.measure"),
                f"the median of each of {ranks} processes would be another, and kernels of "
                "different bandwidths do not add up",
                "Set it to a number, or train in one process.",
            )

    def _changed(self) -> list[str]:
        """Fields that differ from the preset."""
        preset = SimilaritySettings.model_validate({"preset": self.preset})
        names = SimilaritySettings.model_fields
        return [name for name in names if getattr(self, name) != getattr(preset, name)]

    def _scope_problems(self, changed: list[str]) -> Iterator[Problem]:
        if self.scope == "pairs":
            if self.min_tokens > self.tokens:
                yield Problem(
                    ("similarity.min_tokens", "similarity.tokens"),
                    f"{self.min_tokens} is more than the {self.tokens} tokens sampled per "
                    "pair, so no pair would ever be measured",
                    f"Use at most {self.tokens}.",
                )
            return
        for name in (*TRACKED, *(("measure",) if self.scope == "experts" else ())):
            if name in changed:
                yield Problem(
                    (f"similarity.{name}", "similarity.scope"),
                    f"has no effect with scope {self.scope}, which compares all experts every step"
                    + (" by contrast" if name == "measure" else ""),
                    "Leave it out, or set similarity.scope to pairs.",
                )

    def _measure_problems(self, changed: list[str], features: int) -> Iterator[Problem]:
        """Options that the measure does not take, and a width that is too large.

        Args:
            changed: fields that differ from the preset.
            features: width of the compared outputs.
        """
        every_option = {option for entry in MEASURES.values() for option in entry.options}
        if self.scope == "experts":
            beside, because = "scope experts", "similarity.scope"
        else:
            beside, because = f"measure {self.measure}", "similarity.measure"
        for name in sorted(every_option - set(self.measure_options)):
            if name in changed and self.measure in MEASURES:
                takers = [measure for measure, entry in MEASURES.items() if name in entry.options]
                yield Problem(
                    (f"similarity.{name}", because),
                    f"has no effect with {beside}",
                    f"Leave it out, or set similarity.measure to {' or '.join(takers)}.",
                )
        if "directclr_width" in self.measure_options and self.directclr_width > features:
            yield Problem(
                ("similarity.directclr_width", "similarity.head", "model.width", "moe.experts"),
                f"{self.directclr_width} is more than the {features} features that are compared",
                f"Use at most {features}.",
            )
