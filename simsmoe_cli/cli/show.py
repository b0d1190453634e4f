"""`simsmoe show`: a recipe with every default and preset resolved."""

from typing import Annotated

import typer

from simsmoe_cli.cli.complete import complete_recipes
from simsmoe_cli.cli.options import (
    JsonOption,
    RouterOption,
    SetOption,
    SimilarityOption,
    all_overrides,
    print_json,
)

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A name from `simsmoe list recipes`, or a file.",
        autocompletion=complete_recipes,
    ),
]
FieldsOption = Annotated[
    bool, typer.Option("--fields", help="Add each field's documentation, type and default.")
]


def show(
    recipe: RecipeArgument,
    settings: SetOption = None,
    router: RouterOption = None,
    similarity: SimilarityOption = None,
    json: JsonOption = False,
    fields: FieldsOption = False,
) -> None:
    """Print a recipe, resolved, as YAML that `simsmoe pretrain --recipe` takes."""
    from simsmoe_cli.recipe.fields import fields as documented
    from simsmoe_cli.recipe.load import dump_recipe, guide, load_recipe

    resolved = load_recipe(recipe, all_overrides(settings, router=router, similarity=similarity))
    if not json:
        if fields:
            typer.echo(f"# How to choose f*, T*, beta, sigma and the number of experts: {guide()}")
        typer.echo(dump_recipe(resolved, comments=fields), nl=False)
        return
    values = resolved.model_dump(exclude=resolved.idle_sections)
    if not fields:
        print_json(values)
        return
    rows = []
    for known in documented(resolved):
        section, _, name = known.path.rpartition(".")
        of_section = values[section] if section else values
        if name not in of_section:  # it is not used, as those that describe a folder's model
            continue
        rows.append(
            {
                "field": known.path,
                "value": of_section[name],
                "type": known.type,
                "default": known.default,
                "help": known.help,
            }
        )
    print_json(rows)
