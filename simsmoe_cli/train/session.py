"""Training and evaluating as the command line does: device, corpus, run folder, clear errors."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from simsmoe_cli import __version__
from simsmoe_cli.data.prepare import prepare
from simsmoe_cli.data.store import TokenStore, find_store, is_store
from simsmoe_cli.errors import EXIT_DATA, EXIT_OUT_OF_MEMORY, UserError, nearest
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.layer import portable
from simsmoe_cli.moe.routers.base import RouteContext
from simsmoe_cli.recipe import Recipe
from simsmoe_cli.recipe_loading import dump_recipe
from simsmoe_cli.rundir import RunDir
from simsmoe_cli.train import checkpoint
from simsmoe_cli.train.evaluate import Evaluation, evaluate_split, resolve_precision
from simsmoe_cli.train.language_modelling import LanguageModelling
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.planning import Plan


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
) -> Evaluation:
    """Train as planned, in the locked run folder.

    Raises:
        UserError: see the exit codes in errors.py.
        signals.Stopped: stopped by a signal after saving.
    """
    run, recipe = plan.run, plan.recipe
    train = recipe.train
    hint = (
        f"Raise train.micro_batches (now {train.micro_batches}), or lower train.batch (now "
        f"{train.batch}), train.block (now {train.block}), model.span (now {recipe.model.span}) "
        f"or model.width (now {recipe.model.width}); --dry-run estimates the memory."
    )
    new = not run.path.exists()
    with _clear_os_errors(run), clear_memory_errors(device, hint), run.locked():
        try:
            trainer = Trainer(
                LanguageModelling(recipe, store, device),
                run,
                resume_from=plan.resume_from,
                subscriber=subscriber,
                on_step=on_step,
            )
            _write(run.recipe, dump_recipe(recipe))
            _record_session(run, device, plan.resume_from)
        except BaseException:
            if new:
                shutil.rmtree(run.path, ignore_errors=True)
            raise
        return trainer.train()


@contextlib.contextmanager
def clear_memory_errors(device: torch.device, hint: str) -> Iterator[None]:
    """Turn running out of memory, however it shows, into one UserError."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not _is_out_of_memory(error):
            raise
        raise UserError(f"out of memory on {device}", hint=hint, code=EXIT_OUT_OF_MEMORY) from error


@contextlib.contextmanager
def _clear_os_errors(run: RunDir) -> Iterator[None]:
    """Turn what the operating system refuses into one UserError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(
            f"cannot write the run: {error.strerror}",
            where=str(error.filename or run.path),
            hint="Free some space or move --runs-dir; --resume auto goes on from the last "
            "checkpoint.",
            code=EXIT_DATA,
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    phrases = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
    return any(phrase in str(error) for phrase in phrases)


def _record_session(run: RunDir, device: torch.device, resume_from: Path | None) -> None:
    """Add this process to environment.json."""
    sessions = []
    if resume_from is not None and run.environment.is_file():
        sessions = json.loads(run.environment.read_bytes()).get("sessions", [])
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
    _write(run.environment, json.dumps({"sessions": sessions}, indent=1))


def _write(path: Path, text: str) -> None:
    """Replace a file, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def be_deterministic() -> None:
    """Only algorithms that repeat bit for bit; an operation without one raises."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def evaluate_run(
    run: RunDir,
    *,
    split: str,
    which: str,
    store_path: Path | None,
    data_dir: Path,
    device: torch.device,
    top_k: int | None = None,
) -> dict[str, Any]:
    """Evaluate a run's weights on a whole split.

    Args:
        run, which: the run and its checkpoint: "best", "last" or a step.
        split: of the run's corpus.
        store_path: another prepared corpus; its tokenizer must be the run's.
        data_dir: where the run's corpus is looked for by name, before the place it had in training.
        device: where to compute.
        top_k: experts per token; None takes the router's own.

    Returns:
        run, checkpoint, step, corpus, unit, top_k, and the fields of an eval event.
    """
    folder = checkpoint.find(run, which)
    state = checkpoint.read_state(folder)
    recipe = checkpoint.recipe_of(folder, state)
    _check_top_k(top_k, recipe)
    if store_path is not None:
        store = TokenStore.open(find_store(str(store_path), data_dir))
    else:
        trained_on = Path(state["store"])
        by_name = is_store(data_dir / recipe.data.corpus) or not is_store(trained_on)
        store = open_store(recipe, data_dir) if by_name else TokenStore.open(trained_on)
        if store.manifest.fingerprint != state["corpus"]:
            raise UserError(
                "the prepared corpus is not the one this run was trained on",
                where=str(store.path),
                hint=f"To evaluate on it all the same: --data {shlex.quote(str(store.path))}",
                code=EXIT_DATA,
            )
    if store.manifest.vocabulary != state["vocabulary"]:
        raise UserError(
            "the corpus was prepared with another tokenizer or vocabulary than the run's",
            where=str(store.path),
            hint="Prepare it with the run's: simsmoe prepare-data PATH --vocab-from "
            f"{shlex.quote(state['store'])}",
            code=EXIT_DATA,
        )
    if split not in store.manifest.splits:
        raise UserError(
            f"no split '{split}'", where="--split", hint=nearest(split, store.manifest.splits)
        )
    with clear_memory_errors(device, "Use --device cpu, or a machine with more memory."):
        model = LanguageModel(portable(recipe, device), state["vocab_size"]).to(device)
        checkpoint.load_weights(folder, state, model)
        result = evaluate_split(
            model,
            store.split(split),
            block=recipe.train.block,
            streams=recipe.eval.streams,
            overlap=recipe.eval.overlap,
            precision=resolve_precision(recipe.train.precision, device),
            context=RouteContext(step=state["step"], total_steps=recipe.train.steps, top_k=top_k),
        )
    return {
        "run": run.name,
        "checkpoint": which,
        "step": state["step"],
        "corpus": store.manifest.name,
        "unit": store.manifest.unit,
        "top_k": top_k,
        **result.event_fields(split, store.manifest),
    }


def _check_top_k(top_k: int | None, recipe: Recipe) -> None:
    """Raise a UserError unless a token of this model can go to so many experts."""
    if top_k is None:
        return
    if "g" not in recipe.model.pattern:
        raise UserError("this model has no experts", where="--top-k", hint="Leave it out.")
    if not 1 <= top_k <= recipe.moe.experts:
        raise UserError(
            f"a token cannot go to {top_k} of {recipe.moe.experts} experts",
            where="--top-k",
            hint=f"Use 1 to {recipe.moe.experts}.",
        )
