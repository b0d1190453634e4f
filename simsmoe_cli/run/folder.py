"""The run folder: the only link between training and the code that shows runs.

    runs/NAME/
      recipe.yaml        the resolved recipe
      environment.json   versions, machine and command of every session that trained here
      events.jsonl       what happened, one JSON object per line
      log.txt            what the training process printed
      probes/step-NNNNNNN.npz       matrices of a probe
      checkpoints/step-NNNNNNN/
      best/              weights with the lowest validation loss, or highest accuracy
      tokenizer.json | sentencepiece.model   the tokenizer of a fine-tuned run
      report/
      profile/           trace and summary of the last profile
      tags.json          words that a user gave the run
      loggers.json       what trackers (--log) call the run
      damaged-N-NAME     files that could not be read, renamed and kept
      .lock              held while a process trains here

`run/events.py` has the schema of the events, `run/probes.py` that of the matrices.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from simsmoe_cli.errors import UserError

SWEEP_MARK = "sweep.json"  # a file in the folder of a sweep, which holds its runs


class RunDir:
    """Paths of one run, and its lock."""

    def __init__(self, path: Path):
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.environment = path / "environment.json"
        self.events = path / "events.jsonl"
        self.printed = path / "log.txt"
        self.probes = path / "probes"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"
        self.report = path / "report"
        self.profile = path / "profile"
        self.tags = path / "tags.json"
        self.loggers = path / "loggers.json"

    @property
    def name(self) -> str:
        return self.path.name

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder; a UserError if another process trains in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                "another process is training in this run folder",
                where=str(self.path),
                hint="Wait for it, stop it, or choose another --name.",
            ) from None
        try:
            yield
        finally:
            lock.release()
