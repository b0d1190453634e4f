"""A run folder with weights that were drawn, not trained, for tests of what is done with them."""

from __future__ import annotations

from pathlib import Path

import torch

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run import save_checkpoint
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.opened import OpenedRun, open_language_model


def drawn_run(path: Path, recipe: Recipe, store: TokenStore) -> OpenedRun:
    """A run whose best weights are large enough that every part of the model matters."""
    torch.manual_seed(0)
    model = LanguageModel(recipe, store.manifest.vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.3)
    state = {
        "recipe": recipe.model_dump(mode="json"),
        "vocab_size": store.manifest.vocab_size,
        "unit": store.manifest.unit,
        "corpus": store.manifest.fingerprint,
        "vocabulary": store.manifest.vocabulary,
        "store": str(store.path.resolve()),
    }
    run = RunDir(path)
    save_checkpoint.save_best(run, 3, model, state)
    return open_language_model(run, "best", path.parent)
