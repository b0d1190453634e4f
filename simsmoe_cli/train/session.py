"""Training as the command line does: device, corpus, run folder, clear errors."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from simsmoe_cli import __version__
from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.store import TokenStore, find_store
from simsmoe_cli.errors import (
    EXIT_DATA,
    EXIT_OUT_OF_MEMORY,
    Terminated,
    UserError,
    is_out_of_memory,
)
from simsmoe_cli.files import atomic
from simsmoe_cli.files.untrusted import Unreadable, read_json
from simsmoe_cli.model.precision import resolve_precision
from simsmoe_cli.model.size import measure
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.allocator import keep_freed_memory
from simsmoe_cli.train.evaluate import Evaluation
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.objectives.base import S
from simsmoe_cli.train.objectives.classification import Classification, TaskEvaluation
from simsmoe_cli.train.objectives.language_modelling import LanguageModelling
from simsmoe_cli.train.plan_finetuning import FinetunePlan
from simsmoe_cli.train.plan_pretraining import Plan

# Of the memory of a device; the rest is for temporary tensors, which estimates leave out.
ROOM_TO_PLAN_WITH = 0.7


def choose_device(name: str) -> torch.device:
    """The device of a --device value; "auto" takes CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"unknown device '{name}'", where="--device", hint="Use auto, cpu or cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"no device '{name}' here", where="--device", hint="Use --device auto, or cpu."
        )
    return device


def open_store(
    recipe: Recipe, data_dir: Path, on_prepare: Callable[[str], None] | None = None
) -> TokenStore:
    """The prepared corpus of a recipe; pystdlib, which every machine has, is prepared if missing.

    Raises:
        UserError: not prepared, damaged, or prepared with another tokenizer.
    """
    name = recipe.data.corpus
    if name == "pystdlib" and not (data_dir / name).exists():
        if on_prepare is not None:
            on_prepare(f"preparing {name} in {data_dir / name}")
        prepare(name, data_dir / name, tokenizer=recipe.data.tokenizer)
    store = TokenStore.open(find_store(name, data_dir))
    kind = store.manifest.tokenizer
    if kind != recipe.data.tokenizer:
        raise UserError(
            f"the corpus was prepared with the tokenizer '{kind}', the recipe wants "
            f"'{recipe.data.tokenizer}'",
            where=str(store.path),
            hint=f"Use --set data.tokenizer={kind}, or prepare it again with --tokenizer "
            f"{recipe.data.tokenizer} and another --name.",
            code=EXIT_DATA,
        )
    return store


def train(
    plan: Plan,
    store: TokenStore,
    device: torch.device,
    *,
    subscriber: Callable[[dict[str, Any]], None] | None = None,
    on_step: Callable[[int], None] | None = None,
    profile: int = 0,
) -> Evaluation:
    """Pre-train as planned, in the locked run folder.

    Raises:
        UserError: see the exit codes in errors.py.
        signals.Stopped: stopped by a signal after saving.
    """

    def trainer(**settings: Any) -> Trainer[Evaluation]:
        return Trainer(
            LanguageModelling(plan.recipe, store, device),
            plan.run,
            resume_from=plan.resume_from,
            subscriber=subscriber,
            on_step=on_step,
            profile=profile,
            **settings,
        )

    vocabulary = store.manifest.vocab_size
    return _run(
        plan, device, trainer, lambda: micro_batches_that_fit(plan.recipe, vocabulary, device)
    )


def finetune(
    plan: FinetunePlan,
    device: torch.device,
    *,
    subscriber: Callable[[dict[str, Any]], None] | None = None,
    on_step: Callable[[int], None] | None = None,
    profile: int = 0,
) -> TaskEvaluation:
    """Fine-tune as planned, in the locked run folder.

    Raises:
        UserError: see the exit codes in errors.py.
        signals.Stopped: stopped by a signal after saving.
    """

    def trainer(**settings: Any) -> Trainer[TaskEvaluation]:
        objective = Classification(plan.recipe, plan.task, plan.vocabulary, device, plan.origin)
        if plan.pretrained is not None:
            objective.warnings += plan.pretrained.load_into(objective.model)
        return Trainer(
            objective,
            plan.run,
            resume_from=plan.resume_from,
            subscriber=subscriber,
            on_step=on_step,
            profile=profile,
            **settings,
        )

    return _run(plan, device, trainer)


