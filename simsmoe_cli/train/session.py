"""From a recipe to a run: where it lives, what it resumes from, and what it says when it fails.

Everything a caller may get wrong is checked here, before the first step.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from simsmoe_cli import __version__
from simsmoe_cli.data.prepare import prepare
from simsmoe_cli.data.store import TokenStore, find_store
from simsmoe_cli.errors import EXIT_DATA, EXIT_OUT_OF_MEMORY, UserError, nearest
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.routers.base import RouteContext
from simsmoe_cli.recipe import Recipe
from simsmoe_cli.recipe_loading import dump_recipe, load_recipe
from simsmoe_cli.rundir import RunDir
from simsmoe_cli.train import checkpoint
from simsmoe_cli.train.evaluate import Evaluation, evaluate_split
from simsmoe_cli.train.loop import Trainer, resolve_precision

# Fields a resumed run may change: they say how long and how often, not what is computed.
FREE_ON_RESUME = (
    "description",
    "source",
    "train.steps",
    "train.log_every",
    "train.validate_every",
    "train.validate_blocks",
    "train.checkpoint_every",
    "train.keep_last",
    "train.probe_every",
    "train.compile",
    "moe.backend",
    "eval",
)


@dataclass(frozen=True)
class Plan:
    """What `train` will do.

    Attributes:
        recipe: resolved.
        run: the run folder; new, or the one to go on with.
        resume_from: the checkpoint folder to go on from; None starts at step 0.
    """

    recipe: Recipe
    run: RunDir
    resume_from: Path | None


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


def plan_training(
    recipe_name: str | None,
    overrides: Sequence[str],
    runs_dir: Path,
    name: str | None = None,
    resume: str | None = None,
) -> Plan:
    """Decide recipe, run folder and starting point.

    Args:
        recipe_name: name or path; None takes the resumed run's, or quickstart.
        overrides: "a.b=c" settings, later ones win.
        runs_dir: where run folders lie.
        name: of the run folder; None makes one from the recipe.
        resume: None, "auto" (this name's newest run, if it has a checkpoint), or the path of a
            run or checkpoint folder.
    """
    if resume is not None and resume != "auto":
        folder = Path(resume)
        run = RunDir(folder.parent.parent if folder.parent.name == "checkpoints" else folder)
        start = folder if run.path != folder else checkpoint.find(run, "last")
        return Plan(_resumed_recipe(run, start, recipe_name, overrides), run, start)
    if resume == "auto" and name is not None and recipe_name is None:
        run = RunDir(runs_dir / name)
        if run.recipe.is_file():
            recipe_name = str(run.recipe)
    recipe = load_recipe(recipe_name or "quickstart", overrides)
    base = name or f"{recipe.name}-{recipe.moe.router}-{recipe.similarity.preset}"
    if resume == "auto":
        existing = [RunDir(runs_dir / base)] if name else _numbered(runs_dir, base)
        for run in reversed(existing):
            saved = checkpoint.list_checkpoints(run)
            if saved:
                start = saved[-1][1]
                return Plan(_resumed_recipe(run, start, recipe_name, overrides), run, start)
            if run.path.exists():
                return Plan(recipe, run, None)
        return Plan(recipe, RunDir(runs_dir / base), None)
    if name is None:
        return Plan(recipe, _fresh(runs_dir, base), None)
    run = RunDir(runs_dir / name)
    if run.recipe.exists() or run.events.exists():
        raise UserError(
            "this run folder already holds a run",
            where=str(run.path),
            hint="Go on with it by --resume auto, or choose another --name.",
        )
    return Plan(recipe, run, None)


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
        loop.Stopped: stopped by a signal after saving.
    """
    run, recipe = plan.run, plan.recipe
    try:
        with run.locked():
            run.recipe.write_text(dump_recipe(recipe))
            _record_session(run, device, plan.resume_from)
            trainer = Trainer(
                recipe,
                store,
                run,
                device,
                resume_from=plan.resume_from,
                subscriber=subscriber,
                on_step=on_step,
            )
            return trainer.train()
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise _out_of_memory(recipe, device) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG):
            raise
        raise UserError(
            f"cannot write the run: {error.strerror}",
            where=str(run.path),
            hint="Free some space or move --runs-dir; --resume auto goes on from the last "
            "checkpoint.",
            code=EXIT_DATA,
        ) from error


def _numbered(runs_dir: Path, base: str) -> list[RunDir]:
    """base, base-2, base-3 ... as far as they exist, oldest first."""
    found = [runs_dir / base, *runs_dir.glob(f"{base}-*")]
    numbers = {
        int(path.name.removeprefix(base).lstrip("-") or 1): path
        for path in found
        if path.is_dir() and (path.name.removeprefix(f"{base}-").isdigit() or path.name == base)
    }
    return [RunDir(numbers[number]) for number in sorted(numbers)]


