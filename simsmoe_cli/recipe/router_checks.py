"""What can be wrong with the router a recipe chooses: settings it cannot work with or would ignore.

One function a router, named in :data:`CHECKS`; :func:`router_problems` runs the one of the chosen
router. Importing this module never imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from simsmoe_cli.errors import Problem
from simsmoe_cli.recipe.schema import MoESettings, Recipe
from simsmoe_cli.recipe.section import Section


def router_problems(recipe: Recipe) -> Iterator[Problem]:
    """Sections of routers that are not chosen, and what the chosen router cannot do."""
    for name in sorted(recipe.idle_routers):
        yield from ignored_settings(
            name,
            getattr(recipe, name),
            f"router {recipe.moe.router}",
            f"or set moe.router to {name.replace('_', '-')}",
            "moe.router",
        )
    if "g" in recipe.model.pattern and recipe.moe.router in CHECKS:
        yield from CHECKS[recipe.moe.router](recipe)


def ignored_settings(
    name: str, section: Section, beside: str, alternative: str, because: str, keep: str = ""
) -> Iterator[Problem]:
    """Fields of a section that were given although nothing reads them.

    Args:
        name: of the section.
        section: the section itself.
        beside: what they have no effect with.
        alternative: what else to do than to leave them out.
        because: path of the field that makes them idle.
        keep: a field that is read all the same.
    """
    for field, info in type(section).model_fields.items():
        if field != keep and getattr(section, field) != info.get_default():
            yield Problem(
                (f"{name}.{field}", because),
                f"has no effect with {beside}",
                f"Leave it out, {alternative}.",
            )


def _top_k_is(count: int) -> Callable[[Recipe], Iterator[Problem]]:
    def check(recipe: Recipe) -> Iterator[Problem]:
        if recipe.moe.top_k != count:
            yield Problem(
                ("moe.top_k", "moe.router", "model.pattern"),
                f"router {recipe.moe.router} sends a token to {count} "
                f"expert{'s' * (count > 1)}, not {recipe.moe.top_k}",
                f"Set it to {count}, or moe.router to smoe.",
            )

    return check


def _xmoe(recipe: Recipe) -> Iterator[Problem]:
    settings = recipe.xmoe
    if settings.published:
        yield from ignored_settings(
            "xmoe",
            settings,
            "xmoe.published, which fixes it",
            "or set xmoe.published to false",
            "xmoe.published",
            keep="published",
        )
    elif settings.tau <= settings.tau_min:
        yield Problem(
            ("xmoe.tau", "xmoe.tau_min"),
            f"must be above xmoe.tau_min, and {settings.tau} is not above {settings.tau_min}",
            "Raise it, or lower xmoe.tau_min.",
        )


def _stablemoe(recipe: Recipe) -> Iterator[Problem]:
    if recipe.stablemoe.published:
        yield from ignored_settings(
            "stablemoe",
            recipe.stablemoe,
            "stablemoe.published, which has one stage and no light router",
            "or set stablemoe.published to false",
            "stablemoe.published",
            keep="published",
        )


def _without_balance_loss(recipe: Recipe) -> Iterator[Problem]:
    if recipe.moe.balance_weight not in ("auto", 0):
        yield Problem(
            ("moe.balance_weight", "moe.router", "model.pattern"),
            f"has no effect with router {recipe.moe.router}, which has no balance loss",
            "Leave it out.",
        )


def _learns_nothing(recipe: Recipe) -> Iterator[Problem]:
    yield from _without_balance_loss(recipe)
    if recipe.moe.z_weight:
        yield Problem(
            ("moe.z_weight", "moe.router", "model.pattern"),
            f"has no effect with router {recipe.moe.router}, which learns nothing",
            "Set it to 0.",
        )


def _smoe_dropout(recipe: Recipe) -> Iterator[Problem]:
    yield from _without_balance_loss(recipe)
    moe, settings = recipe.moe, recipe.smoe_dropout
    start, end = settings.range_of_k(moe.top_k, moe.experts)
    first = "smoe_dropout.k_start" if settings.k_start else "moe.top_k"
    for path, given, k in (
        ("smoe_dropout.k_start", settings.k_start, start),
        ("smoe_dropout.k_end", settings.k_end, end),
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
    if settings.k_start and moe.top_k not in (settings.k_start, _DEFAULT_TOP_K):
        yield Problem(
            ("moe.top_k", "smoe_dropout.k_start", "moe.router", "model.pattern"),
            "has no effect with smoe_dropout.k_start, which says the same",
            "Leave one of them out.",
        )


def _expert_choice(recipe: Recipe) -> Iterator[Problem]:
    yield from _without_balance_loss(recipe)
    if not recipe.expert_choice.allow_leak and not recipe.finetune.task:
        yield Problem(
            ("moe.router", "expert_choice.allow_leak", "model.pattern"),
            "expert-choice picks a token by what comes after it, which a language model is to "
            "predict, so its loss would mean nothing",
            "Choose another, or set expert_choice.allow_leak to true to train it all the same.",
        )


_DEFAULT_TOP_K = MoESettings.model_fields["top_k"].default

CHECKS: dict[str, Callable[[Recipe], Iterator[Problem]]] = {
    "switch": _top_k_is(1),
    "gshard": _top_k_is(2),
    "xmoe": _xmoe,
    "stablemoe": _stablemoe,
    "hash": _learns_nothing,
    "random": _learns_nothing,
    "smoe-dropout": _smoe_dropout,
    "loss-free": _without_balance_loss,
    "remoe": _without_balance_loss,
    "expert-choice": _expert_choice,
}
