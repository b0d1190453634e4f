"""The training loop of all objectives: steps, events, validation, probes and checkpoints.

`step.py` is one step, `loss.py` its loss, `run_log.py` the events, `resume_state.py` the state of a
resumed training. The host waits on the device only when an event is due.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic

from simsmoe_cli.errors import EXIT_DATA, EXIT_NON_FINITE, Terminated, UserError
from simsmoe_cli.parallel.writers import Writers
from simsmoe_cli.run import checkpoint, probes, weights
from simsmoe_cli.run.background_writer import BackgroundWriter
from simsmoe_cli.run.events import RunFinished
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.machine import MachineMeter
from simsmoe_cli.train.evaluate import Progress, untold
from simsmoe_cli.train.objectives.base import Objective, S
from simsmoe_cli.train.optim import learning_rate
from simsmoe_cli.train.probes import probe
from simsmoe_cli.train.profile_summary import ASIDE
from simsmoe_cli.train.profiling import SUMMARY, TRACE, Profiler
from simsmoe_cli.train.resume_state import (
    Resumed,
    discard_later,
    resume,
    seed_rank,
    training_tensors,
)
from simsmoe_cli.train.run_log import RunLog, run_started
from simsmoe_cli.train.sharding import let_go, shard
from simsmoe_cli.train.signals import Stopped, StopSignals
from simsmoe_cli.train.step import Stepper
from simsmoe_cli.train.together import rank_named


class Trainer(Generic[S]):
    """One training run in one run folder, which the caller has locked.

    Args:
        objective: what to train, with its model and data.
        run: where everything is written.
        resume_from: a checkpoint folder of this run to go on from.
        subscriber: called with every event.
        on_step: called with the number of steps done, after each step.
        on_part: called with "validating", "probing" or "testing" and the share of it that is done,
            while it goes on.
        profile: how many steps to record in the folder `profile`; 0 for none.
        new: whether the run folder is new, so that the first events are written at once. Otherwise
            the folder is not changed before the first step is done, so that a training that stops
            before it leaves the folder unchanged. None: new unless it resumes.
        on_begin: called before the first event is written.
        notes: warnings to write at the beginning.

    Attributes:
        stepper: takes the steps.
        started: whether a step was done, or no step was left.
        best_loss: the lowest `Objective.to_minimise` of any validation.
    """

    def __init__(
        self,
        objective: Objective[S],
        run: RunDir,
        *,
        resume_from: Path | None = None,
        subscriber: Callable[[dict[str, Any]], None] | None = None,
        on_step: Callable[[int], None] | None = None,
        on_part: Callable[[str, float], None] | None = None,
        profile: int = 0,
        new: bool | None = None,
        on_begin: Callable[[], None] | None = None,
        notes: Sequence[str] = (),
    ):
        self.objective, self.run = objective, run
        self.recipe, self.model = objective.recipe, objective.model
        self.settings = settings = self.recipe.train
        self.on_step, self.on_part = on_step, on_part
        self.world = world = objective.world
        shard(self.model, world)
        if not world.first:
            seed_rank(settings.seed, world.rank)
        self.stepper = Stepper(objective)
        self.signals = StopSignals(world)
        self.writer = BackgroundWriter(run, settings.keep_last, Writers(world))
        self.machine = MachineMeter(objective.device)
        self.log = RunLog(subscriber, writes=world.first)
        self.best_loss = math.inf
        self.started = False
        self._new = resume_from is None if new is None else new
        self._on_begin = on_begin
        self._notes = list(notes)
        self._resumed: Resumed | None = None
        if resume_from is not None:
            self._resumed = resume(resume_from, run, self.stepper)
            self.best_loss = self._resumed.best_loss
            self._notes += self._resumed.notes
        self._first = self.steps_done  # before this process took any
        if profile:
            profiler = Profiler(
                run.profile,
                profile,
                settings.steps - self.steps_done,
                self.model,
                compiled=self.stepper.compiled,
                tokens=0 if self.recipe.finetune.task else settings.batch * settings.block,
            )
            if world.first:  # one rank's steps are recorded
                self.stepper.profiler = profiler

    @property
    def steps_done(self) -> int:
        """Steps taken since the training began."""
        return self.stepper.done

    @property
    def trained(self) -> bool:
        """Whether all steps are done."""
        return self.steps_done >= self.settings.steps

    def step(self) -> None:
        """Take one optimizer step and nothing else: no event, no evaluation, no checkpoint.

        It does not wait on the device.
        """
        self.stepper.step()

    def train(self) -> S:
        """Train to the last step and evaluate the best weights on the test split.

        Raises:
            UserError: the loss became non-finite (exit 4), or a checkpoint could not be written.
            Stopped: a signal asked to stop; the state was saved.
        """
        try:
            with contextlib.ExitStack() as signals, rank_named():
                return self._train(signals)
        except Stopped as stop:
            if self.trained:
                self.log.leave(self.steps_done, "trained", f"not tested: {stop.signal}")
            else:
                self.log.leave(self.steps_done, "stopped", stop.signal)
            raise
        except (KeyboardInterrupt, Terminated):
            when = "twice, not saved" if self.started else "before the first step was done"
            self.log.leave(self.steps_done, "stopped", f"interrupted {when}")
            raise
        except SystemExit:  # rich leaves this way when nobody reads the output any more
            self.log.leave(self.steps_done, "failed", "the output was closed")
            raise
        except Exception as error:
            self.log.leave(self.steps_done, "failed", str(error) or repr(error))
            raise
        finally:
            self.stepper.profiler.close()
            self.writer.close()
            self.log.close()

    def _train(self, signals: contextlib.ExitStack) -> S:
        settings, window, profiler = self.settings, self.stepper.window, self.stepper.profiler
        if self._new:
            self._begin()
        if self._resumed is None:
            self.log.emit(run_started(self.objective, self.run, self._first))
            self.log.warn(self._first, *self.objective.warnings, *self._notes)
            if settings.probe_every:
                self._probe()
        window.restart_clock()
        while self.steps_done < settings.steps:
            with self._saved_where_data_is_damaged():
                self.step()
            self._start(signals)
            last = self.steps_done == settings.steps
            if self._is_due(settings.log_every) or last:
                self._log_train()
            with window.clock_paused(), profiler.part(ASIDE):
                if self._is_due(settings.validate_every) or (last and settings.validate_every):
                    with self._saved_where_data_is_damaged():
                        self._validate()
                if self._is_due(settings.probe_every) or (last and settings.probe_every):
                    self._probe()
                if self.on_step is not None:
                    self.on_step(self.steps_done)
                stopping = self.signals.agreed(last=last)
                if self._is_due(settings.checkpoint_every) or last or stopping:
                    self._save()
            with window.clock_paused():
                if profiler.step_done():
                    self._log_profile()
            if stopping:
                if last and math.isinf(self.best_loss):  # so that it can be tested
                    self._last_is_best()
                self.writer.wait()
                self.world.wait()
                self.signals.leave_if_asked(self.steps_done)
        self._start(signals)
        return self._finish()

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.steps_done % every == 0

    # How it begins

    def _begin(self) -> None:
        """Open the events; from now on this training writes to the folder."""
        if not self.world.first:
            return
        if self._on_begin is not None:
            self._on_begin()
        checkpoint.tidy(self.run)
        resumed, keep = self._resumed, None
        if resumed is not None:
            self._notes += discard_later(resumed, self.run, self.settings.keep_last)
            keep = resumed.state["events_bytes"]
        probes.discard_after(self.run, -1 if resumed is None else resumed.step)
        if not self.log.open(self.run, keep):
            self._notes.append(
                "events from before the checkpoint are lost; the training itself is whole"
            )
        if resumed is not None:
            self._say_what_changed(resumed)

    def _say_what_changed(self, resumed: Resumed) -> None:
        """Write the first events of a resumed run: the step where it continues, and its changes."""
        path = str(resumed.folder.relative_to(self.run.path))
        self.log.emit({"kind": "checkpoint", "step": self._first, "path": path})
        before = resumed.state["recipe"]
        if before != self.recipe.model_dump(mode="json"):
            self.log.emit(run_started(self.objective, self.run, self._first, before))
        precision, until_now = self.objective.precision, resumed.state["precision"]
        if until_now != precision:
            self._notes.append(f"computing in {precision}; so far it was {until_now}")
        self.log.warn(self._first, *self._notes)

    def _start(self, signals: contextlib.ExitStack) -> None:
        """From the first step on, signals ask to save and stop.

        Before it there is nothing to save, so signals end the training at once, also while the
        first step is compiled.
        """
        if self.started:
            return
        signals.enter_context(self.signals)
        if self.world.first and not self.log.is_open:
            with self.stepper.window.clock_paused():
                self._begin()
        self.started = True

    # What is due after a step

    def _log_train(self) -> None:
        """Emit a train event; the host waits on the device here."""
        self.world.wait()  # for the other hosts, so that one that hangs is named
        self._check_finite()
        done, window, read = self.steps_done, self.stepper.window, self.objective.tokens_read
        tokens = read(done)
        event = window.close(
            done,
            tokens=tokens,
            timed_tokens=tokens - read(done - window.timed_steps),
            lr=learning_rate(done - 1, self.settings),
            similarity=self.recipe.similarity.in_force((done - 1) / self.settings.steps),
            in_bits=self.objective.in_bits,
        )
        busy = self.stepper.busy.report()
        if busy is not None:
            event["busy_ms"] = busy
        event["machine"] = self.machine.report()
        self.log.emit(event)

    def _log_profile(self) -> None:
        self.log.emit(
            {
                "kind": "profile",
                "step": self.steps_done,
                "path": self.run.profile.name,
                "trace": TRACE,
                "summary": SUMMARY,
            }
        )

    def _validate(self) -> None:
        self._check_finite()
        context = self.objective.context(self.steps_done)
        score = self.objective.validate(context, self._progress("validating"))
        let_go(self.model)
        if not math.isfinite(score.loss_nats):
            raise self._diverged(f"the validation loss became non-finite at step {self.steps_done}")
        to_minimise = self.world.from_first(self.objective.to_minimise(score))
        best = to_minimise < self.best_loss
        if best:
            self.best_loss = to_minimise
            state = self.objective.identity() | self.objective.best_fields(score)
            self.writer.save_best(self.steps_done, self.model, state)
        self._evaluated(score, "valid", best)

    def _last_is_best(self) -> None:
        """Save the last weights as the best: of a run that was never validated."""
        self.writer.save_best(self.steps_done, self.model, self.objective.identity())

    def _probe(self) -> None:
        tokens_BM, real_T = self.objective.probe_batch()
        context = self.objective.context(self.steps_done, real_T)
        precision, progress = self.objective.precision, self._progress("probing")
        found = probe(self.model, tokens_BM, context, precision, progress)
        let_go(self.model)
        if found.judge_dead(self.stepper.window.slots(len(found.router))):
            self.stepper.window.forget_slots()
        self.log.emit_probe(self.steps_done, found)

    def _save(self) -> None:
        self._check_finite()
        tensors = training_tensors(self.objective, self.stepper.optimizer, self.stepper.window)
        state = self.objective.identity() | {
            "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,
            "events_bytes": self.log.position(),
            "precision": self.objective.precision,
        }
        step = self.steps_done
        self.writer.save(step, self.model, tensors, state, sync_events=self.log.sync)
        path = self.run.checkpoints / checkpoint.step_name(step)
        name = str(path.relative_to(self.run.path))
        self.log.emit({"kind": "checkpoint", "step": step, "path": name})

    # How it ends

    def _finish(self) -> S:
        """Score the best weights on the split that is reported; the last ones if none were
        validated."""
        if math.isinf(self.best_loss):
            if self.settings.validate_every:  # resumed at its end without its best
                self._validate()
            else:
                self._last_is_best()
        self.writer.wait()
        self.world.wait()
        self.signals.leave_when_asked(self.steps_done)
        folder = checkpoint.find(self.run, "best")
        state = checkpoint.read_state(folder)
        let_go(self.model)
        weights.load_weights(folder, state, self.model)
        context = self.objective.context(state["step"])
        score = self.objective.test(context, self._progress("testing"))
        let_go(self.model)
        self.model.publish(self.run.path, self.objective.announcement().get("labels", ()))
        self.signals.leave_when_asked(None)
        self._evaluated(score, self.objective.test_split, best=True)
        finished: RunFinished = {
            "kind": "run_finished",
            "step": self.steps_done,
            "status": "finished",
            "reason": "all steps done",
            **self.objective.test_scores(score),
            "best_step": state["step"],
        }
        self.log.emit(finished)
        return score

    def _progress(self, part: str) -> Progress:
        """Passes on how much of a part is done."""
        on_part = self.on_part
        return untold if on_part is None else lambda done, total: on_part(part, done / total)

    def _evaluated(self, score: S, split: str, best: bool) -> None:
        scored = self.objective.split_score(score, split)
        self.log.emit({"kind": "eval", "step": self.steps_done, **scored, "best": best})

    @contextlib.contextmanager
    def _saved_where_data_is_damaged(self) -> Iterator[None]:
        """Save before an error about unreadable data is raised.

        The step that needed the data has not been computed.
        """
        try:
            yield
        except UserError as error:
            saved = self.run.checkpoints / checkpoint.step_name(self.steps_done)
            whole = self.started and not self.stepper.begun and not saved.is_dir()
            # Of several ranks one alone may read what is damaged, and all would have to save.
            if error.code == EXIT_DATA and whole and self.world.alone:
                with contextlib.suppress(UserError, OSError):
                    self._save()
                    self.writer.wait()
            raise

    def _check_finite(self) -> None:
        if self.stepper.guard.tripped():
            first_bad = self._first + self.stepper.guard.good_steps() + 1
            raise self._diverged(f"the loss or its gradient became non-finite at step {first_bad}")

    def _diverged(self, message: str) -> UserError:
        self.log.emit({"kind": "warning", "step": self.steps_done, "message": message})
        self.writer.wait()
        settings = self.settings
        saved = checkpoint.list_checkpoints(self.run)
        where = (
            f"The last good checkpoint is step {saved[-1][0]}; continue from it with --resume auto"
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
