"""`simsmoe export`."""

from pathlib import Path
from typing import Annotated

import typer

from simsmoe_cli.cli.options import console


def export(
    run: Annotated[Path, typer.Argument(help="Run folder, or its name under --runs-dir.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="simsmoe|mixtral",
            help="simsmoe: any model; mixtral: the layout of Hugging Face's Mixtral.",
        ),
    ] = "simsmoe",
    which: Annotated[
        str, typer.Option("--checkpoint", metavar="best|last|STEP", help="Which weights.")
    ] = "best",
    data_dir: Annotated[
        Path, typer.Option(envvar="SIMSMOE_DATA", help="Where prepared corpora lie.")
    ] = Path("data"),
    runs_dir: Annotated[
        Path, typer.Option(envvar="SIMSMOE_RUNS", help="Where run folders lie.")
    ] = Path("runs"),
) -> None:
    """Write weights, configuration, tokenizer and a readme into one folder."""
    from simsmoe_cli.export.folder import export as write
    from simsmoe_cli.run.opened import open_trained
    from simsmoe_cli.train.plan_pretraining import find_run

    files = write(open_trained(find_run(run, runs_dir), which, data_dir), folder, kind)
    console().print(f"{folder}: {', '.join(files)}", soft_wrap=True)
