"""`simsmoe export`."""

from pathlib import Path
from typing import Annotated

import typer

from simsmoe_cli.cli.options import (
    DATA_DIR,
    RUNS_DIR,
    CheckpointOption,
    DataDirOption,
    RunArgument,
    RunsDirOption,
    console,
)

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")]
KindOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="simsmoe|mixtral",
        help="simsmoe (the default): any model; mixtral: the layout of Hugging Face's Mixtral. A "
        "run of pretrain --from is always written as the Hugging Face model it is.",
    ),
]


def export(
    run: RunArgument,
    folder: FolderArgument,
    kind: KindOption = None,
    which: CheckpointOption = "best",
    data_dir: DataDirOption = DATA_DIR,
    runs_dir: RunsDirOption = RUNS_DIR,
) -> None:
    """Write weights, configuration, tokenizer and a readme into one folder."""
    from simsmoe_cli.cli.stage_progress import StageProgress
    from simsmoe_cli.export.folder import export as write
    from simsmoe_cli.run.find import find_run
    from simsmoe_cli.run.opened import open_language_model

    with StageProgress(console(stderr=True), in_bytes=False) as progress:
        progress("exporting", 0, None)
        files = write(open_language_model(find_run(run, runs_dir), which, data_dir), folder, kind)
    console().print(f"{folder}: {', '.join(files)}", soft_wrap=True)