def _run(
    plan: Plan | FinetunePlan,
    device: torch.device,
    make: Callable[..., Trainer[S]],
    what_fits: Callable[[], str] = str,
) -> S:
    """Make a trainer and let it train; a run that does not start leaves nothing behind.

    Args:
        what_fits: asked where memory ran out for settings that need less, in words.
    """
    run, recipe = plan.run, plan.recipe
    train = recipe.train
    hint = (
        f"Raise train.micro_batches (now {train.micro_batches}), or lower train.batch (now "
        f"{train.batch})"
    )
    if recipe.finetune.task:
        hint += f" or train.block (now {train.block})."
    else:
        hint += (
            f", train.block (now {train.block}), model.span (now {recipe.model.span}) or "
            f"model.width (now {recipe.model.width}); --dry-run estimates the memory."
        )
    notes = list(plan.notes)
    new = not run.path.exists()
    started = False

    def begin() -> None:
        atomic.write(run.recipe, dump_recipe(recipe))
        if isinstance(plan, FinetunePlan):
            plan.vocabulary.save(run)
        _record_session(run, device, plan.resume_from)

    keep_freed_memory(device)
    with (
        _clear_os_errors(run),
        clear_memory_errors(device, lambda: what_fits() + hint),
        run.locked(),
    ):
        if plan.resume_from is not None:
            notes += _unreadable_sessions(run)
        elif any(any(path.iterdir()) for _, path in checkpoint.step_folders(run)):
            # Of a run that lost its recipe and events, or that was saved after planning.
            raise UserError(
                "this run folder already holds checkpoints",
                where=str(run.checkpoints),
                hint="Go on with them by --resume auto, or choose another --name.",
            )
        try:
            trainer = make(new=new, on_begin=begin, notes=notes)
            started = True
            return trainer.train()
        except (KeyboardInterrupt, Terminated):
            started = started and trainer.started
            raise
        finally:
            if new and not started:
                shutil.rmtree(run.path, ignore_errors=True)


@contextlib.contextmanager
def clear_memory_errors(device: torch.device, hint: str | Callable[[], str]) -> Iterator[None]:
    """Turn running out of memory, however it shows, into one UserError.

    Args:
        hint: what to do; a function is called only when memory has run out.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        advice = hint if isinstance(hint, str) else hint()
        raise UserError(
            f"out of memory on {device}", hint=advice, code=EXIT_OUT_OF_MEMORY
        ) from error


def micro_batches_that_fit(recipe: Recipe, vocab_size: int, device: torch.device) -> str:
    """The fewest micro-batches a device has memory for, in words; empty if there are none, or if
    it is not known how much memory there is."""
    room = device_memory(device)
    if room is None:
        return ""
    train = recipe.train
    precision = resolve_precision(train.precision, device)
    more = range(train.micro_batches + 1, train.batch + 1)
    for micro_batches in (count for count in more if train.batch % count == 0):
        changed = train.model_copy(update={"micro_batches": micro_batches, "precision": precision})
        needed = measure(recipe.model_copy(update={"train": changed}), vocab_size).training_bytes
        if needed < ROOM_TO_PLAN_WITH * room:
            return (
                f"Use --set train.micro_batches={micro_batches}, which takes about "
                f"{needed / 2**30:.1f} of {room / 2**30:.1f} GiB. "
            )
    return ""


def device_memory(device: torch.device) -> int | None:
    """Bytes this process may take on a GPU, with what it has; None on other devices."""
    if device.type != "cuda":
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(index)
    allowed = int(total * torch.cuda.get_per_process_memory_fraction(index))
    return min(allowed, free + torch.cuda.memory_reserved(index))


@contextlib.contextmanager
def _clear_os_errors(run: RunDir) -> Iterator[None]:
    """Turn what the operating system refuses into one UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write the run: {error.strerror}",
            where=str(error.filename or run.path),
            hint="Free some space or move --runs-dir; --resume auto goes on from the last "
            "checkpoint.",
            code=EXIT_DATA,
        ) from error


def _sessions(run: RunDir) -> list[Any]:
    """What environment.json has of earlier sessions; Unreadable where it cannot be read."""
    try:
        content = read_json(run.environment)
    except FileNotFoundError:
        return []
    sessions = content.get("sessions", []) if isinstance(content, dict) else None
    if not isinstance(sessions, list):
        raise Unreadable("holds no sessions")
    return sessions


def _unreadable_sessions(run: RunDir) -> list[str]:
    """What to say of an environment.json that cannot be read. It only informs."""
    try:
        _sessions(run)
    except Unreadable as error:
        return [f"{run.environment.name} {error}; it is kept aside, and training goes on"]
    return []


def _record_session(run: RunDir, device: torch.device, resume_from: Path | None) -> None:
    """Add this process to environment.json."""
    sessions = []
    if resume_from is not None:
        try:
            sessions = _sessions(run)
        except Unreadable:
            with contextlib.suppress(OSError):
                checkpoint.set_aside(run.environment)
    sessions.append(
        {
            "time": time.time(),
            "command": sys.argv,
            "resumed_from": resume_from.name if resume_from else None,
            "simsmoe": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "pid": os.getpid(),
        }
    )
    atomic.write(run.environment, json.dumps({"sessions": sessions}, indent=1))


def be_deterministic() -> None:
    """Only algorithms that repeat bit for bit; an operation without one raises."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
