"""Run folders as a training would leave them, and their comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simsmoe_cli.compare.show import table
from simsmoe_cli.compare.statistics import Comparison
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.run.event_log import EventLog
from simsmoe_cli.run.folder import RunDir
from tests.train.tiny import recipe


def made_run(folder: Path, bpc: float = 2.0, cka: float = 0.5, **changes: Any) -> RunDir:
    """A run folder of 100 steps as a training would leave it."""
    run = RunDir(folder)
    folder.mkdir(parents=True)
    run.recipe.write_text(dump_recipe(recipe(**changes)), encoding="utf-8")
    log = EventLog(run.events)
    log.emit({"kind": "run_started", "step": 0, "name": folder.name, "total_steps": 100})
    for step in range(10, 101, 10):
        log.emit(
            {
                "kind": "train",
                "step": step,
                "bpc": bpc + 10 / step,
                "loss_nats": 1.0,
                "tokens_per_s": 1000.0 + step,
            }
        )
    log.emit({"kind": "eval", "step": 50, "split": "valid", "bpc": bpc + 0.1, "perplexity": 5.0})
    log.emit({"kind": "eval", "step": 100, "split": "valid", "bpc": bpc + 0.2, "perplexity": 6.0})
    for step in (0, 100):
        layers = [{"layer": 0, "mean": cka + 0.2}, {"layer": 1, "mean": cka - 0.2}]
        log.emit({"kind": "similarity", "step": step, "layers": layers})
        log.emit(
            {
                "kind": "router",
                "step": step,
                "layers": [{"layer": 0, "load_cv": 0.25, "dead": [1, 2]}],
            }
        )
    log.emit({"kind": "eval", "step": 100, "split": "test", "bpc": bpc})
    log.emit(
        {
            "kind": "run_finished",
            "step": 100,
            "status": "finished",
            "test_bpc": bpc,
            "test_loss_nats": 1.0,
        }
    )
    log.close()
    return run


def rows(comparison: Comparison) -> dict[str, list[str]]:
    header, *others = table(comparison)
    assert header == ["", *(run.label for run in comparison.runs)]
    return {row[0]: row[1:] for row in others}
