"""The training loop, whatever the objective.

Nothing in a step waits on the device: losses are summed there, a non-finite step is skipped there
(optim.NonFiniteGuard), and the host reads numbers only where an event is due. Where a run stands
follows from its step and the tensors of its checkpoint, so a resumed run equals an uninterrupted
one bit for bit on a CPU.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Literal

import torch
from torch import Tensor

from simsmoe_cli.errors import EXIT_DATA, EXIT_NON_FINITE, NotPermitted, Terminated, UserError
from simsmoe_cli.model.precision import cpu_bf16
from simsmoe_cli.run import checkpoint, weights
from simsmoe_cli.run.background_writer import BackgroundWriter
from simsmoe_cli.run.events import Event, EventLog, RunFinished, RunStarted
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train import resume_state
from simsmoe_cli.train.log_window import LogWindow
from simsmoe_cli.train.objectives.base import LossWeights, Objective, S
from simsmoe_cli.train.optim import NonFiniteGuard, build_optimizer, learning_rate
from simsmoe_cli.train.probes import probe
from simsmoe_cli.train.profiling import (
    ASIDE,
    BACKWARD,
    FORWARD,
    SUMMARY,
    TRACE,
    UPDATE,
    Profiler,
    Unprofiled,
)
from simsmoe_cli.train.signals import Stopped, StopSignals


class Trainer(Generic[S]):
    """One training run in one run folder, which the caller has locked.

    Args:
        objective: what to train, with its model and data.
        run: where everything is written.
        resume_from: a checkpoint folder of this run to go on from.
        subscriber: called with every event.
        on_step: called with the number of steps done, after each step.
        profile: how many steps to record in the folder `profile`; 0 for none.
        new: whether the run folder is of this training alone, which then says at once that it
            began. Otherwise nothing of the folder is touched before the first step is done, so
            that what stops the training until then leaves it as it was. None: unless it resumes.
        on_begin: called before the first event is written.
        notes: what to say at the beginning.

    Attributes:
        started: whether a step was done, or there was none to do.
    """

    def __init__(
        self,
        objective: Objective[S],
        run: RunDir,
        *,
        resume_from: Path | None = None,
        subscriber: Callable[[dict[str, Any]], None] | None = None,
        on_step: Callable[[int], None] | None = None,
        profile: int = 0,
        new: bool | None = None,
        on_begin: Callable[[], None] | None = None,
        notes: Sequence[str] = (),
    ):
        self.objective, self.run = objective, run
        self.recipe, self.device = objective.recipe, objective.device
        self.model = objective.model
        self.settings = settings = self.recipe.train
        self.on_step = on_step
        self.loss_weights = LossWeights(self.recipe.loss_weights, self.device)
        self.optimizer = build_optimizer(self.model, settings)
        self.guard = NonFiniteGuard(self.device)
        compiled = settings.compile == "on" or (
            settings.compile == "auto" and self.device.type == "cuda" and objective.static_shapes
        )
        self._loss = torch.compile(objective.loss) if compiled else objective.loss
        self.window = LogWindow()
        self.signals = StopSignals()
        self.writer = BackgroundWriter(run, settings.keep_last)
        self.step = 0
        self.first_watched = 0
        self.best_loss = math.inf
        self.started = False
        self._in_step = False  # a step was begun and not finished
        self._events: EventLog | None = None
        self._held: list[Event] = []  # until the events are open
        self._new = resume_from is None if new is None else new
        self._on_begin = on_begin
        self._notes = list(notes)
        self._subscriber = subscriber
        self._resume_from = resume_from
        self._resumed: dict[str, Any] = {}
        self._best_is_damaged = False
        if resume_from is not None:
            self._resumed = self._restore(resume_from)
        self.profiler = Unprofiled()
        if profile:
            self.profiler = Profiler(
                run.profile,
                profile,
                settings.steps - self.step,
                self.model,
                compiled=compiled,
                tokens=0 if self.recipe.finetune.task else settings.batch * settings.block,
            )

    def train(self) -> S:
        """Train to the last step and evaluate the best weights on the test split.

        Raises:
            UserError: the loss became non-finite (exit 4), or a checkpoint could not be written.
            Stopped: a signal asked to stop; the state was saved.
        """
        try:
            with contextlib.ExitStack() as signals:
                return self._train(signals)
        except Stopped as stop:
            self._leave("stopped", stop.signal)
            raise
        except (KeyboardInterrupt, Terminated):
            when = "twice, not saved" if self.started else "before the first step was done"
            self._leave("stopped", f"interrupted {when}")
            raise
        except SystemExit:  # rich's way to leave when nobody reads the output any more
            self._leave("failed", "the output was closed")
            raise
        except Exception as error:
            self._leave("failed", str(error) or repr(error))
            raise
        finally:
            self.profiler.close()
            self.writer.close()
            if self._events is not None:
                with contextlib.suppress(OSError):
                    self._events.close()

    @property
    def events(self) -> EventLog:
        """Where events are written, once the training has begun."""
        assert self._events is not None
        return self._events

    def _leave(self, status: Literal["stopped", "failed"], reason: str) -> None:
        """The last event of a run that did not finish, if it can be written: a full disk or a
        reader that left must not hide why."""
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._emit(
                    RunFinished(kind="run_finished", step=self.step, status=status, reason=reason)
                )

    def _train(self, signals: contextlib.ExitStack) -> S:
        settings = self.settings
        if self._new:
            self._begin()
        if self._resume_from is None:
            self._announce()
            self._warn(*self.objective.warnings, *self._notes)
            if settings.probe_every:
                self._probe()
        self.window.restart_clock()
        while self.step < settings.steps:
            with self._saved_where_data_is_damaged():
                self._train_step()
            self._start(signals)
            last = self.step == settings.steps
            if self._is_due(settings.log_every) or last:
                self._log()
            with self.window.clock_paused(), self.profiler.part(ASIDE):
                if self._is_due(settings.validate_every) or last:
                    with self._saved_where_data_is_damaged():
                        self._validate()
                if self._is_due(settings.probe_every) or (last and settings.probe_every):
                    self._probe()
                if self.on_step is not None:
                    self.on_step(self.step)
                stopping = self.signals.asked
                if self._is_due(settings.checkpoint_every) or last or stopping:
                    self._save()
            with self.window.clock_paused():
                if self.profiler.step_done():
                    self._emit(
                        {
                            "kind": "profile",
                            "step": self.step,
                            "path": self.run.profile.name,
                            "trace": TRACE,
                            "summary": SUMMARY,
                        }
                    )
            if stopping:
                self.writer.wait()
                self.signals.leave_if_asked(self.step)
        self._start(signals)
        return self._finish()

    def _begin(self) -> None:
        """Open the events and write those that were held; the folder is this training's now."""
        if self._on_begin is not None:
            self._on_begin()
        checkpoint.tidy(self.run)
        if self._resume_from is not None:
            self._discard()
        written = self._resumed.get("events_bytes")
        self._events = EventLog(self.run.events, written)
        if self._subscriber is not None:
            self._events.subscribe(self._subscriber)
        if written is not None and self._events.position() < written:
            self._notes.append(
                "events from before the checkpoint are lost; the training itself is whole"
            )
        for event in self._held:
            self._events.emit(event)
        if self._resume_from is not None:
            self._go_on(self._resume_from)

    def _start(self, signals: contextlib.ExitStack) -> None:
        """Take signals for a wish to save and stop, once there is something to save. Until then
        they end the training at once, however long its first step is compiled."""
        if self.started:
            return
        signals.enter_context(self.signals)
        if self._events is None:
            with self.window.clock_paused():
                self._begin()
        self.started = True

    @contextlib.contextmanager
    def _saved_where_data_is_damaged(self) -> Iterator[None]:
        """Save before an error leaves that says that data could not be read. Nothing of the step
        that it was read for has been computed."""
        try:
            yield
        except UserError as error:
            saved = self.run.checkpoints / checkpoint.step_name(self.step)
            whole = self.started and not self._in_step and not saved.is_dir()
            if error.code == EXIT_DATA and whole:
                with contextlib.suppress(UserError, OSError):
                    self._save()
                    self.writer.wait()
            raise

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _announce(self) -> None:
        recipe, settings = self.recipe, self.settings
        started: RunStarted = {
            "kind": "run_started",
            "step": self.first_watched,
            "name": self.run.name,
            "recipe": recipe.model_dump(mode="json"),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "tokens_per_step": settings.batch * settings.block,
            "total_steps": settings.steps,
            "unit": self.objective.unit,
            "device": str(self.device),
            "precision": self.objective.precision,
            **self.objective.announcement(),
        }
        self._emit(started)

    def _go_on(self, folder: Path) -> None:
        """Say what a resumed run goes on from, and what is not as it was."""
        path = str(folder.relative_to(self.run.path))
        self._emit({"kind": "checkpoint", "step": self.first_watched, "path": path})
        if self._resumed["recipe"] != self.recipe.model_dump(mode="json"):
            self._announce()
        precision, before = self.objective.precision, self._resumed["precision"]
        if before != precision:
            self._notes.append(f"computing in {precision}; so far it was {before}")
        self._warn(*self._notes)

    def _discard(self) -> None:
        """Delete later checkpoints, then cut the events. In this order the events cover every
        checkpoint even if the process is killed in between."""
        if dropped := checkpoint.discard_after(self.run, self.first_watched):
            self._notes.append(f"later checkpoints were deleted: {', '.join(map(str, dropped))}")
        if self._best_is_damaged:
            checkpoint.set_aside(self.run.best)
        checkpoint.prune(self.run, self.settings.keep_last)

    def _warn(self, *messages: str) -> None:
        for message in messages:
            self._emit({"kind": "warning", "step": self.first_watched, "message": message})

    def _train_step(self) -> None:
        """One optimizer step over all micro-batches; never waits on the device."""
        settings = self.settings
        weights = self.loss_weights.at(self.step / settings.steps)
        self.model.train()
        total = torch.zeros((), device=self.device)
        profiler = self.profiler
        batches = profiler.reading(self.objective.micro_batches(self.step))
        for part, inputs in enumerate(batches):
            self._in_step = True
            with profiler.part(FORWARD):
                loss, memory, measured = self._loss(*inputs, weights)
            with profiler.part(BACKWARD):
                loss.backward()
            self.objective.keep(part, memory)
            total = total + loss.detach()
            self.window.add(measured)
        with profiler.part(UPDATE):
            grad_norm = self._clip()
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.step, settings)
            self.guard.watch(self.optimizer, total, grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.window.end_step(grad_norm)
        self.step += 1
        self._in_step = False

    def _clip(self) -> Tensor:
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if self.settings.clip_norm:
            return torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def _log(self) -> None:
        """Emit a train event; the host waits on the device here."""
        self._check_finite()
        tokens = self.objective.tokens_read(self.step)
        timed = tokens - self.objective.tokens_read(self.step - self.window.timed_steps)
        self._emit(
            self.window.close(
                self.step,
                tokens=tokens,
                timed_tokens=timed,
                lr=learning_rate(self.step - 1, self.settings),
                similarity=self.recipe.similarity.in_force((self.step - 1) / self.settings.steps),
                in_bits=self.objective.in_bits,
            )
        )

    def _check_finite(self) -> None:
        if self.guard.tripped():
            first_bad = self.first_watched + self.guard.good_steps() + 1
            raise self._diverged(f"the loss or its gradient became non-finite at step {first_bad}")

    def _diverged(self, message: str) -> UserError:
        self._emit({"kind": "warning", "step": self.step, "message": message})
        self.writer.wait()
        settings = self.settings
        saved = checkpoint.list_checkpoints(self.run)
        where = (
            f"The last good checkpoint is step {saved[-1][0]}; go on from it with --resume auto"
            if saved
            else "No checkpoint was saved yet; start again with more train.warmup_steps (now "
            f"{settings.warmup_steps})"
        )
        return UserError(
            message,
            where=str(self.run.path),
            hint=f"{where} and a lower train.lr (now {settings.lr:g}) or train.clip_norm=1.0 "
            f"(now {settings.clip_norm:g}).",
            code=EXIT_NON_FINITE,
        )

    def _validate(self) -> None:
        self._check_finite()
        score = self.objective.validate(self.objective.context(self.step))
        if not math.isfinite(score.loss_nats):
            raise self._diverged(f"the validation loss became non-finite at step {self.step}")
        to_minimise = self.objective.to_minimise(score)
        best = to_minimise < self.best_loss
        if best:
            self.best_loss = to_minimise
            state = self.objective.identity() | self.objective.best_fields(score)
            self.writer.save_best(self.step, self.model, state)
        self._evaluated(score, "valid", best)

    def _probe(self) -> None:
        tokens_BM, real_T = self.objective.probe_batch()
        context = self.objective.context(self.step, real_T)
        router, similarity = probe(self.model, tokens_BM, context, self.objective.precision)
        self._emit({"kind": "router", "step": self.step, "layers": router})
        self._emit({"kind": "similarity", "step": self.step, **similarity})

    def _save(self) -> None:
        self._check_finite()
        tensors = resume_state.training_tensors(self.objective, self.optimizer, self.window)
        state = self.objective.identity() | {
            "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,
            "events_bytes": self.events.position(),
            "precision": self.objective.precision,
        }
        self.writer.save(self.step, self.model, tensors, state, sync_events=self.events.sync)
        path = self.run.checkpoints / checkpoint.step_name(self.step)
        name = str(path.relative_to(self.run.path))
        self._emit({"kind": "checkpoint", "step": self.step, "path": name})

    def _restore(self, folder: Path) -> dict[str, Any]:
        """Everything back as it was when the checkpoint was taken; its state."""
        state = resume_state.restore(folder, self.objective, self.optimizer, self.window)
        self.step = self.first_watched = state["step"]
        # A probe's choice holds for the whole training: it goes on bit for bit.
        asked = {self.settings.precision, state["recipe"]["train"]["precision"]}
        if asked == {"auto"} and self.device.type == "cpu" and cpu_bf16():
            self.objective.precision = state["precision"]
        if state["best_loss"] is not None:
            self._restore_best(state)
        return state

    def _restore_best(self, state: dict[str, Any]) -> None:
        """Go on from the best validation, if its weights are there."""
        try:
            best = checkpoint.read_state(self.run.best)
        except NotPermitted:
            raise
        except UserError as error:
            self._best_is_damaged = self.run.best.is_dir() and any(self.run.best.iterdir())
            self._notes.append(
                f"the best weights so far are lost ({error.where}: {error.what}); those of the "
                "best validation from now on are kept"
            )
            return
        # With the same settings they are found again; with others they would be foreign weights.
        of_this_course = state["recipe"] == self.recipe.model_dump(mode="json")
        if best["step"] <= state["step"] or of_this_course:
            self.best_loss = state["best_loss"]

    def _finish(self) -> S:
        """Score the best weights on the split that is reported."""
        if math.isinf(self.best_loss):  # of a run that was resumed at its end without its best
            self._validate()
        self.writer.wait()
        self.signals.leave_when_asked(self.step)
        folder = checkpoint.find(self.run, "best")
        state = checkpoint.read_state(folder)
        weights.load_weights(folder, state, self.model)
        score = self.objective.test(self.objective.context(state["step"]))
        self.signals.leave_when_asked(None)
        self._evaluated(score, self.objective.test_split, best=True)
        finished: RunFinished = {
            "kind": "run_finished",
            "step": self.step,
            "status": "finished",
            "reason": "all steps done",
            **self.objective.test_scores(score),
            "best_step": state["step"],
        }
        self._emit(finished)
        return score

    def _evaluated(self, score: S, split: str, best: bool) -> None:
        scored = self.objective.split_score(score, split)
        self._emit({"kind": "eval", "step": self.step, **scored, "best": best})

    def _emit(self, event: Event) -> None:
        if self._events is None:
            self._held.append(event)
        else:
            self._events.emit(event)
