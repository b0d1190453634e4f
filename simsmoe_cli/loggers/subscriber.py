"""Hands the events of a training to its trackers; one that fails is left out, and training goes on.

The run folder's loggers.json names the tracker's run, so that a resumed training goes on in it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

from simsmoe_cli import registry
from simsmoe_cli.errors import UserError, nearest, printable
from simsmoe_cli.files import atomic
from simsmoe_cli.files.untrusted import Unreadable, read_json
from simsmoe_cli.loggers.base import Logger
from simsmoe_cli.loggers.numbers import numbers_of
from simsmoe_cli.loggers.picture import heat_maps
from simsmoe_cli.run import probes
from simsmoe_cli.run.events import Event
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.layer_labels import recipe_labels

MATRICES = "cka/matrices"


def require_loggers(names: Iterable[str]) -> None:
    """Raise a UserError for a tracker that is not known, or whose library is not installed."""
    for name in names:
        if name not in registry.LOGGERS:
            raise UserError(
                f"unknown tracker '{printable(name)}'",
                where="--log",
                hint=nearest(name, registry.LOGGERS),
            )
        package = registry.load("loggers", name).package
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"{name} is not installed",
                where="--log",
                hint=f"Install it: python -m pip install 'simsmoe[{name}]'",
            )


class Loggers:
    """The trackers of one training; call it with every event.

    They are opened by the first event, so only in the process that writes events.

    Args:
        names: of `registry.LOGGERS`.
        run: the run folder.
        settings: the recipe as JSON.
        say: told where each tracker is, and of trackers that fail.
    """

    def __init__(
        self,
        names: Sequence[str],
        run: RunDir,
        settings: dict[str, Any],
        say: Callable[[str], None],
    ):
        self._names = list(dict.fromkeys(names))
        self._run, self._settings, self._say = run, settings, say
        self._labels = recipe_labels(settings)
        self._open: dict[str, Logger] | None = None
        self._finished = False

    def __call__(self, event: Event) -> None:
        """Log an event."""
        if self._open is None:
            self._open = {}
            for name in self._names:
                with self._guarded(name):
                    self._begin(name, event["step"])
        values = numbers_of(event, self._labels)
        picture = self._picture(event)
        for name, logger in list(self._open.items()):
            with self._guarded(name):
                if values:
                    logger.numbers(event["step"], values)
                if picture is not None:
                    logger.picture(event["step"], MATRICES, picture)
        if event["kind"] == "run_finished":
            self._finished = event.get("status") == "finished"

    def close(self) -> None:
        """Close all trackers."""
        for name, logger in list((self._open or {}).items()):
            with self._guarded(name):
                logger.close(finished=self._finished)

    def _begin(self, name: str, step: int) -> None:
        known = self._identities()
        kind = cast(type[Logger], registry.load("loggers", name))
        logger = kind(self._run, step, known.get(name) if step else None, self._settings)
        assert self._open is not None
        self._open[name] = logger
        self._say(f"{name}: {logger.place}")
        if known.get(name) != logger.identity:
            atomic.write(self._run.loggers, json.dumps(known | {name: logger.identity}))

    def _identities(self) -> dict[str, str]:
        """The runs of trackers that earlier sessions wrote, by tracker."""
        try:
            found = read_json(self._run.loggers)
        except (OSError, Unreadable):
            return {}
        if not isinstance(found, dict):
            return {}
        return {name: text for name, text in found.items() if isinstance(text, str)}

    def _picture(self, event: Event) -> Any:
        if event["kind"] != "similarity" or not self._open or "matrices" not in event:
            return None
        with contextlib.suppress(Unreadable, OSError):
            return heat_maps(probes.read(self._run.path, event["matrices"]))
        return None

    @contextlib.contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Leave a tracker out when it fails."""
        try:
            yield
        except Exception as error:
            (self._open or {}).pop(name, None)
            self._say(
                f"warning: {name} failed and is left out from here on: {printable(error, 300)}"
            )
