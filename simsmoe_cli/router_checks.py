"""What can be wrong with the router a recipe chooses: settings it cannot work with or would ignore.

One function a router, named in :data:`CHECKS`; :func:`router_problems` runs the one of the chosen
router. Importing this module never imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from simsmoe_cli.errors import Problem
from simsmoe_cli.recipe import Recipe
from simsmoe_cli.section import Section


def router_problems(recipe: Recipe) -> Iterator[Problem]:
    """Sections of routers that are not chosen, and what the chosen router cannot do."""
    for name in sorted(recipe.idle_sections):
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


def _learns_nothing(recipe: Recipe) -> Iterator[Problem]:
    """Routers without anything to learn have nothing that a loss could act on."""
    for path, idle in (
        ("moe.balance_weight", recipe.moe.balance_weight in ("auto", 0)),
        ("moe.z_weight", recipe.moe.z_weight == 0),
    ):
        if not idle:
            yield Problem(
                (path, "moe.router", "model.pattern"),
                f"has no effect with router {recipe.moe.router}, which learns nothing",
                "Set it to 0.",
            )


CHECKS: dict[str, Callable[[Recipe], Iterator[Problem]]] = {
    "switch": _top_k_is(1),
    "gshard": _top_k_is(2),
    "xmoe": _xmoe,
    "stablemoe": _stablemoe,
    "hash": _learns_nothing,
    "random": _learns_nothing,
}
