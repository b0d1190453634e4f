"""`simsmoe list`: the names that recipes and commands take."""

from typing import Annotated

import typer

from simsmoe_cli.cli.complete import complete_kinds
from simsmoe_cli.cli.options import JsonOption, console, print_json

KindArgument = Annotated[
    str,
    typer.Argument(
        help="recipes, sweeps, routers, experts, similarity, corpora, tasks or loggers",
        autocompletion=complete_kinds,
    ),
]


def list_names(
    kind: KindArgument = "recipes",
    json: JsonOption = False,
) -> None:
    """List names of recipes, sweeps, routers, experts, similarity, corpora, tasks or loggers."""
    from simsmoe_cli import registry
    from simsmoe_cli.errors import UserError, nearest

    if kind in ("recipes", "sweeps"):
        from simsmoe_cli.recipe.load import list_recipes, list_sweeps, read_header

        rows = []
        for name, path in list_recipes() if kind == "recipes" else list_sweeps():
            header = read_header(path)
            rows.append({"name": name, "help": header["description"], "source": header["source"]})
    elif kind in registry.TABLES:
        rows = [
            {"name": name, "help": entry.help, "source": entry.source}
            for name, entry in registry.TABLES[kind].items()
        ]
    else:
        known = ["recipes", "sweeps", *registry.TABLES]
        raise UserError(f"cannot list {kind!r}", hint=nearest(kind, known))
    if json:
        print_json(rows)
        return

    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("name", no_wrap=True, style="bold")
    table.add_column("what it is")
    table.add_column("source", style="dim")
    for row in rows:
        table.add_row(row["name"], row["help"], row["source"])
    console().print(table)
