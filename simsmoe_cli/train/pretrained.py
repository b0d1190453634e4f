"""A pre-trained run as the starting point of another training.

The model gets the embedding, the position table and its sub-layers from the checkpoint, with all
state of their routers: tables, biases, coefficients, the stage of StableMoE. If the recipe names
another router, that one starts fresh. Heads and pair counts of similarity learning are copied where
the new settings give them the same shapes, and start fresh otherwise. A language model also gets
the output layer; a classifier has none, and may have fewer sub-layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import DataError, UserError
from simsmoe_cli.huggingface.save import FOLDER
from simsmoe_cli.model.classifier import Classifier
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.recipe.load import load_recipe, override_recipe
from simsmoe_cli.recipe.routers import section_name
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run.changes import differences
from simsmoe_cli.run.checkpoint import weights_sha256
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.opened import OpenedRun
from simsmoe_cli.run.vocabulary import Vocabulary
from simsmoe_cli.run.weights import fill, other_names

Shape = tuple[int, ...]
HEAD, SIMILARITY, ROUTER = "classifier.", ".similarity.", ".moe.router."
# Fields of model and moe that may differ from the checkpoint's.
FREE = (
    "model.dropout",
    "moe.router",
    "moe.top_k",
    "moe.backend",
    "moe.balance_weight",
    "moe.z_weight",
)
# Fields of data that may differ in a further pre-training.
FREE_TEXT = ("data.corpus", "data.attend_within_documents")
FALLBACK = "finetune-sst2"  # recipe of a fine-tuning that names none, for a task without one


@dataclass(frozen=True)
class Untrained:
    """A language model that is still to be trained, to plan its fine-tuning.

    Attributes:
        recipe: to train it with, to its end.
    """

    recipe: Recipe
    fallback: ClassVar[str] = FALLBACK

    def settings(self, *, keep_router: bool = True) -> dict[str, Any]:
        """See `settings_of`."""
        return settings_of(self.recipe, self.recipe.train.steps, keep_router=keep_router)

    def require_fit(self, recipe: Recipe) -> None:
        """See `require_fit`."""
        require_fit(self.recipe, recipe)


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint of a language model.

    Attributes:
        opened: the run, its state and its recipe.
    """

    opened: OpenedRun
    fallback: ClassVar[str] = FALLBACK

    @classmethod
    def open(cls, run: RunDir, which: str, data_dir: Path) -> Pretrained:
        """The checkpoint "best", "last" or of a step.

        Raises:
            UserError: there is none, it is damaged, or it is of a classifier.
        """
        opened = OpenedRun.open(run, which, data_dir)
        opened.require_language_model()
        if opened.recipe.huggingface.used:
            raise DataError(
                "this run trained a Hugging Face model",
                where=str(run.path),
                hint=f"Give the model that it wrote: --from {run.path / FOLDER}.",
            )
        opened.require_model()
        return cls(opened)

    @property
    def name(self) -> str:
        """Of the run."""
        return self.opened.run.name

    @property
    def recipe(self) -> Recipe:
        """The recipe it was trained with."""
        return self.opened.recipe

    @property
    def vocabulary(self) -> Vocabulary:
        """Its tokenizer."""
        return self.opened.vocabulary

    def identity(self) -> dict[str, Any]:
        """Run, step and hash, which the new run keeps."""
        return {
            "run": self.opened.run.name,
            "step": self.opened.step,
            "sha256": weights_sha256(self.opened.state),
        }

    def settings(self, *, keep_router: bool = True) -> dict[str, Any]:
        """See `settings_of`."""
        return settings_of(self.recipe, self.opened.step, keep_router=keep_router)

    def require_fit(self, recipe: Recipe, free: Sequence[str] = ()) -> None:
        """See `require_fit`."""
        require_fit(self.recipe, recipe, free)

    def continued(self, recipe_name: str | None, overrides: Sequence[str]) -> Recipe:
        """The recipe of a further pre-training.

        Args:
            recipe_name: name or path; its settings of training are used, and those of the model
                must be the run's. None: the run's own recipe.
            overrides: "a.b=c" settings, later ones win.

        Raises:
            UserError: the recipe has errors, or asks for another model.
        """
        settings = self.settings()
        if recipe_name is None:
            kept = self.recipe.model_dump(include={"name", "description", "train", "eval"})
            recipe = override_recipe(Recipe.model_validate({**settings, **kept}), overrides)
        else:
            recipe = load_recipe(recipe_name, overrides, settings)
        self.require_fit(recipe, FREE_TEXT)
        return recipe

    def require_encoded(self, store: TokenStore) -> None:
        """Raise a UserError unless a corpus was encoded with the run's tokenizer."""
        if store.manifest.vocabulary != self.opened.state["vocabulary"]:
            run = self.opened.run.path
            raise DataError(
                f"the corpus was encoded by another tokenizer or vocabulary than that of {run}",
                where=str(store.path),
                hint="Prepare it again with the vocabulary of the run's corpus: simsmoe "
                f"prepare-data TEXT --vocab-from {self.opened.state['store']} --name NAME, then "
                "--set data.corpus=NAME.",
            )

    def load_into(self, model: Classifier | LanguageModel) -> list[str]:
        """Fill a model with the weights.

        Returns:
            Notes for the user.

        Raises:
            UserError: the recipe asks for other shapes than the checkpoint has.
        """
        files = self.opened.tensors()
        elsewhere = other_names(model, files.found)
        own = {
            name: tuple(tensor.shape)
            for name, tensor in model.state_dict().items()
            if name not in elsewhere
        }
        dropped = _dropped(self.opened.recipe, len(model.layers))
        if isinstance(model, Classifier):
            dropped = ("output.", *dropped)
        taken = {
            name: shape for name, (shape, _) in files.found.items() if not name.startswith(dropped)
        }
        router, before = model.recipe.moe.router, self.opened.recipe.moe.router
        fresh = [ROUTER] if router != before else []
        if _part(own, SIMILARITY) != _part(taken, SIMILARITY):
            fresh.append(SIMILARITY)
        for part in fresh:
            taken = {name: shape for name, shape in taken.items() if part not in name}
            own = {name: shape for name, shape in own.items() if part not in name}
        wanted = {name: shape for name, shape in own.items() if not name.startswith(HEAD)}
        differ = sorted(name for name in wanted | taken if wanted.get(name) != taken.get(name))
        if differ:
            name = differ[0]
            raise DataError(
                f"{len(differ)} tensors of the checkpoint do not fit the recipe, among them "
                f"{name}: {_words(taken.get(name))} in the checkpoint, {_words(wanted.get(name))} "
                "in the model",
                where=str(self.opened.folder),
                hint="Leave the settings of the router as they were in pre-training.",
            )
        fill(model, files, taken)
        return [f"router {router} starts fresh and replaces {before}"] if ROUTER in fresh else []


