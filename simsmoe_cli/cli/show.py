"""`simsmoe show`: a recipe with every default and preset resolved."""

from __future__ import annotations

from typing import Annotated

import typer

from simsmoe_cli.cli.common import JsonOption, print_json


def show(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A name from `simsmoe list recipes`, or a file.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="A.B=C", help="Change a setting; repeatable."),
    ] = None,
    router: Annotated[str | None, typer.Option(help="Same as --set moe.router=NAME.")] = None,
    similarity: Annotated[
        str | None,
        typer.Option(help="none, published, paper or calibrated: similarity learning's preset."),
    ] = None,
    json: JsonOption = False,
    fields: Annotated[
        bool, typer.Option("--fields", help="With each field's documentation, type and default.")
    ] = False,
) -> None:
    """Print a recipe, resolved, as YAML that `simsmoe pretrain --recipe` takes."""
    from simsmoe_cli import recipe as schema
    from simsmoe_cli.recipe_loading import dump_recipe, load_recipe

    overrides = list(settings or [])
    for field, value in (("moe.router", router), ("similarity.preset", similarity)):
        if value is not None:
            overrides.append(f"{field}={value}")
    resolved = load_recipe(recipe, overrides)
    if not json:
        typer.echo(dump_recipe(resolved, comments=fields), nl=False)
        return
    values = resolved.model_dump(exclude=resolved.idle_sections)
    if not fields:
        print_json(values)
        return
    rows = []
    for known in schema.fields(resolved):
        section, _, name = known.path.rpartition(".")
        rows.append(
            {
                "field": known.path,
                "value": (values[section] if section else values)[name],
                "type": known.type,
                "default": known.default,
                "help": known.help,
            }
        )
    print_json(rows)
