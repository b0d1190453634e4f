"""The trials of a search as a table for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from simsmoe_cli.errors import escaped
from simsmoe_cli.sweep.study import COMPLETE, FAIL, PRUNED, RUNNING, Trial

if TYPE_CHECKING:
    from rich.table import Table

VALIDATION = "validation, bits per token"
STATES = {COMPLETE: "", PRUNED: "given up", FAIL: "failed", RUNNING: "training"}


def trials_for_terminal(trials: Sequence[Trial], fields: Sequence[str]) -> Table:
    """A row for each trial; the best of those that completed is marked.

    Args:
        trials: the best first.
        fields: that are searched.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("trial", VALIDATION, *fields):
        table.add_column(Text(escaped(name)), justify="right")
    table.add_column("")
    for trial in trials:
        bpc = "–" if trial.valid_bpc is None else f"{trial.valid_bpc:.4f}"
        values = [f"{trial.settings.get(field, math.nan):.4g}" for field in fields]
        best = trial is trials[0] and trial.state == COMPLETE
        table.add_row(str(trial.number), bpc, *values, "best" if best else _state(trial))
    return table


def _state(trial: Trial) -> str:
    """What became of a trial."""
    words = STATES[trial.state]
    if trial.state in (PRUNED, RUNNING) and trial.step:
        return f"{words}, step {trial.step:,}"
    return f"{words}: {escaped(trial.reason)}" if trial.reason else words
