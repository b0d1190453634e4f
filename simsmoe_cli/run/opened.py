"""A trained language model, opened to be used: weights, recipe, and the corpus it learned from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from simsmoe_cli.data.store import TokenStore, find_store, is_store
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.layer import portable
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run import checkpoint, weights
from simsmoe_cli.run.folder import RunDir


@dataclass(frozen=True)
class Trained:
    """A checkpoint of a language model.

    Attributes:
        run: it belongs to.
        asked_for: the checkpoint: "best", "last" or a step.
        folder: of the checkpoint, or best/.
        state: its state.
        recipe: it was trained with.
        store: a corpus prepared with its tokenizer: the one it was trained on, where that is found.
    """

    run: RunDir
    asked_for: str
    folder: Path
    state: dict[str, Any]
    recipe: Recipe
    store: TokenStore

    @property
    def context(self) -> StepContext:
        """How its routers route at the step of its weights."""
        return StepContext(step=self.state["step"], total_steps=self.recipe.train.steps)

    def model(
        self, device: torch.device, change: Callable[[Recipe], Recipe] = lambda recipe: recipe
    ) -> LanguageModel:
        """The model with its weights, in evaluation mode.

        Args:
            device: where to put it.
            change: what the recipe it is built from differs in; the weights must fit all the same.
        """
        recipe = change(portable(self.recipe, device))
        size = self.state["vocab_size"]
        model = weights.open_model(
            self.folder, self.state, lambda: LanguageModel(recipe, size), device
        )
        return model.eval()


def open_trained(run: RunDir, which: str, data_dir: Path) -> Trained:
    """A run's checkpoint and its vocabulary.

    Args:
        run: its folder.
        which: "best", "last" or a step.
        data_dir: where the corpus is looked for by name, before the place it had in training.

    Raises:
        UserError: no such checkpoint, a damaged one, one of a classifier, or no such vocabulary.
    """
    folder = checkpoint.find(run, which)
    state = checkpoint.read_state(folder)
    if "task" in state:
        raise UserError(
            "this run is a classifier, and a language model is needed",
            where=str(run.path),
            hint="Use the run it was fine-tuned from.",
        )
    recipe = checkpoint.recipe_of(folder, state)
    trained_on = Path(state["store"])
    by_name = is_store(data_dir / recipe.data.corpus) or not is_store(trained_on)
    store = TokenStore.open(find_store(recipe.data.corpus, data_dir) if by_name else trained_on)
    if store.manifest.vocabulary != state["vocabulary"]:
        raise UserError(
            "the corpus was prepared with another tokenizer or vocabulary than the run's",
            where=str(store.path),
            hint=f"Point --data-dir at the folder of the one it was trained on (then in "
            f"{trained_on.parent}).",
            code=EXIT_DATA,
        )
    return Trained(run, which, folder, state, recipe, store)
