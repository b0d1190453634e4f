"""`simsmoe compare`."""

from pathlib import Path
from typing import Annotated

import typer

from simsmoe_cli.cli.complete import complete_runs
from simsmoe_cli.cli.options import RUNS_DIR, JsonOption, RunsDirOption, console, print_json

RunsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...",
        help="Run folders, their names under --runs-dir (as quoted patterns too: 'plain-s*'), or "
        "folders with a collapse report, as of a Hugging Face model.",
        autocompletion=complete_runs,
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Also write a file: a page (.html), or the curves (.pdf, .svg, .png)."
    ),
]


def compare(
    runs: RunsArgument,
    out: OutOption = None,
    runs_dir: RunsDirOption = RUNS_DIR,
    as_json: JsonOption = False,
) -> None:
    """Set runs side by side: scores, similarity, load, speed, settings that differ, and curves.

    Runs that differ in their seed alone are one column: compare 'plain-s*' 'sim-s*'. The first
    one is the baseline.
    """
    from simsmoe_cli.compare.show import check_out, print_comparison, write_comparison
    from simsmoe_cli.compare.statistics import compare as compare_runs
    from simsmoe_cli.run.find import find_folder, runs_named
    from simsmoe_cli.run.folder import RunDir

    if out is not None:
        check_out(out)
    folders = []
    for run in runs_named(runs, runs_dir):
        try:
            folders.append(RunDir(find_folder(run, runs_dir)))
        except OSError:  # said where it is read, so that others are compared all the same
            folders.append(RunDir(runs_dir / run))
    comparison = compare_runs(folders)
    if out is not None:
        write_comparison(comparison, out)
    if as_json:
        print_json(comparison.to_json())
        return
    print_comparison(comparison, console())
    if out is not None:
        console().print(str(out), soft_wrap=True)
