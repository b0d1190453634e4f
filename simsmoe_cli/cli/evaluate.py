"""`simsmoe eval`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simsmoe_cli.cli.complete import complete_corpora, complete_tasks
from simsmoe_cli.cli.options import (
    DATA_DIR,
    RUNS_DIR,
    CheckpointOption,
    DataDirOption,
    DeviceOption,
    JsonOption,
    RunArgument,
    RunsDirOption,
    console,
)
from simsmoe_cli.errors import counted

if TYPE_CHECKING:
    from rich.console import Console

LARGEST_SHOWN = 12  # classes whose confusion matrix fits a terminal


SplitOption = Annotated[
    str | None,
    typer.Option(help="train, valid or test; the one that is reported if left out."),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        help="Another prepared corpus: its name or folder.",
        metavar="STORE",
        autocompletion=complete_corpora,
    ),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        help="Another prepared task, for a fine-tuned run: its name or folder.",
        autocompletion=complete_tasks,
    ),
]
PredictionsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write a fine-tuned run's predictions: CSV, or JSON lines (.jsonl).",
    ),
]
TopKOption = Annotated[
    int | None,
    typer.Option(help="Experts per token, 1 to all; the router's own if left out."),
]


def evaluate(
    run: RunArgument,
    split: SplitOption = None,
    which: CheckpointOption = "best",
    data: DataOption = None,
    task: TaskOption = None,
    predictions: PredictionsOption = None,
    top_k: TopKOption = None,
    device: DeviceOption = "auto",
    data_dir: DataDirOption = DATA_DIR,
    runs_dir: RunsDirOption = RUNS_DIR,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a run's weights on a whole split: every token, or every text, once.

    The first time for a run that was trained and not tested, this is the test of
    its training: it reads as much as eval.final_blocks says, and finishes the run.
    """
    import json

    from simsmoe_cli.cli.stage_progress import StageProgress
    from simsmoe_cli.parallel.launch import launch
    from simsmoe_cli.recipe.parallel import ParallelSettings
    from simsmoe_cli.run.event_log import finite
    from simsmoe_cli.run.find import find_run
    from simsmoe_cli.run.opened import OpenedRun
    from simsmoe_cli.train.device import choose_device
    from simsmoe_cli.train.evaluation import evaluate_run
    from simsmoe_cli.train.together import together

    opened = OpenedRun.open(find_run(run, runs_dir), which, data_dir)
    on = choose_device(device, launch())
    with (
        together(ParallelSettings(), on) as world,
        StageProgress(console(stderr=True), in_bytes=False) as progress,
    ):
        progress("opening", 0, None)
        report = evaluate_run(
            opened,
            split=split,
            device=on,
            data=data,
            task=task,
            predictions=predictions,
            top_k=top_k,
            world=world,
            progress=partial(progress, f"evaluating {opened.run.name}"),
        )
    if not world.first:
        return
    if as_json:
        print(json.dumps(finite(report), allow_nan=False))
        return
    if "task" in report:
        _show_task(report, top_k)
    else:
        _show_corpus(report, top_k)
    if report["finished"]:
        said = "the run was trained and not tested; its events hold this score now"
        if report["tokens"] < report.get("split_tokens", 0):
            said += (
                ", of as much text as eval.final_blocks says; run this again for the whole split"
            )
        console().print(said, soft_wrap=True)


def _start(report: dict[str, Any], data: str, top_k: int | None) -> str:
    """What was evaluated: run, step, corpus or task, and split."""
    at_k = "" if top_k is None else f" at top-k {top_k}"
    return f"{report['run']}  step {report['step']}  {data} {report['split']}{at_k}"


def _show_task(report: dict[str, Any], top_k: int | None) -> None:
    """Print the scores of a task."""
    screen = console()
    for message in report["warnings"]:
        screen.print(f"warning: {message}", style="yellow", soft_wrap=True)
    screen.print(
        f"{_start(report, report['task'], top_k)}: accuracy {report['accuracy']:.2%}  "
        f"({report['examples']:,} examples, {report['tokens_per_s']:,.0f} tokens/s)",
        soft_wrap=True,
    )
    _print_task(screen, report)


def _show_corpus(report: dict[str, Any], top_k: int | None) -> None:
    """Print the scores of a language model."""
    console().print(
        f"{_start(report, report['corpus'], top_k)}: {_scores(report)}  "
        f"({_amount(report)}, {report['tokens_per_s']:,.0f} tokens/s)",
        soft_wrap=True,
    )


def _amount(report: dict[str, Any]) -> str:
    """How much text was scored."""
    documents, tokens, whole = report.get("documents"), report["tokens"], report["split_tokens"]
    if tokens < whole:  # the tokens that end documents are among them
        return f"{tokens:,} of {whole:,} {'token' if documents else report['unit']}s"
    if documents:
        return f"{tokens - documents:,} {report['unit']}s in {counted(documents, 'document')}"
    return f"{tokens:,} {report['unit']}s"


def _scores(report: dict[str, Any]) -> str:
    """The score per token, and those per word and byte, which are comparable across tokenizers."""
    from simsmoe_cli.run.score import perplexity_text, score_text

    unit = report["unit"]
    found = [score_text(report, 4)]
    if unit != "word":
        found.append(f"{perplexity_text(report['word_perplexity'])} per word")
    if unit != "byte":
        found.append(f"{report['bits_per_byte']:.4f} bits per byte")
    return ", ".join(found)


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
