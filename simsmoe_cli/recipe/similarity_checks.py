"""What can be wrong with similarity learning in a recipe: schedules, and settings without effect.

Importing this module never imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator

from simsmoe_cli.errors import Problem, nearest, printable
from simsmoe_cli.recipe import schedule
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.recipe.similarity import SimilaritySettings
from simsmoe_cli.registry import MEASURES

# Fields that may be schedules, and the bounds of their values.
SCHEDULED: dict[str, tuple[float, float]] = {
    "weight": (0, 1e6),
    "threshold": (0, 1),
    "check_every": (0, 1e6),
    "sigma": (1e-9, 1e6),
}
# What only the pair tracker reads.
TRACKED = ("check_every", "pairs", "min_tokens", "anywhere")


def similarity_problems(recipe: Recipe) -> Iterator[Problem]:
    """All contradictions of the section."""
    settings = recipe.similarity
    if settings.measure not in MEASURES:
        yield Problem(
            ("similarity.measure",),
            f"unknown measure '{printable(settings.measure)}'",
            nearest(settings.measure, MEASURES),
        )
    given = _given(settings)
    if not settings.enabled:
        for name in given:
            yield Problem(
                (f"similarity.{name}", "similarity.preset"),
                "has no effect with similarity.preset none",
                "Choose a preset, or leave it out.",
            )
        return
    if "g" not in recipe.model.pattern:
        yield Problem(
            ("similarity.preset", "model.pattern"),
            f"similarity learning needs experts, and pattern '{recipe.model.pattern}' has no g",
            "Set it to none.",
        )
    elif recipe.moe.experts < 2:
        yield Problem(
            ("similarity.preset", "moe.experts"),
            "similarity learning needs at least 2 experts",
            "Set it to none.",
        )
    for name, (least, most) in SCHEDULED.items():
        value = getattr(settings, name)
        if isinstance(value, list) and (fault := schedule.fault(value, least, most)):
            yield Problem((f"similarity.{name}",), fault, "For example [[0, 0.0], [0.1, 0.5]].")
    yield from _scope_problems(settings, given)
    yield from _measure_problems(recipe, given)
    if settings.head_frozen and settings.head == "none":
        yield Problem(
            ("similarity.head_frozen", "similarity.head"),
            "has no effect without a head",
            "Leave it out, or set similarity.head to linear or mlp.",
        )


def _given(settings: SimilaritySettings) -> list[str]:
    """Fields that are not as the preset has them."""
    preset = SimilaritySettings.model_validate({"preset": settings.preset})
    names = SimilaritySettings.model_fields
    return [name for name in names if getattr(settings, name) != getattr(preset, name)]


def _scope_problems(settings: SimilaritySettings, given: list[str]) -> Iterator[Problem]:
    if settings.scope == "pairs":
        if settings.min_tokens > settings.tokens:
            yield Problem(
                ("similarity.min_tokens", "similarity.tokens"),
                f"{settings.min_tokens} is more than the {settings.tokens} tokens sampled per "
                "pair, so no pair would ever be measured",
                f"Use at most {settings.tokens}.",
            )
        return
    idle = TRACKED if settings.scope == "layer" else (*TRACKED, "measure")
    for name in idle:
        if name in given:
            yield Problem(
                (f"similarity.{name}", "similarity.scope"),
                f"has no effect with scope {settings.scope}, which compares all experts every step"
                + (" by contrast" if name == "measure" else ""),
                "Leave it out, or set similarity.scope to pairs.",
            )


def _measure_problems(recipe: Recipe, given: list[str]) -> Iterator[Problem]:
    """Options the measure does not take, and a width it cannot take."""
    settings = recipe.similarity
    every_option = {option for entry in MEASURES.values() for option in entry.options}
    if settings.scope == "experts":
        beside, because = "scope experts", "similarity.scope"
    else:
        beside, because = f"measure {settings.measure}", "similarity.measure"
    for name in sorted(every_option - set(settings.measure_options)):
        if name in given and settings.measure in MEASURES:
            takers = [measure for measure, entry in MEASURES.items() if name in entry.options]
            yield Problem(
                (f"similarity.{name}", because),
                f"has no effect with {beside}",
                f"Leave it out, or set similarity.measure to {' or '.join(takers)}.",
            )
    width = recipe.model.width if settings.head == "none" else recipe.moe.experts
    if "directclr_width" in settings.measure_options and settings.directclr_width > width:
        yield Problem(
            ("similarity.directclr_width", "similarity.head", "model.width", "moe.experts"),
            f"{settings.directclr_width} is more than the {width} features that are compared",
            f"Use at most {width}.",
        )
