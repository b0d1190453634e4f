"""One training of a sweep, in a process of its own: trains, measures, and returns a record.

It is an ordinary run in the sweep's folder, resumed if a run of its name has a checkpoint. Several
processes start from one that has imported torch already (a fork server), so that a training does
not wait for imports.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from simsmoe_cli.collapse.sources.open_run import open_run
from simsmoe_cli.errors import DataError, UserError
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run.event_log import read_events
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.sweep.costs import overrides_of
from simsmoe_cli.sweep.definition import Task
from simsmoe_cli.sweep.measure import similarity_scores
from simsmoe_cli.sweep.results import ACCURACY, Cost, Curve, Layer, Number, Record
from simsmoe_cli.train import session
from simsmoe_cli.train.device import choose_device
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.objectives.language_modelling import LanguageModelling
from simsmoe_cli.train.plan_finetuning import plan_finetuning
from simsmoe_cli.train.plan_pretraining import plan_training
from simsmoe_cli.train.signals import Stopped

LOCK_S = 60.0  # how long the process of a killed sweep may take to save and leave its run
TIMED_STEPS, FIRST_STEPS = 4, 2


@dataclass(frozen=True)
class Machine:
    """Where a training computes.

    Attributes:
        device: as --device takes it.
        threads: of a CPU; 0: torch's own number.
        gpu: the only one that it sees; None: all.
    """

    device: str = "auto"
    threads: int = 0
    gpu: str | None = None

    def ready(self) -> torch.device:
        """The device, set up."""
        if self.gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu
        if self.threads:
            torch.set_num_threads(self.threads)
        return choose_device(self.device)


@dataclass(frozen=True)
class Job:
    """One training to do.

    Attributes:
        name: of its run folder.
        recipe, overrides: as of `load_recipe`.
        runs_dir: the sweep's folder.
        data_dir: of prepared corpora and tasks.
        cost: of the pre-training.
        tasks: to fine-tune the model on.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...]
    runs_dir: Path
    data_dir: Path
    cost: Cost
    tasks: tuple[Task, ...] = ()

    @property
    def run(self) -> RunDir:
        return RunDir(self.runs_dir / self.name)

    def tuned(self, task: Task) -> RunDir:
        """The run of its fine-tuning on a task."""
        return RunDir(self.runs_dir / f"{self.name}-{task.task}")

    @property
    def resolved(self) -> Recipe:
        return load_recipe(self.recipe, self.overrides)


def train_and_measure(job: Job, machine: Machine) -> Record:
    """Train, or go on with an interrupted training, and measure the best weights.

    Raises:
        UserError: as `pretrain`.
        Stopped: a signal asked to stop; the state was saved.
    """
    device = machine.ready()
    _wait_for_lock(job.run)
    plan = plan_training(job.recipe, job.overrides, job.runs_dir, job.name, "auto")
    store = session.open_corpus(plan, job.data_dir)
    session.train(plan, store, device)
    scores, curve, seconds = _of_events(job.run)
    layers: list[Layer] = []
    if "g" in plan.recipe.model.pattern or plan.recipe.huggingface.used:
        source = open_run(job.run, "best", data_dir=job.data_dir, device=device)
        similarity, layers = similarity_scores(source)
        scores |= similarity
    for task in job.tasks:
        scores[f"{ACCURACY}{task.task}"] = _finetuned(job, task, device)
    return Record(
        name=job.name,
        changes={},
        corpus=plan.recipe.data.corpus,
        scores=scores,
        layers=layers,
        curve=curve,
        cost=job.cost.model_copy(
            update={
                "seconds": seconds,
                "device": _name(device),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
            }
        ),
    )


def seconds_per_step(job: Job, machine: Machine) -> float:
    """How long a step of a training takes here, from a few steps of it."""
    device = machine.ready()
    recipe = job.resolved
    store = session.open_store(recipe, job.data_dir)
    trainer = Trainer(LanguageModelling(recipe, store, device), job.run)
    for _ in range(FIRST_STEPS):
        trainer.step()
    _synchronise(device)
    start = time.perf_counter()
    for _ in range(TIMED_STEPS):
        trainer.step()
    _synchronise(device)
    return (time.perf_counter() - start) / TIMED_STEPS


def in_process(
    work: Callable[..., Any], given: tuple[Any, ...], log: Path, reply: Connection
) -> None:
    """The main function of a process: send what `work` returns, or why it failed.

    Sends ("done", value) or ("failed", message). What it prints goes to the file
    `log`. If the parent dies, the training saves and stops.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        reply.send(("done", work(*given)))
    except (Stopped, KeyboardInterrupt):
        reply.send(("failed", "stopped; its state was saved"))
    except UserError as error:
        print(error, file=sys.stderr)
        reply.send(("failed", str(error).splitlines()[0]))
    except Exception as error:
        reply.send(("failed", f"{type(error).__name__}: {error}"))
        raise


def remove_weights(run: RunDir) -> None:
    """Delete the checkpoints of a finished training; events and probes stay."""
    for folder in (run.checkpoints, run.best):
        shutil.rmtree(folder, ignore_errors=True)


def _stop_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _wait_for_lock(run: RunDir) -> None:
    """Wait for a process of a killed sweep, which saves and leaves."""
    if not run.path.exists():
        return
    end = time.monotonic() + LOCK_S
    while True:
        try:
            with run.locked():
                return
        except UserError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def _of_events(run: RunDir) -> tuple[dict[str, Number], Curve, float]:
    """Scores, validation curve and seconds of all steps, from the events of a finished run."""
    scores: dict[str, Number] = {}
    curve, seconds, before = Curve(), 0.0, 0
    for event in read_events(run.events):
        step = event["step"]
        if event["kind"] == "train":
            seconds += (event.get("step_ms") or 0.0) / 1000 * (step - before)
            before = step
        elif event["kind"] == "eval" and event.get("split") == "valid":
            curve.steps.append(step)
            curve.valid_bpc.append(event.get("bpc"))
        elif event["kind"] == "run_finished":
            scores["test_bpc"] = event.get("test_bpc")
            scores["test_loss_nats"] = event.get("test_loss_nats")
    known = [bpc for bpc in curve.valid_bpc if bpc is not None]
    scores["valid_bpc"] = min(known, default=None)
    if "test_loss_nats" not in scores:
        raise DataError("the run did not finish", where=str(run.path))
    return scores, curve, seconds


def _finetuned(job: Job, task: Task, device: torch.device) -> float:
    """The accuracy of the trained model after fine-tuning it on a task."""
    plan = plan_finetuning(
        job.run.path,
        "best",
        task.task,
        task.recipe,
        [*overrides_of(task), f"train.seed={job.resolved.train.seed}"],
        data_dir=job.data_dir,
        runs_dir=job.runs_dir,
        name=job.tuned(task).name,
        resume="auto",
    )
    return session.finetune(plan, device).accuracy


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
