"""`simsmoe eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simsmoe_cli.cli.common import console


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder, or its name under --runs-dir.")],
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    which: Annotated[
        str, typer.Option("--checkpoint", metavar="best|last|STEP", help="Which weights.")
    ] = "best",
    data: Annotated[
        Path | None, typer.Option(help="Another prepared corpus: its folder.", metavar="STORE")
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(help="Experts per token, 1 to all; the router's own if left out."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data_dir: Annotated[
        Path, typer.Option(envvar="SIMSMOE_DATA", help="Where prepared corpora lie.")
    ] = Path("data"),
    runs_dir: Annotated[
        Path, typer.Option(envvar="SIMSMOE_RUNS", help="Where run folders lie.")
    ] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate a run's weights on a whole split: every token once."""
    import json

    from simsmoe_cli.rundir import finite
    from simsmoe_cli.train import session
    from simsmoe_cli.train.planning import find_run

    report = session.evaluate_run(
        find_run(run, runs_dir),
        split=split,
        which=which,
        store_path=data,
        data_dir=data_dir,
        device=session.choose_device(device),
        top_k=top_k,
    )
    if as_json:
        print(json.dumps(finite(report), allow_nan=False))
        return
    score = (
        f"perplexity {report['perplexity']:,.2f}"
        if report["bpc"] is None
        else f"{report['bpc']:.4f} BPC"
    )
    at_k = "" if top_k is None else f" at top-k {top_k}"
    console().print(
        f"{report['run']}  step {report['step']}  {report['corpus']} {split}{at_k}: {score}  "
        f"({report['tokens']:,} {report['unit']}s, {report['tokens_per_s']:,.0f} tokens/s)",
        soft_wrap=True,
    )
