"""Run folders that `simsmoe.attach` wrote: events and probes, but no recipe and no weights.

The weights are where the user's own loop saves them.
"""

from __future__ import annotations

import re
from pathlib import Path

from simsmoe_cli.errors import DataError, UserError, printable
from simsmoe_cli.run.event_log import read_events
from simsmoe_cli.run.events import RunStarted
from simsmoe_cli.run.folder import RunDir


def attached_run(run: RunDir) -> RunStarted | None:
    """The first event of a run that `attach` wrote; None for another folder."""
    if run.recipe.exists() or not run.events.is_file():
        return None
    for event in read_events(run.events):
        if event["kind"] == "run_started":
            return event if event.get("model") is not None else None
    return None


def no_weights(run: RunDir, started: RunStarted) -> UserError:
    """The error for a command that needs the weights of an attached run; it names the folder of the
    model if that is known and still there."""
    folder = _newest_model(started.get("model_folder"))
    given = "FOLDER" if folder is None else printable(folder, 200)
    whose = "where your loop saves it" if folder is None else f"in {given}"
    return DataError(
        f"attach wrote this run, which has no weights; the model is {whose}",
        where=str(run.path),
        hint=f"Measure it with: simsmoe collapse-report {given} --text FILE.",
    )


def _newest_model(said: str | None) -> Path | None:
    """The newest model that a Trainer saved in its output folder, or the one in the folder itself;
    None if there is none."""
    if not isinstance(said, str) or not said or "\0" in said:
        return None
    try:
        numbered = [
            (int(match[1]), path)
            for path in Path(said).iterdir()
            if (match := re.fullmatch(r"checkpoint-([0-9]{1,18})", path.name))
        ]
        folders = [Path(said), *(path for _, path in sorted(numbered, reverse=True))]
        return next((path for path in folders if (path / "config.json").is_file()), None)
    except OSError:
        return None
