"""A pre-trained run, as what fine-tuning starts from.

The embedding, position table and sub-layers are taken over with everything routers keep: tables,
biases, coefficients, the stage of StableMoE; a router that the recipe puts in its place starts
fresh. The output layer is left behind, and so are the sub-layers that the classifier does without.
Heads and pair counts of similarity learning are taken over where the new settings have the same,
and start fresh otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from simsmoe_cli.data.store import TokenStore, find_store, is_store
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.model.classifier import Classifier
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.recipe.routers import section_name
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run import checkpoint, weights
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.vocabulary import Vocabulary

HEAD, SIMILARITY, ROUTER = "classifier.", ".similarity.", ".moe.router."


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint of a language model.

    Attributes:
        run: it belongs to.
        folder: of the checkpoint, or best/.
        state: its state.
        recipe: it was trained with.
    """

    run: RunDir
    folder: Path
    state: Mapping[str, Any]
    recipe: Recipe

    @classmethod
    def open(cls, run: RunDir, which: str) -> Pretrained:
        """The checkpoint "best", "last" or of a step.

        Raises:
            UserError: there is none, it is damaged, or it is of a classifier.
        """
        folder = checkpoint.find(run, which)
        state = checkpoint.read_state(folder)
        if "task" in state:
            raise UserError(
                f"this run is fine-tuned already, on {state['task']['name']}",
                where=str(run.path),
                hint=f"Start from the run it came from: {state['pretrained']['run']}.",
            )
        recipe = checkpoint.recipe_of(folder, state)
        file = folder / checkpoint.weights_name(state)
        weights.require_model(file, lambda: LanguageModel(recipe, state["vocab_size"]))
        return cls(run, folder, state, recipe)

    @property
    def weights(self) -> str:
        """Name of the file with the weights."""
        return checkpoint.weights_name(self.state)

    def identity(self) -> dict[str, Any]:
        """What a fine-tuned run remembers of it."""
        return {
            "run": self.run.name,
            "step": self.state["step"],
            "sha256": self.state["sha256"][self.weights],
        }

    def settings(self, *, keep_router: bool = True) -> dict[str, Any]:
        """The sections of a recipe that fine-tuning starts from.

        Args:
            keep_router: with the settings of the router; without, where it gives way to another.
        """
        idle = self.recipe.idle_sections | {"name", "description", "source"}
        settings = self.recipe.model_dump(exclude={*idle, "train", "eval", "finetune"})
        moe, router = self.recipe.router_settings.continued(
            self.recipe.moe, self.state["step"], self.recipe.train.steps
        )
        settings["moe"] = moe.model_dump()
        section = section_name(moe.router)
        if section in settings and keep_router:
            settings[section] = router.model_dump()
        elif not keep_router:
            settings.pop(section, None)
        return settings

    def vocabulary(self, data_dir: Path) -> Vocabulary:
        """The tokenizer of the corpus it was trained on.

        Args:
            data_dir: where the corpus is looked for by name, before the place it had in training.

        Raises:
            UserError: it is not there, or has another vocabulary now.
        """
        name, trained_on = self.recipe.data.corpus, Path(self.state["store"])
        by_name = is_store(data_dir / name) or not is_store(trained_on)
        store = TokenStore.open(find_store(name, data_dir) if by_name else trained_on)
        if store.manifest.vocabulary != self.state["vocabulary"]:
            raise UserError(
                "the corpus was prepared with another tokenizer or vocabulary than the run's",
                where=str(store.path),
                hint="Point --data-dir at the one it was trained on.",
                code=EXIT_DATA,
            )
        return Vocabulary.of_store(store)

    def load_into(self, model: Classifier) -> list[str]:
        """Fill a classifier's backbone.

        Returns:
            What a user is to know of it.

        Raises:
            UserError: the recipe asks for other shapes than the checkpoint has.
        """
        own = model.state_dict()
        found = load_file(self.folder / self.weights, device=str(model.classifier.weight.device))
        dropped = _dropped(self.recipe, len(model.layers))
        taken = {
            name: tensor
            for name, tensor in found.items()
            if not name.startswith(("output.", *dropped))
        }
        router, before = model.recipe.moe.router, self.recipe.moe.router
        fresh = [ROUTER] if router != before else []
        if _shapes(own, SIMILARITY) != _shapes(taken, SIMILARITY):
            fresh.append(SIMILARITY)
        for part in fresh:
            taken = {name: tensor for name, tensor in taken.items() if part not in name}
            own = {name: tensor for name, tensor in own.items() if part not in name}
        wanted = {name: tuple(t.shape) for name, t in own.items() if not name.startswith(HEAD)}
        given = {name: tuple(tensor.shape) for name, tensor in taken.items()}
        differ = sorted(name for name in wanted | given if wanted.get(name) != given.get(name))
        if differ:
            name = differ[0]
            raise UserError(
                f"{len(differ)} tensors of the checkpoint do not fit the recipe, among them "
                f"{name}: {_words(given.get(name))} in the checkpoint, {_words(wanted.get(name))} "
                "in the model",
                where=str(self.folder),
                hint="Leave the settings of the router as they were in pre-training.",
                code=EXIT_DATA,
            )
        model.load_state_dict(taken, strict=False)
        return [f"router {router} starts fresh in the place of {before}"] if ROUTER in fresh else []


def _dropped(recipe: Recipe, kept: int) -> tuple[str, ...]:
    """How the names of sub-layers begin that the classifier does without."""
    return tuple(f"layers.{number}." for number in range(kept, len(recipe.model.sublayers)))


def _shapes(tensors: Mapping[str, Tensor], part: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if part in name}


def _words(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else " x ".join(map(str, shape)) or "a number"
