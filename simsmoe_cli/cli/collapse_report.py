"""`simsmoe collapse-report`."""

from pathlib import Path
from typing import Annotated

import typer

from simsmoe_cli.cli.complete import complete_runs
from simsmoe_cli.cli.options import (
    DATA_DIR,
    RUNS_DIR,
    DataDirOption,
    DeviceOption,
    JsonOption,
    RunsDirOption,
    console,
)
from simsmoe_cli.errors import UserError

RunOrModelArgument = Annotated[
    Path,
    typer.Argument(
        help="Run folder, its name under --runs-dir, or the folder of a Hugging Face model.",
        autocompletion=complete_runs,
    ),
]
ReportCheckpointOption = Annotated[
    str | None,
    typer.Option(
        metavar="best|last|all|STEP",
        help="Which weights, best if left out; all: every one saved, with a verdict on the last.",
    ),
]
AgainstOption = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="Another run to compare with.", autocompletion=complete_runs),
]
SplitOption = Annotated[
    str | None, typer.Option(metavar="valid|test", help="Of the corpus; valid if left out.")
]
TokensOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=100_000_000,
        help="Tokens that all experts see; rounded down to whole windows of text. Load, routing "
        "and loss use four times as many. 4,096 if left out, fewer for a large model.",
    ),
]
LayersOption = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Layers to measure, as the model numbers them: 0,7,12-15; all with experts if "
        "left out. The text goes through the others too.",
    ),
]
AblateTokensOption = Annotated[
    int | None,
    typer.Option(
        "--ablate-tokens",
        min=1,
        max=100_000_000,
        help="Tokens read again for each expert that is left out and each pair that is merged. "
        "16,384 if left out, fewer or none for a large model.",
    ),
]
AblationOption = Annotated[
    bool,
    typer.Option(
        "--ablation/--no-ablation",
        help="Measure what leaving out and merging experts costs.",
    ),
]
TextOption = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="Held-out text for a Hugging Face model. Several files (repeat the option) are "
        "domains: which experts each of them uses is reported too. For a run, domains to compare "
        "with its corpus.",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where to write; RUN/report if left out.")
]
FormatOption = Annotated[
    str, typer.Option("--format", help="Any of html, json, pdf, svg and png, with commas.")
]
StyleOption = Annotated[
    str | None,
    typer.Option(
        "--style",
        metavar="NAME|FILE",
        help="Style of matplotlib for the files of figures, over your own settings of matplotlib.",
    ),
]
OpenOption = Annotated[
    bool, typer.Option("--open", help="Open the page in a browser when it is written.")
]
FailAboveOption = Annotated[
    float | None,
    typer.Option(
        "--fail-above",
        metavar="CKA",
        help="Exit with 6 if the mean CKA of a layer is above this or undefined, if any value is "
        "not finite, or if fewer than 64 tokens are compared.",
    ),
]


def collapse_report(
    run: RunOrModelArgument,
    checkpoint: ReportCheckpointOption = None,
    against: AgainstOption = None,
    split: SplitOption = None,
    tokens: TokensOption = None,
    layers: LayersOption = None,
    ablation: AblationOption = True,
    ablate_tokens: AblateTokensOption = None,
    text: TextOption = None,
    out: OutOption = None,
    formats: FormatOption = "html,json,pdf,svg,png",
    style: StyleOption = None,
    open_page: OpenOption = False,
    limit: FailAboveOption = None,
    device: DeviceOption = "auto",
    data_dir: DataDirOption = DATA_DIR,
    runs_dir: RunsDirOption = RUNS_DIR,
    as_json: JsonOption = False,
) -> None:
    """Measure how similar a run's experts are on held-out text, and write a report."""
    from simsmoe_cli.cli.progress import ReportView
    from simsmoe_cli.collapse.build import Request, make_report
    from simsmoe_cli.collapse.fail_above import check_limit, fail_above
    from simsmoe_cli.collapse.show.figures.style import FIGURE_FORMATS, own_settings
    from simsmoe_cli.collapse.show.files import PAGE, check_destination, parse_formats, write_report
    from simsmoe_cli.collapse.show.terminal import show
    from simsmoe_cli.train.device import choose_device, clear_memory_errors

    wanted = parse_formats(formats)
    if open_page and "html" not in wanted:
        raise UserError("there is no page to open", where="--open", hint="Add html to --format.")
    if style is not None and not set(wanted) & set(FIGURE_FORMATS):
        raise UserError(
            "there are no files of figures to draw",
            where="--style",
            hint=f"Add one of {', '.join(FIGURE_FORMATS)} to --format.",
        )
    if limit is not None:
        check_limit(limit)
    if not ablation and ablate_tokens is not None:
        raise UserError("nothing is left out with --no-ablation", where="--ablate-tokens")
    path, on = _folder(run, runs_dir), choose_device(device)
    other = None if against is None else _folder(against, runs_dir)
    left_out = ablate_tokens if ablation else 0
    request = Request(
        path, other, checkpoint, split, text or (), tokens, layers, on, data_dir, wanted, left_out
    )
    folder = out or path / "report"
    check_destination(folder)
    if style is not None:
        own_settings(style)
    hint = "Use fewer --tokens, --device cpu, or a machine with more memory."
    with (
        clear_memory_errors(on, hint),
        ReportView(console(stderr=True), "opening the run") as view,
    ):
        report = make_report(request, view)
        if wanted != ("json",):
            view.say("drawing figures")
        written = write_report(
            report,
            folder,
            wanted,
            figure_style=style,
            on_progress=lambda share: view.at("figures drawn", share),
        )
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        show(report, console(), written)
    if open_page:
        typer.launch(str(folder / PAGE))
    if limit is not None:
        fail_above(report.main, limit)


def _folder(given: Path, runs_dir: Path) -> Path:
    """The folder of a run or a model; the error says what was given instead."""
    from simsmoe_cli.huggingface.unsupported import other_file
    from simsmoe_cli.run.find import find_folder

    if given.is_file() and given.name != "events.jsonl":
        raise other_file(given)
    return find_folder(given, runs_dir)
