"""`simsmoe reproduce`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simsmoe_cli.cli.options import (
    DATA_DIR,
    RUNS_DIR,
    DataDirOption,
    DeviceOption,
    RunsDirOption,
    SetOption,
    console,
)
from simsmoe_cli.cli.sweeping import (
    JobsOption,
    KeepWeightsOption,
    Options,
    PlanOption,
    ResultsOption,
    ReuseOption,
    YesOption,
    ask,
    check_options,
    sweep_through,
)
from simsmoe_cli.errors import UserError, nearest

if TYPE_CHECKING:
    from simsmoe_cli.sweep.definition import Definition
    from simsmoe_cli.sweep.texts import Text

WHAT = ("table1", "table2", "table3", "figure3", "figure4", "figure5")
SCALES = ("small", "paper")

WhatArgument = Annotated[
    str, typer.Argument(metavar="|".join(WHAT), help="A table or figure of the paper.")
]
ScaleOption = Annotated[
    str,
    typer.Option(
        metavar="small|paper",
        help="small: a small model and few steps, for two cores; paper: the published protocol, "
        "for a GPU.",
    ),
]
SeedsOption = Annotated[
    int | None,
    typer.Option(min=1, max=1_000, metavar="N", help="Seeds of every cell: 0 to N-1."),
]
SourceOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="With --scale small: train on this text, such as a part of enwik8, instead of "
        "pystdlib.",
    ),
]


def reproduce(
    what: WhatArgument,
    scale: ScaleOption = "small",
    seeds: SeedsOption = None,
    source: SourceOption = None,
    settings: SetOption = None,
    jobs: JobsOption = 1,
    yes: YesOption = False,
    dry_run: PlanOption = False,
    keep_weights: KeepWeightsOption = False,
    results: ResultsOption = None,
    reuse: ReuseOption = None,
    device: DeviceOption = "auto",
    data_dir: DataDirOption = DATA_DIR,
    runs_dir: RunsDirOption = RUNS_DIR,
) -> None:
    """Train what a table or figure of the paper shows; the published numbers stand beside ours.

    Finished trainings are skipped, so the same command goes on after an interruption.
    """
    from simsmoe_cli.cli.stage_progress import StageProgress
    from simsmoe_cli.sweep.arguments import assignments
    from simsmoe_cli.sweep.definition import changed, read_definition
    from simsmoe_cli.sweep.texts import is_prepared, prepare_text, texts_of, with_source

    for value, known, where in ((what, WHAT, ""), (scale, SCALES, "--scale")):
        if value not in known:
            raise UserError(f"unknown name '{value}'", where=where, hint=nearest(value, known))
    if source is not None and scale == "paper":
        raise UserError(
            "the paper's protocol has its own texts",
            where="--source",
            hint="Leave it out, or use --scale small.",
        )
    definition = read_definition(f"{what}-{scale}")
    given = None if seeds is None else f"0-{seeds - 1}"
    definition = changed(definition, assignments(settings or [], "--set"), given)
    name = definition.name
    if source is not None:
        definition = with_source(definition, source)
        name = f"{name}-{definition.settings['data.corpus']}"
    options = Options(
        name, jobs, yes, dry_run, keep_weights, results, reuse, device, data_dir, runs_dir
    )
    check_options(options)
    texts = texts_of(definition, source)
    missing = [text for text in texts if not is_prepared(text, data_dir)]
    if missing:
        _show_before(definition, options, missing)
        if dry_run:
            return
        ask("Prepare this, and train?", yes=yes)
        options = replace(options, yes=True)
    with StageProgress(console(stderr=True)) as progress:
        for text in texts:
            prepare_text(text, data_dir, progress)
    sweep_through(definition, options)


def _show_before(definition: "Definition", options: Options, missing: "list[Text]") -> None:
    """What is known of the plan before its text is prepared."""
    from simsmoe_cli.sweep.cells import cells_of

    cells = cells_of(definition)
    lines = [
        f"sweep      {definition.name} in {options.runs_dir / options.name}",
        f"cells      {len(cells)}, with {sum(len(cell.seeds) for cell in cells)} trainings in all",
    ]
    for text in missing:
        how = "download and prepare" if text.downloads else "prepare"
        what = "task" if text.is_task else "corpus"
        made_from = "" if text.source == text.name else f" from {text.source}"
        lines.append(f"first      {how} the {what} {text.name}{made_from} in {options.data_dir}")
    lines.append("then       tokens, FLOPs and time are shown, and training begins")
    console().print(*lines, sep="\n", soft_wrap=True)
