"""The common part of `simsmoe pretrain` and `simsmoe finetune`: runs a plan and shows its
progress."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import typer

from simsmoe_cli.cli.options import DATA_DIR, shell
from simsmoe_cli.cli.progress import TrainingView

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from simsmoe_cli.parallel.world import World
    from simsmoe_cli.recipe.schema import Recipe
    from simsmoe_cli.train.plan_finetuning import FinetunePlan
    from simsmoe_cli.train.plan_pretraining import Plan

S = TypeVar("S")


class Where(NamedTuple):
    """The options --runs-dir, --name and --resume."""

    runs_dir: Path
    name: str | None
    resume: str | None


def ready_device(recipe: Recipe, name: str, *, deterministic: bool) -> torch.device:
    """The device of --device, set up to train a recipe.

    Raises:
        UserError: there is no such device, or the recipe's experts do not run on it.
    """
    from simsmoe_cli.moe.layer import expert_backend
    from simsmoe_cli.parallel.launch import launch
    from simsmoe_cli.train.device import be_deterministic, choose_device

    device = choose_device(name, launch())
    expert_backend(recipe).require(device)
    if deterministic:
        be_deterministic()
    return device


def restarted(runs_dir: Path, name: str | None, resume: str | None) -> Where:
    """Where to train: as asked, or in the run of an earlier attempt if torchrun starts all
    processes again after a failure.

    Args:
        runs_dir, name, resume: of the command line.
    """
    from simsmoe_cli.train.together import to_go_on_with

    path = to_go_on_with()
    if path is not None:
        return Where(path.parent, path.name, "auto")
    return Where(runs_dir, name, resume)


def carry_out(
    command: str,
    plan: Plan | FinetunePlan,
    device: torch.device,
    world: World,
    screen: Console,
    *,
    doing: str,
    vocab_size: int,
    train: Callable[[TrainingView], S],
    summary: Callable[[S], str],
    longer: str,
    data_dir: Path,
    log: Sequence[str] = (),
    as_json: bool,
) -> None:
    """Train as planned; show the progress, the result and the next steps.

    Args:
        command: "pretrain" or "finetune".
        world: the ranks that train; the first shows the progress.
        doing: the activity in words, such as "training quickstart".
        train: does the training and reports to the view.
        summary: the result in one line.
        longer: the setting that trains for twice as long, such as "train.steps=200".
        log: trackers that get the events too.
        as_json: print events as JSON lines, and nothing else on stdout.

    Raises:
        typer.Exit: it was stopped by a signal, and saved.
    """
    from simsmoe_cli.loggers.subscriber import Loggers
    from simsmoe_cli.model.precision import device_in_words
    from simsmoe_cli.model.size import memory_of, require_possible
    from simsmoe_cli.train.signals import Stopped

    recipe, run = plan.recipe, plan.run.path
    # Weights and moments are divided among the GPUs of a shard; ranks on a CPU share its memory.
    parts = world.layout.shard if device.type == "cuda" else 1
    require_possible(recipe, vocab_size, parts * memory_of(device))
    start = device_in_words(recipe.train.precision, device)
    if not world.alone:
        start = f"{world.size} processes, each on {start}"
    if plan.resume_from is not None:
        start = f"{device}, from {plan.resume_from.name}"
    screen.print(f"{doing} in {run} on {start}", soft_wrap=True)
    elsewhere = () if data_dir == DATA_DIR else ("--data-dir", data_dir)
    go_on = ("simsmoe", command, *elsewhere, "--resume", run)
    say = partial(screen.print, soft_wrap=True)
    loggers = Loggers(log, plan.run, recipe.model_dump(mode="json"), say)
    view = TrainingView(screen, recipe.train.steps, run=plan.run, loggers=loggers, as_json=as_json)
    try:
        with contextlib.closing(loggers), view:
            result = train(view)
    except Stopped as stop:
        if stop.step < recipe.train.steps:
            done = f"stopped at step {stop.step} and saved; continue with: {shell(*go_on)}"
        else:
            test = shell("simsmoe", "eval", run, *elsewhere)
            done = f"trained and saved, not tested; test it with: {test}"
        screen.print(done, soft_wrap=True)
        raise typer.Exit(stop.code) from None
    if as_json or not world.first:
        return
    screen.print(f"\n{summary(result)}")
    screen.print(
        "\ntry next:",
        f"  {shell('simsmoe', 'eval', run, *elsewhere)}",
        f"  {shell(*go_on, '--set', longer)}",
        sep="\n",
        soft_wrap=True,
    )
