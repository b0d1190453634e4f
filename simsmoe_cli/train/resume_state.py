"""Saves and restores the state of a training, and deletes later files when it is resumed.

The state consists of the step and the tensors of the checkpoint, so a resumed run equals an
uninterrupted one bit for bit on a CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from simsmoe_cli.errors import NotPermitted, UserError
from simsmoe_cli.model.precision import cpu_bf16
from simsmoe_cli.parallel.sharded import OwnShare
from simsmoe_cli.run import checkpoint, weights
from simsmoe_cli.run.background_writer import host_copy
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.log_window import LogWindow
from simsmoe_cli.train.objectives.base import Objective
from simsmoe_cli.train.step import Stepper


def training_tensors(
    objective: Objective[Any], optimizer: torch.optim.Optimizer, window: LogWindow
) -> dict[str, Tensor] | OwnShare:
    """Copies of optimizer moments, the open log window, the objective's carried tensors, and random
    states; of several ranks, what this one writes of them. All ranks must call it."""
    tensors = weights.optimizer_tensors(objective.model, optimizer)
    tensors |= {f"window.{name}": value for name, value in window.sums.items()}
    tensors |= objective.carried()
    own = {"rng.cpu": torch.get_rng_state()}
    if objective.device.type == "cuda":
        own["rng.cuda"] = torch.cuda.get_rng_state(objective.device)
    world = objective.world
    if world.alone:
        return {name: host_copy(tensor) for name, tensor in (tensors | own).items()}
    share = OwnShare.of(tensors.items())
    for name, state in own.items():
        share.add(_of_rank(name, world.rank), state)
    return share


def _of_rank(name: str, rank: int) -> str:
    """The name of the state of a rank's random generator: that of one process for the first."""
    return f"{name}.{rank}" if rank else name


def restore(
    folder: Path, objective: Objective[Any], optimizer: torch.optim.Optimizer, window: LogWindow
) -> dict[str, Any]:
    """Restore model, optimizer, log window, objective and random states from a checkpoint.

    Returns:
        The checkpoint's state.

    Raises:
        UserError: it is damaged, or of another objective, model or data.
    """
    device = objective.device
    state = checkpoint.read_state(folder)
    objective.require_same(state)
    weights.load_weights(folder, state, objective.model)
    files = weights.training_state(folder, state)
    try:
        weights.restore_optimizer(objective.model, optimizer, files)
        tensors = {
            name: files.read(name) for name in files.found if not name.startswith(weights.OPTIMIZER)
        }
        window.restore(tensors, device)
        objective.restore_carried(tensors)
        _restore_random(tensors, objective, state["step"])
    except (ValueError, SafetensorError, OSError) as error:
        raise checkpoint.damaged(files.paths[0], error) from None
    return state


def _restore_random(tensors: dict[str, Tensor], objective: Objective[Any], step: int) -> None:
    """Set the states of the random generators; a ValueError for anything else.

    A rank beyond those that saved the checkpoint gets a state of its own.
    """
    device, rank = objective.device, objective.world.rank
    if rank and _of_rank("rng.cpu", rank) not in tensors:
        seed_rank(objective.recipe.train.seed, rank, step)
        return
    tensors = {
        name: tensors[_of_rank(name, rank)]
        for name in ("rng.cpu", "rng.cuda")
        if _of_rank(name, rank) in tensors
    }
    own = {"rng.cpu": torch.get_rng_state()}
    if device.type == "cuda" and "rng.cuda" in tensors:
        own["rng.cuda"] = torch.cuda.get_rng_state(device)
    for name, now in own.items():
        then = tensors.get(name)
        if then is None or then.shape != now.shape or then.dtype != now.dtype:
            raise ValueError(f"{name} is not a state of this random generator")
        try:
            if name == "rng.cpu":
                torch.set_rng_state(then)
            else:
                torch.cuda.set_rng_state(then, device)
        except RuntimeError as error:
            raise ValueError(f"{name} is not a state of this random generator: {error}") from None


def seed_rank(seed: int, rank: int, step: int = 0) -> None:
    """Give the random generators of a rank beyond the first a state of its own, so that ranks draw
    different numbers for dropout and samples."""
    torch.manual_seed(int(np.random.SeedSequence([seed, rank, step]).generate_state(1)[0]))


@dataclass
class Resumed:
    """The state that a resumed training continues from.

    Attributes:
        folder: of the checkpoint.
        state: of the checkpoint.
        best_loss: of the best validation so far; infinite if there was none, or its weights are
            lost.
        best_is_damaged: whether best/ holds something that cannot be read.
        notes: messages for the user.
    """

    folder: Path
    state: dict[str, Any]
    best_loss: float = math.inf
    best_is_damaged: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The number of steps done."""
        return int(self.state["step"])


def resume(folder: Path, run: RunDir, stepper: Stepper) -> Resumed:
    """Restore the state at the time of the checkpoint. The run folder is only read.

    Raises:
        UserError: the checkpoint is damaged, or of another objective, model or data.
    """
    objective = stepper.objective
    state = restore(folder, objective, stepper.optimizer, stepper.window)
    stepper.done = state["step"]
    recipe = objective.recipe
    # `auto` precision was timed at the start; resuming keeps it so that the run stays bit-equal.
    asked = {recipe.train.precision, state["recipe"]["train"]["precision"]}
    if asked == {"auto"} and objective.device.type == "cpu" and cpu_bf16():
        objective.precision = state["precision"]
    resumed = Resumed(folder, state)
    if state["best_loss"] is not None:
        _find_best(resumed, run, same_recipe=state["recipe"] == recipe.model_dump(mode="json"))
    return resumed


def _find_best(resumed: Resumed, run: RunDir, *, same_recipe: bool) -> None:
    """Restore the best validation, if its weights exist."""
    try:
        best = checkpoint.read_state(run.best)
    except NotPermitted:
        raise
    except UserError as error:
        resumed.best_is_damaged = run.best.is_dir() and any(run.best.iterdir())
        resumed.notes.append(
            f"the best weights so far are lost ({error.where}: {error.what}); those of the "
            "best validation from now on are kept"
        )
        return
    # Best weights of a later step will be found again by the same recipe, and not by another one.
    if best["step"] <= resumed.step or same_recipe:
        resumed.best_loss = resumed.state["best_loss"]


def discard_later(resumed: Resumed, run: RunDir, keep_last: int) -> list[str]:
    """Delete checkpoints that are later than the one a run goes on from.

    Call it before the events are cut: then the events cover every checkpoint even if the process is
    killed in between.

    Returns:
        The deleted checkpoints, in words.
    """
    dropped = checkpoint.discard_after(run, resumed.step)
    if resumed.best_is_damaged:
        checkpoint.set_aside(run.best)
    checkpoint.prune(run, keep_last)
    return [f"later checkpoints were deleted: {', '.join(map(str, dropped))}"] if dropped else []
