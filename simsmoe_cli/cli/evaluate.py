"""`simsmoe eval`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simsmoe_cli.cli.options import console

if TYPE_CHECKING:
    from rich.console import Console

LARGEST_SHOWN = 12  # classes whose confusion matrix fits a terminal


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder, or its name under --runs-dir.")],
    split: Annotated[
        str | None,
        typer.Option(help="train, valid or test; the one that is reported if left out."),
    ] = None,
    which: Annotated[
        str, typer.Option("--checkpoint", metavar="best|last|STEP", help="Which weights.")
    ] = "best",
    data: Annotated[
        Path | None, typer.Option(help="Another prepared corpus: its folder.", metavar="STORE")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Another prepared task, for a fine-tuned run: its name or folder."),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a fine-tuned run's predictions: CSV, or JSON lines (.jsonl).",
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(help="Experts per token, 1 to all; the router's own if left out."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data_dir: Annotated[
        Path, typer.Option(envvar="SIMSMOE_DATA", help="Where prepared corpora and tasks lie.")
    ] = Path("data"),
    runs_dir: Annotated[
        Path, typer.Option(envvar="SIMSMOE_RUNS", help="Where run folders lie.")
    ] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate a run's weights on a whole split: every token, or every text, once."""
    import json

    from simsmoe_cli.run.events import finite
    from simsmoe_cli.train import session
    from simsmoe_cli.train.evaluation import evaluate_run
    from simsmoe_cli.train.plan_pretraining import find_run

    report = evaluate_run(
        find_run(run, runs_dir),
        split=split,
        which=which,
        data_dir=data_dir,
        device=session.choose_device(device),
        store_path=data,
        task=task,
        predictions=predictions,
        top_k=top_k,
    )
    if as_json:
        print(json.dumps(finite(report), allow_nan=False))
        return
    where = f"{report['run']}  step {report['step']}  "
    at_k = "" if top_k is None else f" at top-k {top_k}"
    speed = f"{report['tokens_per_s']:,.0f} tokens/s"
    screen = console()
    if "task" in report:
        for message in report["warnings"]:
            screen.print(f"warning: {message}", style="yellow", soft_wrap=True)
        screen.print(
            f"{where}{report['task']} {report['split']}{at_k}: accuracy {report['accuracy']:.2%}  "
            f"({report['examples']:,} examples, {speed})",
            soft_wrap=True,
        )
        _print_task(screen, report)
        return
    screen.print(
        f"{where}{report['corpus']} {report['split']}{at_k}: {_scores(report)}  "
        f"({report['tokens']:,} {report['unit']}s, {speed})",
        soft_wrap=True,
    )


def _scores(report: dict[str, Any]) -> str:
    """What a token of this tokenizer costs, and what the text does, for comparison with others."""
    unit, bpc = report["unit"], report["bpc"]
    found = [_perplexity(report["perplexity"]) if bpc is None else f"{bpc:.4f} BPC"]
    if unit != "word":
        found.append(f"{_perplexity(report['word_perplexity'])} per word")
    if unit != "byte":
        found.append(f"{report['bits_per_byte']:.4f} bits per byte")
    return ", ".join(found)


def _perplexity(value: float) -> str:
    return f"perplexity {value:,.2f}" if value < 1e6 else f"perplexity {value:.2e}"


def _print_task(screen: "Console", report: dict[str, Any]) -> None:
    """Intervals, baseline, a table of the classes, and the confusion matrix if it fits."""
    from rich.table import Table

    coverage = f"{report['bootstrap']['coverage']:.0%} interval"
    for name, label in (("accuracy", "accuracy"), ("macro_f1", "macro-F1")):
        low, high = report["interval"][name]
        screen.print(f"{label:<9} {report[name]:.4f}  {coverage} {low:.4f} to {high:.4f}")
    majority = report["majority"]
    screen.print(f"majority  {majority['accuracy']:.4f}  always '{majority['label']}'\n")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("class", no_wrap=True)
    for heading in ("precision", "recall", "F1", "support"):
        table.add_column(heading, justify="right")
    for row in report["classes"]:
        shares = (f"{row[name]:.3f}" for name in ("precision", "recall", "f1"))
        table.add_row(row["label"], *shares, f"{row['support']:,}")
    screen.print(table)
    if len(report["labels"]) > LARGEST_SHOWN:
        return
    confusion = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    confusion.add_column("is, taken for", no_wrap=True)
    for label in report["labels"]:
        confusion.add_column(label, justify="right")
    for label, counts in zip(report["labels"], report["confusion"], strict=True):
        confusion.add_row(label, *(f"{count:,}" for count in counts))
    screen.print()
    screen.print(confusion)
