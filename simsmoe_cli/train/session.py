"""Carries out a plan of the command line: opens the data, locks the run folder, and trains."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.io.download import Progress
from simsmoe_cli.data.store import TokenStore, find_store
from simsmoe_cli.errors import DataError, Terminated, UserError
from simsmoe_cli.files import atomic
from simsmoe_cli.huggingface.save import keep_tokenizer
from simsmoe_cli.model.classifier import Classifier
from simsmoe_cli.model.interface import TextClassifier, TextModel
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.parallel.launch import launch
from simsmoe_cli.parallel.world import ALONE, World
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.opened import OpenedRun
from simsmoe_cli.run.printed_log import PrintedLog
from simsmoe_cli.train.allocator import keep_freed_memory
from simsmoe_cli.train.classify import TaskEvaluation
from simsmoe_cli.train.device import clear_memory_errors, micro_batches_that_fit
from simsmoe_cli.train.environment import record_session, unreadable_sessions
from simsmoe_cli.train.evaluate import Evaluation
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.objectives.base import Objective, S
from simsmoe_cli.train.objectives.classification import Classification
from simsmoe_cli.train.objectives.language_modelling import LanguageModelling
from simsmoe_cli.train.plan_finetuning import FinetunePlan
from simsmoe_cli.train.plan_pretraining import Plan
from simsmoe_cli.train.pretrained import Pretrained
from simsmoe_cli.train.pretrained_folder import PretrainedFolder
from simsmoe_cli.train.together import members, remember


def open_store(
    recipe: Recipe,
    data_dir: Path,
    on_prepare: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> TokenStore:
    """The prepared corpus of a recipe; pystdlib, which every machine has, is prepared if missing.

    Args:
        recipe, data_dir: which corpus, and where it is looked for.
        on_prepare: told that it is prepared.
        progress: told how far the preparation is; see `prepare`.

    Raises:
        UserError: not prepared, damaged, or prepared with another tokenizer.
    """
    name = recipe.data.corpus
    if name == "pystdlib" and not (data_dir / name).exists():
        if on_prepare is not None:
            on_prepare(f"preparing {name} in {data_dir / name}")
        tokenizer = recipe.huggingface.folder or recipe.data.tokenizer
        prepare(name, data_dir / name, tokenizer=tokenizer, on_progress=progress)
    store = TokenStore.open(find_store(name, data_dir))
    kind = store.manifest.tokenizer
    if kind != recipe.data.tokenizer:
        wanted = recipe.data.tokenizer
        raise DataError(
            f"the corpus was prepared with the tokenizer '{kind}', the recipe wants '{wanted}'",
            where=str(store.path),
            hint=f"Use --set data.tokenizer={kind}, or prepare it again with --tokenizer "
            f"{recipe.huggingface.folder or 'FOLDER' if wanted == 'huggingface' else wanted} and "
            "another --name.",
        )
    if recipe.data.attend_within_documents and store.manifest.end_id is None:
        raise DataError(
            "the corpus has no documents, and data.attend_within_documents needs some",
            where=str(store.path),
            hint="Prepare it from JSON lines or parquet, or with --documents; or set the field to "
            "false.",
        )
    return store


def open_corpus(
    plan: Plan,
    data_dir: Path,
    on_prepare: Callable[[str], None] | None = None,
    world: World = ALONE,
    progress: Progress | None = None,
) -> TokenStore:
    """The corpus to train on: that of the recipe, or for a resumed run the same corpus as before.

    The first rank of each machine opens it first, since opening may prepare it.

    Raises:
        UserError: see `open_store` and `OpenedRun.corpus`.
    """
    others_wait = launch().local_rank == 0
    if not others_wait:
        world.wait()
    try:
        return _open_corpus(plan, data_dir, on_prepare, progress)
    finally:
        if others_wait:
            world.wait()


def _open_corpus(
    plan: Plan,
    data_dir: Path,
    on_prepare: Callable[[str], None] | None,
    progress: Progress | None,
) -> TokenStore:
    if plan.resume_from is None or plan.state is None:
        store = open_store(plan.recipe, data_dir, on_prepare, progress)
        if plan.pretrained is not None:
            plan.pretrained.require_encoded(store)
        return store
    return OpenedRun(plan.run, "last", plan.resume_from, plan.state, plan.recipe, data_dir).corpus()


def train(
    plan: Plan,
    store: TokenStore,
    device: torch.device,
    world: World = ALONE,
    **watch: Any,
) -> Evaluation:
    """Pre-train as planned, in the locked run folder; all ranks call it.

    Args:
        watch: as of `_run`.

    Raises:
        UserError: see the exit codes in errors.py.
        signals.Stopped: stopped by a signal after saving.
    """
    recipe, vocab_size, start = plan.recipe, store.manifest.vocab_size, plan.pretrained

    def objective() -> LanguageModelling:
        make = None
        if isinstance(start, PretrainedFolder):
            folder = start

            def make() -> TextModel:
                return folder.language_model(recipe, vocab_size, device)

        made = LanguageModelling(recipe, store, device, make, world, plan.origin)
        if isinstance(start, Pretrained):
            assert isinstance(made.model, LanguageModel)
            made.warnings += start.load_into(made.model)
        return made

    return _run(
        plan,
        device,
        world,
        objective,
        lambda: micro_batches_that_fit(plan.recipe, vocab_size, device, world.size),
        **watch,
    )


def finetune(
    plan: FinetunePlan,
    device: torch.device,
    world: World = ALONE,
    **watch: Any,
) -> TaskEvaluation:
    """Fine-tune as planned, in the locked run folder; takes and raises what `train` does."""

    recipe, start = plan.recipe, plan.pretrained
    vocabulary, classes = plan.vocabulary, len(plan.task.labels)

    def objective() -> Classification:
        make = None
        if isinstance(start, PretrainedFolder):
            folder = start

            def make() -> TextClassifier:
                return folder.classifier(recipe, vocabulary.size, classes, device)

        made = Classification(recipe, plan.task, vocabulary, device, plan.origin, make, world)
        if isinstance(start, Pretrained):
            assert isinstance(made.model, Classifier)
            made.warnings += start.load_into(made.model)
        made.warnings += made.model.remarks()
        return made

    return _run(plan, device, world, objective, **watch)


def _run(
    plan: Plan | FinetunePlan,
    device: torch.device,
    world: World,
    make: Callable[[], Objective[S]],
    what_fits: Callable[[], str] = str,
    *,
    on_ready: Callable[[Objective[Any], int], None] | None = None,
    **watch: Any,
) -> S:
    """Train in the locked run folder; a run that does not start leaves nothing behind.

    Args:
        world: the ranks that train together, of which the first holds the folder.
        make: builds the objective, with its model.
        what_fits: called when memory has run out; settings that need less, in words.
        on_ready: called with the objective and the number of steps done, before the first step.
        watch: subscriber, on_step, on_part and profile of the `Trainer`.
    """
    run, recipe = plan.run, plan.recipe
    notes = list(plan.notes)
    new = not run.path.exists()
    started = False

    printed = PrintedLog(run.printed)

    def begin() -> None:
        going_on = f", resumed from {plan.resume_from.name}" if plan.resume_from else ""
        printed.start(shlex.join(["simsmoe", *sys.argv[1:]]) + going_on)
        atomic.write(run.recipe, dump_recipe(recipe))
        if isinstance(plan, FinetunePlan):
            plan.vocabulary.save(run)
        if isinstance(plan.pretrained, PretrainedFolder):
            keep_tokenizer(plan.pretrained.files.path, run)
        record_session(run, device, plan.resume_from, members(world))

    keep_freed_memory(device)
    with (
        _clear_os_errors(run),
        clear_memory_errors(device, lambda: what_fits() + _what_takes_memory(recipe)),
        run.locked() if world.first else contextlib.nullcontext(),
    ):
        remember(world, run)
        if plan.resume_from is not None:
            notes += unreadable_sessions(run)
        elif world.first and any(any(path.iterdir()) for _, path in checkpoint.step_folders(run)):
            # Of a run that lost its recipe and events, or that was saved after planning.
            raise UserError(
                "this run folder already holds checkpoints",
                where=str(run.checkpoints),
                hint="Go on with them by --resume auto, or choose another --name.",
            )
        try:
            trainer = Trainer(
                make(),
                run,
                resume_from=plan.resume_from,
                new=new,
                on_begin=begin,
                notes=notes,
                **watch,
            )
            if on_ready is not None:
                on_ready(trainer.objective, trainer.steps_done)
            started = True
            return trainer.train()
        except (KeyboardInterrupt, Terminated):
            started = started and trainer.started
            raise
        except Exception as error:
            printed.add_error(error)
            raise
        finally:
            printed.close()
            if new and world.first and not started:
                shutil.rmtree(run.path, ignore_errors=True)


def _what_takes_memory(recipe: Recipe) -> str:
    """Advice for a recipe that needs too much memory."""
    train, model = recipe.train, recipe.model
    hint = (
        f"Raise train.micro_batches (now {train.micro_batches}), or lower train.batch (now "
        f"{train.batch})"
    )
    if recipe.finetune.task or recipe.huggingface.used:
        return f"{hint} or train.block (now {train.block})."
    return (
        f"{hint}, train.block (now {train.block}), model.span (now {model.span}) or model.width "
        f"(now {model.width}); --dry-run estimates the memory."
    )


@contextlib.contextmanager
def _clear_os_errors(run: RunDir) -> Iterator[None]:
    """Turn an OSError into one UserError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write the run: {error.strerror}",
            where=str(error.filename or run.path),
            hint="Free some space or move --runs-dir; --resume auto continues from the last "
            "checkpoint.",
        ) from error
