"""Profiles some training steps: their time and memory by part of the model and by operation.

After a few steps, N steps are recorded by torch's profiler: a trace, and a summary
(profile_summary.py). Modules are watched only while steps are recorded. A run without a profile
uses only `Unprofiled`. A compiled step is not changed, so its forward pass is one part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from simsmoe_cli.errors import UserError
from simsmoe_cli.model.attention import RelativeAttention, RopeAttention
from simsmoe_cli.model.blocks import DenseFFN
from simsmoe_cli.model.interface import MoEModel
from simsmoe_cli.model.language_model import Backbone
from simsmoe_cli.moe.experts.base import Experts
from simsmoe_cli.moe.layer import MoELayer
from simsmoe_cli.moe.routers.base import Router
from simsmoe_cli.similarity.learning import SimilarityLearning
from simsmoe_cli.train.profile_summary import INSIDE, MARK, READING, SIMILARITY, summary

SKIPPED = 3
TRACE, SUMMARY = "trace.json.gz", "summary.txt"

# Modules and what their forward pass is called.
PARTS: dict[type[nn.Module], str] = {
    nn.Embedding: "embedding",
    RelativeAttention: "attention",
    RopeAttention: "attention",
    DenseFFN: "dense feed-forward",
    MoELayer: "dispatch and combine",
    Router: "router",
    Experts: "experts",
    SimilarityLearning: SIMILARITY,
}

T = TypeVar("T")


class Unprofiled:
    """Does nothing: stands in for `Profiler` in a run without a profile."""

    def part(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """Around a part of a step."""
        return contextlib.nullcontext()

    def reading(self, batches: Iterable[T]) -> Iterable[T]:
        """The batches of a step, with the time of reading them measured."""
        return batches

    def step_done(self) -> bool:
        """To be called after each step; returns whether a profile was written just now."""
        return False

    def close(self) -> None:
        """At the end of a training, however it ends."""


class Profiler(Unprofiled):
    """Records N steps of a training after the first SKIPPED.

    Args:
        folder: for trace and summary; created when they are written.
        steps: N.
        left: steps that the training still has.
        model: its parts are profiled separately.
        compiled: whether the step is compiled.
        tokens: of a batch, for the summary; 0 where batches differ.

    Raises:
        UserError: the training has too few steps left.
    """

    def __init__(
        self, folder: Path, steps: int, left: int, model: MoEModel, *, compiled: bool, tokens: int
    ):
        if steps + SKIPPED > left:
            raise UserError(
                f"{left:,} steps are left, and a profile of {steps:,} needs {steps + SKIPPED:,} "
                f"(the first {SKIPPED} warm up)",
                where="--profile",
                hint=f"Use --profile {left - SKIPPED}." if left > SKIPPED else "Train longer.",
            )
        self.folder, self.steps, self.model, self.tokens = folder, steps, model, tokens
        self.compiled = compiled
        self._done = 0
        self._open: list[Any] = []
        self._undo = contextlib.ExitStack()
        self._profile: profile | None = None

    def part(self, name: str) -> contextlib.AbstractContextManager[Any]:
        if self._profile is None:
            return contextlib.nullcontext()
        return record_function(MARK + name)

    def reading(self, batches: Iterable[T]) -> Iterator[T]:
        left = iter(batches)
        while True:
            with self.part(READING):
                try:
                    batch = next(left)
                except StopIteration:
                    return
            yield batch

    def step_done(self) -> bool:
        self._done += 1
        if self._done == SKIPPED:
            self._start()
        if self._profile is None or self._done < SKIPPED + self.steps:
            return False
        self._profile.stop()
        self._undo.close()
        recorded, self._profile = self._profile, None
        self.folder.mkdir(exist_ok=True)
        recorded.export_chrome_trace(str(self.folder / TRACE))
        text = summary(recorded, self.steps, self.tokens, compiled=self.compiled)
        (self.folder / SUMMARY).write_text(text, encoding="utf-8")
        return True

    def close(self) -> None:
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
        self._undo.close()

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if next(self.model.parameters()).device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        if not self.compiled:
            self._watch()
        self._profile = profile(activities=activities, profile_memory=True, acc_events=True)
        self._profile.start()

    def _watch(self) -> None:
        """Mark the parts of the model, until the end of the recording."""

        def enter(name: str) -> None:
            mark = record_function(MARK + name)
            mark.__enter__()
            self._open.append(mark)

        def leave() -> None:
            self._open.pop().__exit__(None, None, None)

        for module in self.model.modules():
            name = next((name for kind, name in PARTS.items() if isinstance(module, kind)), None)
            if name is not None:
                before = module.register_forward_pre_hook(lambda *_, name=name: enter(name))
                after = module.register_forward_hook(lambda *_: leave())
                self._undo.callback(before.remove)
                self._undo.callback(after.remove)
            if isinstance(module, SimilarityLearning):
                # The MoE layer calls these, since it runs the compared rows with the batch's own.
                for method in ("choose", "compare"):
                    self._mark(module, method, SIMILARITY)

        if not isinstance(self.model, Backbone):  # the parts of other models are not known
            return
        self._mark(self.model, "encode", INSIDE)

    def _mark(self, module: nn.Module, method: str, name: str) -> None:
        """Mark the calls of a module's method."""
        plain = getattr(module, method)

        def marked(*arguments: Any, **options: Any) -> Any:
            with record_function(MARK + name):
                return plain(*arguments, **options)

        object.__setattr__(module, method, marked)
        self._undo.callback(object.__delattr__, module, method)