def settings_of(recipe: Recipe, step: int, *, keep_router: bool = True) -> dict[str, Any]:
    """The sections of a recipe that a training of its model starts from.

    Args:
        recipe: that the model was trained with.
        step: of its weights.
        keep_router: whether the settings of its router are among them; False: the recipe names
            another router.
    """
    idle = recipe.idle_sections | {"name", "description", "source"}
    settings = recipe.model_dump(exclude={*idle, "train", "eval", "finetune", "parallel"})
    moe, router = recipe.router_settings.continued(recipe.moe, step, recipe.train.steps)
    settings["moe"] = moe.model_dump()
    section = section_name(moe.router)
    if section in settings and keep_router:
        settings[section] = router.model_dump()
    elif not keep_router:
        settings.pop(section, None)
    return settings


def require_fit(before: Recipe, recipe: Recipe, free: Sequence[str] = ()) -> None:
    """Raise a UserError where a recipe asks for another model than the checkpoint's.

    Args:
        before: of the checkpoint.
        recipe: of the new training.
        free: fields that may differ, beside `FREE`.
    """
    fixed = {"model", "moe", "data"}
    changed = [
        f"{path} ({old!r} -> {new!r})"
        for path, old, new in differences(
            before.model_dump(include=fixed), recipe.model_dump(include=fixed)
        )
        if path not in (*FREE, *free)
    ]
    if changed:
        raise UserError(
            f"the pre-trained model cannot be changed: {', '.join(changed)}",
            where=f"recipe {recipe.name}",
            hint="Leave these out, or pre-train with them.",
        )


def _dropped(recipe: Recipe, kept: int) -> tuple[str, ...]:
    """Prefixes of the names of the sub-layers that the classifier does not have."""
    return tuple(f"layers.{number}." for number in range(kept, len(recipe.model.sublayers)))


def _part(shapes: Mapping[str, Shape], part: str) -> dict[str, Shape]:
    return {name: shape for name, shape in shapes.items() if part in name}


def _words(shape: Shape | None) -> str:
    return "none" if shape is None else " x ".join(map(str, shape)) or "a number"