def _fresh(runs_dir: Path, base: str) -> RunDir:
    number = 1
    while (path := runs_dir / (base if number == 1 else f"{base}-{number}")).exists():
        number += 1
    return RunDir(path)


def _resumed_recipe(
    run: RunDir, start: Path, recipe_name: str | None, overrides: Sequence[str]
) -> Recipe:
    """The recipe to go on with; what is computed must be what was computed."""
    before = checkpoint.recipe_of(checkpoint.read_state(start))
    recipe = load_recipe(recipe_name or str(run.recipe), overrides)
    changed = [
        f"{path} ({old!r} -> {new!r})"
        for path, old, new in _differences(before.model_dump(), recipe.model_dump())
        if not any(path == free or path.startswith(f"{free}.") for free in FREE_ON_RESUME)
    ]
    if changed:
        raise UserError(
            f"a resumed run cannot change {', '.join(changed)}",
            where=str(run.path),
            hint="Start a new run with another --name, or resume with the settings of the run.",
        )
    return recipe


def _differences(
    old: dict[str, Any], new: dict[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    for key, value in old.items():
        if isinstance(value, dict):
            found += _differences(value, new[key], f"{prefix}{key}.")
        elif value != new[key]:
            found.append((prefix + key, value, new[key]))
    return found


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
    partial = run.path / ".environment.partial"
    partial.write_text(json.dumps({"sessions": sessions}, indent=1))
    partial.replace(run.environment)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "not enough memory" in str(error) or "can't allocate memory" in str(error)


def _out_of_memory(recipe: Recipe, device: torch.device) -> UserError:
    train = recipe.train
    return UserError(
        f"out of memory on {device}",
        hint=f"Raise train.micro_batches (now {train.micro_batches}), or lower train.batch (now "
        f"{train.batch}), train.block (now {train.block}), model.span (now {recipe.model.span}) "
        f"or model.width (now {recipe.model.width}); --dry-run estimates the memory.",
        code=EXIT_OUT_OF_MEMORY,
    )


def be_deterministic() -> None:
    """Only algorithms that repeat bit for bit; an operation without one raises."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def find_run(run: Path, runs_dir: Path) -> RunDir:
    """The run folder of a path, or of a name under `runs_dir`.

    Raises:
        UserError: neither exists; names the nearest.
    """
    for path in (run, runs_dir / run):
        if path.is_dir():
            return RunDir(path)
    known = [path.parent.name for path in runs_dir.glob("*/recipe.yaml")]
    raise UserError(
        f"no run '{run}'", where=str(runs_dir), hint=nearest(str(run), known), code=EXIT_DATA
    )


def evaluate_run(
    run: RunDir,
    *,
    split: str,
    which: str,
    store_path: Path | None,
    data_dir: Path,
    device: torch.device,
) -> dict[str, Any]:
    """Evaluate a run's weights on a whole split.

    Args:
        run, which: the run and its checkpoint: "best", "last" or a step.
        split: of the run's corpus.
        store_path: another prepared corpus; its tokenizer must be the run's.
        data_dir: where the run's corpus is looked for by name.
        device: where to compute.

    Returns:
        run, checkpoint, step, corpus, unit, and the fields of an eval event.
    """
    folder = checkpoint.find(run, which)
    state = checkpoint.read_state(folder)
    recipe = checkpoint.recipe_of(state)
    if store_path is not None:
        store = TokenStore.open(find_store(str(store_path), data_dir))
    else:
        store = open_store(recipe, data_dir)
    if store.manifest.vocabulary != state["vocabulary"]:
        raise UserError(
            "the corpus was prepared with another tokenizer or vocabulary than the run's",
            where=str(store.path),
            hint=f"Prepare it with --vocab-from {state['store']}.",
            code=EXIT_DATA,
        )
    if split not in store.manifest.splits:
        raise UserError(
            f"no split '{split}'", where="--split", hint=nearest(split, store.manifest.splits)
        )
    model = LanguageModel(recipe, state["vocab_size"]).to(device)
    checkpoint.load_weights(folder, state, model)
    precision = resolve_precision(recipe.train.precision, device)
    result = evaluate_split(
        model,
        store.split(split),
        block=recipe.train.block,
        streams=recipe.eval.streams,
        overlap=recipe.eval.overlap,
        precision=precision,
        context=RouteContext(step=state["step"], total_steps=recipe.train.steps),
    )
    return {
        "run": run.name,
        "checkpoint": which,
        "step": state["step"],
        "corpus": store.manifest.name,
        "unit": store.manifest.unit,
        **result.event_fields(split, store.manifest.unit),
    }
