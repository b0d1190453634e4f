"""The facts of a run that its events say outright: its settings, size and machine."""

from __future__ import annotations

from typing import Any

from simsmoe_cli.errors import printable
from simsmoe_cli.monitor.draw.sanitize import clean
from simsmoe_cli.monitor.state.alerts import warm_up_steps
from simsmoe_cli.run.changes import changes_in_words, changes_results
from simsmoe_cli.run.events import Machine, RunStarted, Train
from simsmoe_cli.run.layer_labels import recipe_labels


class RunFacts:
    """What is known of a run; "", None or empty before its first event.

    Attributes:
        recipe: as the run_started event has it.
        recipe_name, router, similarity: its name, router and similarity preset.
        parameters, tokens_per_step, total_steps: None where unknown.
        unit: of a token ("byte", "character", "word" ...); device, precision: "" where unknown.
        warm_up: steps before which probes cause no alert.
        ranks: how many processes train together; None where it is one.
        slowest: of several, the one that works longest, and how many times as long as the one in
            the middle; None where unknown.
        changes: steps from which a resumed run had other settings that change its results.
        changed: all settings that the last resumption changed, in words.
        machine: what the training process takes of its machine, by the newest event.
    """

    def __init__(self) -> None:
        self.recipe: dict[str, Any] = {}
        self.recipe_name = self.router = self.similarity = ""
        self.parameters: int | None = None
        self.tokens_per_step: int | None = None
        self.total_steps: int | None = None
        self.unit = self.device = self.precision = ""
        self.warm_up = 0
        self.ranks: int | None = None
        self.slowest: tuple[int, float] | None = None
        self.changes: list[int] = []
        self.changed = ""
        self.machine: Machine = {}
        self._labels: list[str] = []

    def started(self, event: RunStarted) -> None:
        """Take a run_started event."""
        self.recipe = event.get("recipe", {})
        self.recipe_name = clean(self.recipe.get("name"))
        given = event.get("layer_labels") or []  # of an attached model
        self._labels = [printable(label) for label in given] or recipe_labels(self.recipe)
        self.router = clean(_inside(self.recipe, "moe", "router"))
        self.similarity = clean(_inside(self.recipe, "similarity", "preset"))
        self.parameters = event.get("parameters")
        self.tokens_per_step = event.get("tokens_per_step")
        self.total_steps = event.get("total_steps")
        self.unit = clean(event.get("unit"))
        self.device = clean(event.get("device"))
        self.precision = clean(event.get("precision"))
        changes = event.get("changes", [])
        self.changed = ", ".join(clean(change) for change in changes_in_words(changes))
        if any(changes_results(change["setting"]) for change in changes):
            self.changes.append(event["step"])
        warmup = _inside(self.recipe, "train", "warmup_steps")
        self.warm_up = warm_up_steps(warmup if isinstance(warmup, int) else None, self.total_steps)

    def trained(self, event: Train) -> None:
        """Take a train event."""
        self.machine = event.get("machine", {})
        busy = event.get("busy_ms", {})
        self.ranks, slowest = busy.get("ranks"), busy.get("slowest")
        most, median = busy.get("most"), busy.get("median")
        self.slowest = (slowest, most / median) if slowest is not None and most and median else None

    @property
    def probes_held_out(self) -> bool:
        """Whether its probes read held-out text, and not, as of an attached run, its batches."""
        return "train" in self.recipe

    def label(self, layer: int) -> str:
        """The label of a layer: its index among all sub-layers of the recipe's pattern, or the
        number in the name of its module.

        If the events say neither, it is the index among the layers with experts.
        """
        return self._labels[layer] if layer < len(self._labels) else str(layer)


def _inside(tree: dict[str, Any], section: str, name: str) -> Any:
    inner = tree.get(section)
    return inner.get(name) if isinstance(inner, dict) else None
