"""What ranks do in the tests of runs: train, go on from checkpoints, and look at what they hold."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import UserError
from simsmoe_cli.parallel.launch import Launch
from simsmoe_cli.parallel.sharded import OwnShare, whole
from simsmoe_cli.parallel.world import ALONE, World, join
from simsmoe_cli.recipe.parallel import Layout
from simsmoe_cli.run import save_checkpoint
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.weights import optimizer_tensors
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.objectives.language_modelling import LanguageModelling
from tests.train.tiny import recipe

# With what a checkpoint may hold: carried memory, draws of dropout, an open log window.
CHANGES: dict[str, dict[str, Any]] = {
    "model": {"attention": "relative", "span": 16, "norm_position": "post", "dropout": 0.1},
    "moe": {"router": "loss-free"},
    "train": {"batch": 6, "micro_batches": 1, "log_every": 3},
}


def trainer(corpus: Path, run: RunDir, world: World, start: Path | None = None) -> Trainer:
    made = recipe(**CHANGES)
    objective = LanguageModelling(made, TokenStore.open(corpus), torch.device("cpu"), world=world)
    return Trainer(objective, run, resume_from=start)


def world_of(rank: int, size: int) -> World:
    """The ranks of a test, all of which hold one copy of the model between them."""
    if size == 1:
        return ALONE
    return join(Launch(rank, size, rank, size), torch.device("cpu"), Layout(1, size, 1), 120)


def train(rank: int, size: int, corpus: Path, path: Path, start: Path | None = None) -> None:
    """Train a run to its end, from its beginning or from a checkpoint."""
    trainer(corpus, RunDir(path), world_of(rank, size), start).train()


def train_on_a_full_disk(rank: int, size: int, corpus: Path, path: Path) -> dict[str, Tensor]:
    """What a rank says, as a name, where the last rank has no room for its part of a checkpoint."""

    def full(share: OwnShare, file: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    made = trainer(corpus, RunDir(path), world_of(rank, size))
    if rank == size - 1:
        vars(save_checkpoint)["save_share"] = full
    try:
        made.train()
    except UserError as error:
        return {str(error): torch.zeros(0)}
    return {}


def held(rank: int, size: int, corpus: Path, path: Path, start: Path) -> dict[str, Tensor]:
    """Weights, buffers, optimizer state and carried memory of a training that goes on, whole."""
    made = trainer(corpus, RunDir(path), world_of(rank, size), start)
    tensors = dict(made.model.state_dict())
    tensors |= optimizer_tensors(made.model, made.stepper.optimizer)
    tensors |= made.objective.carried()
    return {name: whole(tensor.detach()).clone() for name, tensor in tensors.items()}
