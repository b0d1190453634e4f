"""Run folders with untrained weights, as training writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from simsmoe_cli.collapse.sources.open_run import open_run
from simsmoe_cli.collapse.sources.run import CorpusSource
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run import save_checkpoint
from simsmoe_cli.run.folder import RunDir
from tests.train.tiny import recipe as tiny

RELATIVE: dict[str, Any] = {"attention": "relative", "span": 64, "norm_position": "post"}


def write_run(
    folder: Path,
    store: TokenStore,
    steps: tuple[int, ...] = (4,),
    best: int | None = 4,
    recipe: Recipe | None = None,
    **state: Any,
) -> RunDir:
    """A run of the tiny recipe with checkpoints of these steps, each with weights of its own."""
    run, recipe = RunDir(folder), recipe or tiny()
    identity = {
        "recipe": recipe.model_dump(mode="json"),
        "vocab_size": store.manifest.vocab_size,
        "unit": store.manifest.unit,
        "corpus": store.manifest.fingerprint,
        "vocabulary": store.manifest.vocabulary,
        "store": str(store.path),
        "events_bytes": 0,
        "precision": "fp32",
    }
    for step in {*steps, *([] if best is None else [best])}:
        torch.manual_seed(step)
        model = LanguageModel(recipe, store.manifest.vocab_size)
        if step in steps:
            save_checkpoint.save(run, step, model, {"x": torch.zeros(1)}, identity | state)
        if step == best:
            save_checkpoint.save_best(run, step, model, identity | state)
    folder.mkdir(parents=True, exist_ok=True)
    run.recipe.write_text(dump_recipe(recipe))
    return run


def opened(run: RunDir, store: TokenStore, which: str = "best", **options: Any) -> CorpusSource:
    """The run as `open_run` opens it, with its corpus in place."""
    source = open_run(run, which, data_dir=store.path.parent, device=torch.device("cpu"), **options)
    assert isinstance(source, CorpusSource)
    return source
