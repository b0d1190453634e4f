"""`simsmoe collapse-report`."""

from pathlib import Path
from typing import Annotated

import typer

from simsmoe_cli.cli.options import JsonOption, console
from simsmoe_cli.errors import UserError


def collapse_report(
    run: Annotated[
        Path,
        typer.Argument(
            help="Run folder, its name under --runs-dir, or the folder of a Hugging Face model."
        ),
    ],
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="best|last|all|STEP",
            help="Which weights, best if left out; all: each that was saved, judged by the last.",
        ),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Another run to compare with.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="valid|test", help="Of the corpus; valid if left out.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000_000,
            help="Tokens all experts see, four times as many for load, routing and loss; 4,096 if "
            "left out, fewer of a large model.",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Layers to measure, as the model numbers them: 0,7,12-15; all with experts if "
            "left out. The text goes through the others too.",
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Held-out text for a Hugging Face model.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write; RUN/report if left out.")
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", help="Any of html, json, png and svg, with commas.")
    ] = "html,json,png,svg",
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in a browser when it is written.")
    ] = False,
    limit: Annotated[
        float | None,
        typer.Option(
            "--fail-above",
            metavar="CKA",
            help="Exit with 6 if the mean CKA of a layer is above this, or undefined.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data_dir: Annotated[
        Path, typer.Option(envvar="SIMSMOE_DATA", help="Where prepared corpora lie.")
    ] = Path("data"),
    runs_dir: Annotated[
        Path, typer.Option(envvar="SIMSMOE_RUNS", help="Where run folders lie.")
    ] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Measure how alike a run's experts are on held-out text, and write a report."""
    from simsmoe_cli.cli.progress import ReportView
    from simsmoe_cli.collapse.build import Request, make_report
    from simsmoe_cli.collapse.fail_above import check_limit, fail_above
    from simsmoe_cli.collapse.show.html import PAGE, check_destination, parse_formats, write_report
    from simsmoe_cli.collapse.show.terminal import show
    from simsmoe_cli.collapse.sources.huggingface.unsupported import other_file, repository
    from simsmoe_cli.monitor.state.runs import resolve
    from simsmoe_cli.train.session import choose_device, clear_memory_errors

    wanted = parse_formats(formats)
    if open_page and "html" not in wanted:
        raise UserError("there is no page to open", where="--open", hint="Add html to --format.")
    if limit is not None:
        check_limit(limit)

    def located(given: Path) -> Path:
        """The folder; says what was given instead of one."""
        if given.is_file() and given.name != "events.jsonl":
            raise other_file(given)
        if not given.exists() and (hub := repository(str(given))) is not None:
            try:
                return resolve(given, runs_dir)
            except UserError:
                raise hub from None
        return resolve(given, runs_dir)

    path = located(run)
    request = Request(
        path=path,
        against=None if against is None else located(against),
        checkpoint=checkpoint,
        split=split,
        text=text,
        tokens=tokens,
        layers=layers,
        device=choose_device(device),
        data_dir=data_dir,
    )
    folder = out or path / "report"
    check_destination(folder)
    hint = "Use fewer --tokens, --device cpu, or a machine with more memory."
    with (
        clear_memory_errors(request.device, hint),
        ReportView(console(stderr=True), "opening the run") as view,
    ):
        report = make_report(request, view)
        view.at("drawing figures", 1.0)
        written = write_report(report, folder, wanted)
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        show(report, console(), written)
    if open_page:
        typer.launch(str(folder / PAGE))
    if limit is not None:
        fail_above(report.main, limit)
