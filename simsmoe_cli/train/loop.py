"""The training loop.

Nothing in a step waits on the device: losses are summed there, a non-finite step is skipped there
(optim.NonFiniteGuard), and the host reads numbers only where an event is due. Where a run stands
follows from its step and the tensors of its checkpoint, so a resumed run equals an uninterrupted
one bit for bit on a CPU.

Shapes: B streams, M block, D model width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.data.streams import TrainStreams
from simsmoe_cli.errors import EXIT_DATA, EXIT_NON_FINITE, UserError
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.routers.base import RouteContext
from simsmoe_cli.recipe import Recipe
from simsmoe_cli.rundir import EventLog, RunDir
from simsmoe_cli.schedule import value_at
from simsmoe_cli.train import checkpoint
from simsmoe_cli.train.evaluate import (
    Evaluation,
    autocast,
    evaluate_split,
    resolve_precision,
)
from simsmoe_cli.train.optim import NonFiniteGuard, build_optimizer, learning_rate
from simsmoe_cli.train.probes import probe, probe_batch
from simsmoe_cli.train.signals import Stopped, StopSignals
from simsmoe_cli.train.window import LogWindow


class Trainer:
    """One training run in one run folder, which the caller has locked.

    Args:
        recipe: what to train.
        store: the prepared corpus.
        run: where everything is written.
        device: where to compute.
        resume_from: a checkpoint folder of this run to go on from.
        subscriber: called with every event.
        on_step: called with the number of steps done, after each step.
    """

    def __init__(
        self,
        recipe: Recipe,
        store: TokenStore,
        run: RunDir,
        device: torch.device,
        *,
        resume_from: Path | None = None,
        subscriber: Callable[[dict[str, Any]], None] | None = None,
        on_step: Callable[[int], None] | None = None,
    ):
        settings = recipe.train
        self.recipe, self.settings = recipe, settings
        self.store, self.run, self.device = store, run, device
        self.on_step = on_step
        self.unit = store.manifest.unit
        self.precision = resolve_precision(settings.precision, device)
        self.loss_weights = recipe.loss_weights
        self.streams = TrainStreams(
            store.split("train"),
            settings.batch,
            settings.block,
            shuffle_seed=settings.seed if recipe.shuffles_blocks else None,
        )
        self.probe_batch = probe_batch(store.split("valid"), settings.block, settings.probe_tokens)
        torch.manual_seed(settings.seed)
        self.model = LanguageModel(recipe, store.manifest.vocab_size).to(device)
        self.optimizer = build_optimizer(self.model, settings)
        self.guard = NonFiniteGuard(device)
        compiled = settings.compile == "on" or (
            settings.compile == "auto" and device.type == "cuda"
        )
        self._loss = torch.compile(self._micro_loss) if compiled else self._micro_loss
        rows = settings.batch // settings.micro_batches
        self.memory = [self.model.initial_memory(rows) for _ in range(settings.micro_batches)]
        self.window = LogWindow()
        self.signals = StopSignals()
        self.step = 0
        self.first_watched = 0
        self.best_loss = math.inf
        self._subscriber = subscriber
        self._resume_from = resume_from
        self._resumed: dict[str, Any] = {}
        if resume_from is not None:
            self._resumed = self._restore(resume_from)

    def train(self) -> Evaluation:
        """Train to the last step and evaluate the best weights on the test split.

        Raises:
            UserError: the loss became non-finite (exit 4), or a checkpoint could not be written.
            Stopped: a signal asked to stop; the state was saved.
        """
        self.events = EventLog(self.run.events, self._resumed.get("events_bytes"))
        if self._subscriber is not None:
            self.events.subscribe(self._subscriber)
        try:
            with self.signals:
                return self._train()
        except Stopped as stop:
            self._leave("stopped", stop.signal)
            raise
        except KeyboardInterrupt:
            self._leave("stopped", "interrupted twice, not saved")
            raise
        except SystemExit:  # rich's way to leave when nobody reads the output any more
            self._leave("failed", "the output was closed")
            raise
        except Exception as error:
            self._leave("failed", str(error) or repr(error))
            raise
        finally:
            with contextlib.suppress(OSError):
                self.events.close()

    def _leave(self, status: str, reason: str) -> None:
        """The last event of a run that did not finish, if it can be written: a full disk or a
        reader that left must not hide why."""
        with contextlib.suppress(OSError):
            self._emit("run_finished", status=status, reason=reason)

    def _train(self) -> Evaluation:
        settings = self.settings
        if self._resume_from is not None:
            self._go_on(self._resume_from)
        else:
            self._announce()
            for message in self.store.manifest.warnings:
                self._emit("warning", message=message)
            if settings.probe_every:
                self._probe()
        self.window.restart_clock()
        while self.step < settings.steps:
            self._train_step()
            last = self.step == settings.steps
            if self._is_due(settings.log_every) or last:
                self._log()
            with self.window.clock_paused():
                if self._is_due(settings.validate_every) or last:
                    self._validate()
                if self._is_due(settings.probe_every) or (last and settings.probe_every):
                    self._probe()
                if self.on_step is not None:
                    self.on_step(self.step)
                stopping = self.signals.asked
                if self._is_due(settings.checkpoint_every) or last or stopping:
                    self._save()
            if stopping:
                self.signals.leave_if_asked(self.step)
        return self._finish()

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _announce(self) -> None:
        recipe, settings = self.recipe, self.settings
        self._emit(
            "run_started",
            name=self.run.name,
            recipe=recipe.model_dump(mode="json"),
            parameters=sum(p.numel() for p in self.model.parameters()),
            tokens_per_step=settings.batch * settings.block,
            total_steps=settings.steps,
            unit=self.unit,
            device=str(self.device),
            precision=self.precision,
        )

    def _go_on(self, folder: Path) -> None:
        """Say what a resumed run goes on from, and what is not as it was."""
        self._emit("checkpoint", path=str(folder.relative_to(self.run.path)))
        if self._resumed["recipe"] != self.recipe.model_dump(mode="json"):
            self._announce()
        if self._resumed["precision"] != self.precision:
            message = f"computing in {self.precision}; so far it was {self._resumed['precision']}"
            self._emit("warning", message=message)
        if dropped := checkpoint.discard_after(self.run, self.step):
            message = f"later checkpoints were deleted: {', '.join(map(str, dropped))}"
            self._emit("warning", message=message)

    def _train_step(self) -> None:
        """One optimizer step over all micro-batches; never waits on the device."""
        settings = self.settings
        inputs, targets, restart = self.streams.read(self.step)
        rows = settings.batch // settings.micro_batches
        progress = self.step / settings.steps
        weights = {name: value_at(w, progress) for name, w in self.loss_weights.items()}
        self.model.train()
        total = torch.zeros((), device=self.device)
        for part, memory in enumerate(self.memory):
            if restart:
                for tensor in memory:
                    tensor.zero_()
            x, y = (self._to_device(t[part * rows : (part + 1) * rows]) for t in (inputs, targets))
            context = RouteContext(step=self.step, total_steps=settings.steps)
            loss, self.memory[part], measured = self._loss(x, y, memory, context, weights)
            loss.backward()
            total = total + loss.detach()
            self.window.add(measured)
        grad_norm = self._clip()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, settings)
        self.guard.watch(self.optimizer, total, grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.window.end_step(grad_norm)
        self.step += 1

    def _micro_loss(
        self,
        x_BM: Tensor,
        y_BM: Tensor,
        memory: list[Tensor],
        context: RouteContext,
        weights: dict[str, float],
    ) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """A micro-batch's share of the loss, its memory, and what to log (detached)."""
        with autocast(self.device, self.precision):
            output = self.model.score(x_BM, y_BM, memory, context)
        task = output.nats / y_BM.numel()
        total = task
        measured = {"task": task.detach()}
        for name, loss in output.losses.items():
            total = total + weights[name] * loss
            measured[f"loss.{name}"] = loss.detach()
        for layer in output.moe:
            if layer.similarity is not None:
                due = layer.similarity.pairs_due
                for name, value in (
                    ("pairs_due", due),
                    ("similarity_sum", (layer.similarity.mean * due).nan_to_num()),
                ):
                    measured[name] = measured.get(name, 0.0) + value.detach()
            for metric, value in layer.routing.metrics.items():
                for name, part in (
                    (f"metric.{metric}", value.detach()),
                    (f"reports.{metric}", torch.ones_like(value)),
                ):
                    measured[name] = measured.get(name, 0.0) + part
        share = 1 / self.settings.micro_batches
        return total * share, output.memory, {name: v * share for name, v in measured.items()}

    def _clip(self) -> Tensor:
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if self.settings.clip_norm:
            return torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _log(self) -> None:
        """Emit a train event; the host waits on the device here."""
        self._check_finite()
        tokens_per_step = self.settings.batch * self.settings.block
        fields = self.window.close(tokens_per_step, in_bits=self.unit in ("byte", "character"))
        if "similarity" in fields:
            progress = (self.step - 1) / self.settings.steps
            fields["similarity"] |= self.recipe.similarity.in_force(progress)
        lr = learning_rate(self.step - 1, self.settings)
        self._emit("train", **fields, lr=lr, tokens=self.step * tokens_per_step)

    def _check_finite(self) -> None:
        if self.guard.tripped():
            first_bad = self.first_watched + self.guard.good_steps() + 1
            raise self._diverged(f"the loss or its gradient became non-finite at step {first_bad}")

    def _diverged(self, message: str) -> UserError:
        self._emit("warning", message=message)
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

    def _evaluate(self, split: str, max_blocks: int, step: int) -> Evaluation:
        """Evaluate the model's weights, which are those of `step`."""
        settings = self.recipe.eval
        return evaluate_split(
            self.model,
            self.store.split(split),
            block=self.settings.block,
            streams=settings.streams,
            overlap=settings.overlap,
            max_blocks=max_blocks,
            precision=self.precision,
            context=RouteContext(step=step, total_steps=self.settings.steps),
        )

    def _validate(self) -> None:
        self._check_finite()
        result = self._evaluate("valid", self.settings.validate_blocks, self.step)
        if not math.isfinite(result.loss_nats):
            raise self._diverged(f"the validation loss became non-finite at step {self.step}")
        best = result.loss_nats < self.best_loss
        if best:
            self.best_loss = result.loss_nats
            state = self._identity() | {"loss_nats": result.loss_nats}
            checkpoint.save_best(self.run, self.step, self.model, state)
        self._emit("eval", **result.event_fields("valid", self.unit), best=best)

    def _probe(self) -> None:
        context = RouteContext(step=self.step, total_steps=self.settings.steps)
        router, similarity = probe(self.model, self.probe_batch, context, self.precision)
        self._emit("router", **router)
        self._emit("similarity", **similarity)

    def _save(self) -> None:
        self._check_finite()
        tensors = checkpoint.optimizer_tensors(self.model, self.optimizer)
        tensors |= {f"window.{name}": value for name, value in self.window.sums.items()}
        for part, memory in enumerate(self.memory):
            tensors |= {f"memory.{part}.{i}": tensor for i, tensor in enumerate(memory)}
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        state = self._identity() | {
            "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,
            "events_bytes": self.events.position(),
            "precision": self.precision,
        }
        path = checkpoint.save(self.run, self.step, self.model, tensors, state)
        self._emit("checkpoint", path=str(path.relative_to(self.run.path)))
        checkpoint.prune(self.run, self.settings.keep_last)

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint says about the model and the text it was trained on."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "vocab_size": self.model.vocab_size,
            "unit": self.unit,
            "corpus": self.store.manifest.fingerprint,
            "vocabulary": self.store.manifest.vocabulary,
            "store": str(self.store.path.resolve()),
        }

    def _restore(self, folder: Path) -> dict[str, Any]:
        """Everything back as it was when the checkpoint was taken; its state."""
        state = checkpoint.read_state(folder)
        if state["corpus"] != self.store.manifest.fingerprint:
            raise UserError(
                "the prepared corpus is not the one this run was trained on",
                where=str(self.store.path),
                hint="Point --data-dir at the original, or start a new run with another --name.",
                code=EXIT_DATA,
            )
        checkpoint.load_weights(folder, state, self.model)
        tensors = checkpoint.load_training(folder)
        checkpoint.restore_optimizer(self.model, self.optimizer, tensors)
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "window":
                self.window.sums[rest] = tensor.to(self.device)
            elif kind == "memory":
                part, _, layer = rest.partition(".")
                self.memory[int(part)][int(layer)] = tensor.to(self.device)
        torch.set_rng_state(tensors["rng.cpu"])
        if self.device.type == "cuda" and "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.device)
        self.step = self.first_watched = state["step"]
        if state["best_loss"] is not None and (self.run.best / checkpoint.STATE).is_file():
            self.best_loss = state["best_loss"]
        return state

    def _finish(self) -> Evaluation:
        """Evaluate the best weights on the test split."""
        self.signals.leave_when_asked(self.step)
        folder = checkpoint.find(self.run, "best")
        state = checkpoint.read_state(folder)
        checkpoint.load_weights(folder, state, self.model)
        result = self._evaluate("test", self.recipe.eval.final_blocks, state["step"])
        self.signals.leave_when_asked(None)
        fields = result.event_fields("test", self.unit)
        self._emit("eval", **fields, best=True)
        self._emit(
            "run_finished",
            status="finished",
            reason="all steps done",
            test_bpc=fields["bpc"],
            test_loss_nats=result.loss_nats,
            best_step=state["step"],
        )
        return result

    def _emit(self, kind: str, **fields: Any) -> None:
        self.events.emit(kind, self.step, **fields)
