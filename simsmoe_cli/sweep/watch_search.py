"""Shows a search while it trains: its trials, the best first. Only its study is read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from simsmoe_cli.errors import escaped
from simsmoe_cli.sweep.study import FAILED, SEARCHED, WANTED, existing_study, trials
from simsmoe_cli.sweep.trials_text import trials_for_terminal

if TYPE_CHECKING:
    import optuna


def watch_search(folder: Path, console: Console, interval: float, *, once: bool) -> bool:
    """Show the trials of a search until it ends, or once.

    Returns:
        Whether it was watched to its end, and trials failed.

    Raises:
        UserError: optuna is not installed.
    """
    study = existing_study(folder)
    assert study is not None, "the caller found it"
    if once:
        console.print(_drawn(folder, study))
        return False
    with Live(_drawn(folder, study), console=console, auto_refresh=False) as live:
        while study.user_attrs.get(WANTED) and study.user_attrs.get(FAILED) is None:
            time.sleep(interval)
            live.update(_drawn(folder, study), refresh=True)
        live.update(_drawn(folder, study), refresh=True)
    return bool(study.user_attrs.get(FAILED))


def _drawn(folder: Path, study: optuna.Study) -> Group:
    found, attributes = trials(study), study.user_attrs
    ended = sum(one.counts for one in found)
    of = f" of {attributes[WANTED]}" if WANTED in attributes else ""
    line = Text(escaped(f"{folder.name}: {ended}{of} trials have ended"))
    return Group(line, trials_for_terminal(found, list(attributes[SEARCHED]["ranges"])))
