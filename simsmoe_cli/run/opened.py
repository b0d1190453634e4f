"""Opens a run to use it: its recipe, weights, corpus or task, tokenizer, and the model.

Every command that uses trained weights opens them here. The corpus or task of a run is looked for
below --data-dir under its name, and otherwise at its path during training.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from simsmoe_cli.data.prepared import Prepared
from simsmoe_cli.data.store import CORPUS, TokenStore
from simsmoe_cli.data.tasks.store import TASK, Task
from simsmoe_cli.data.tokenizers.base import Tokenizer
from simsmoe_cli.errors import DataError, UserError
from simsmoe_cli.model.interface import (
    MoEModel,
    TextClassifier,
    TextModel,
    classifier,
    language_model,
)
from simsmoe_cli.moe.layer import portable
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run import checkpoint, weights
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.tensor_files import TensorFiles
from simsmoe_cli.run.vocabulary import Vocabulary

M = TypeVar("M", bound=MoEModel)


def unchanged(recipe: Recipe) -> Recipe:
    return recipe


@dataclass(frozen=True)
class OpenedRun:
    """A checkpoint of a run; its model is built when it is asked for.

    Attributes:
        run: the checkpoint belongs to it.
        which: the requested checkpoint: "best", "last" or a step.
        folder: of the checkpoint, or best/.
        state: its state, with verified checksums.
        recipe: the recipe it was trained with.
        data_dir: where its corpus or task is looked for by name.
    """

    run: RunDir
    which: str
    folder: Path
    state: dict[str, Any]
    recipe: Recipe
    data_dir: Path

    @classmethod
    def open(cls, run: RunDir, which: str, data_dir: Path) -> OpenedRun:
        """Read a run's checkpoint: "best", "last" or a step.

        Raises:
            UserError: there is no such checkpoint, or it is damaged or of another version.
        """
        folder = checkpoint.find(run, which)
        state = checkpoint.read_state(folder)
        return cls(run, which, folder, state, checkpoint.recipe_of(folder, state), data_dir)

    @property
    def step(self) -> int:
        """The number of steps that its weights were trained for."""
        return int(self.state["step"])

    @property
    def fine_tuned(self) -> bool:
        """Whether it is a classifier, and not a language model."""
        return "task" in self.state

    @property
    def unit(self) -> str:
        """The unit of a token: "byte", "character", "word" or "piece"."""
        return str(self.state["unit"])

    @property
    def labels(self) -> list[str]:
        """The names of a classifier's classes."""
        return list(self.state["task"]["labels"])

    def require_language_model(self) -> None:
        """Raise a UserError for a classifier."""
        if self.fine_tuned:
            raise UserError(
                f"this run is a classifier, fine-tuned on {self.state['task']['name']}, and a "
                "language model is needed",
                where=str(self.run.path),
                hint=f"Use the run it was fine-tuned from: {self.state['pretrained']['run']}.",
            )

    def require_model(self) -> None:
        """Raise a UserError unless its weights fit the language model of its recipe; allocates no
        memory for them."""
        files = checkpoint.weights_files(self.folder, self.state)
        weights.require_model(files, lambda: language_model(self.recipe, self.state["vocab_size"]))

    def tensors(self) -> TensorFiles:
        """Its weights and buffers.

        Raises:
            UserError: they cannot be read.
        """
        return weights.opened(checkpoint.weights_files(self.folder, self.state))

    def context(self, top_k: int | None = None) -> StepContext:
        """The step information for routers, at the step of its weights.

        Args:
            top_k: experts per token; None takes the router's own.
        """
        total = self.recipe.train.steps
        return StepContext(step=self.step, total_steps=total, top_k=top_k)

    @cached_property
    def store(self) -> TokenStore:
        """A corpus with the tokenizer of a language model: its own, where that is found.

        Raises:
            UserError: none is found, or the one found has another tokenizer.
        """
        store = TokenStore.open(self._store_path)
        if store.manifest.vocabulary != self.state["vocabulary"]:
            raise DataError(
                "the corpus was prepared with another tokenizer or vocabulary than the run's",
                where=str(store.path),
                hint=self._where_it_was(self.state["store"]),
            )
        return store

    def corpus(self) -> TokenStore:
        """The corpus a language model was trained on.

        Raises:
            UserError: it is not found, or the one found holds other text.
        """
        store = TokenStore.open(self._store_path)
        if store.manifest.fingerprint != self.state["corpus"]:
            raise self._another("corpus", store.path, self.state["store"], "--data")
        return store

    def task(self) -> Task:
        """The task a classifier was fine-tuned on.

        Raises:
            UserError: it is not found, or the one found holds other examples.
        """
        known = self.state["task"]
        path = self._locate(TASK, self.recipe.finetune.task, known["path"])
        task = Task.open(path)
        if task.manifest.fingerprint != known["fingerprint"]:
            raise self._another("task", task.path, known["path"], "--task")
        return task

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Its tokenizer as a file: a classifier's own, or that of a language model's corpus.

        Raises:
            UserError: it is missing, or is not the one the checkpoint names.
        """
        if self.fine_tuned:
            return Vocabulary.of_run(self.run, self.state)
        return Vocabulary.of_store(self.store)

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back; raises as `vocabulary` does."""
        return self.vocabulary.tokenizer if self.fine_tuned else self.store.tokenizer

    def language_model(
        self, device: torch.device, change: Callable[[Recipe], Recipe] = unchanged
    ) -> TextModel:
        """The model with its weights, in evaluation mode.

        Args:
            device: where to put it.
            change: changes of the recipe for building the model; the weights must still fit.
        """
        recipe, size = change(portable(self.recipe, device)), self.state["vocab_size"]
        return self._filled(lambda: language_model(recipe, size), device)

    def classifier(self, device: torch.device) -> TextClassifier:
        """The classifier with its weights, in evaluation mode."""
        recipe, size = portable(self.recipe, device), self.state["vocab_size"]
        return self._filled(lambda: classifier(recipe, size, len(self.labels)), device)

    def _filled(self, make: Callable[[], M], device: torch.device) -> M:
        return weights.open_model(self.folder, self.state, make, device).eval()

    @property
    def _store_path(self) -> Path:
        return self._locate(CORPUS, self.recipe.data.corpus, self.state["store"])

    def _locate(self, kind: Prepared, name: str, was: str) -> Path:
        """The folder of a prepared corpus or task: below `data_dir`, else its earlier path."""
        if kind.is_in(self.data_dir / name) or not kind.is_in(Path(was)):
            return kind.find(name, self.data_dir)
        return Path(was)

    def _another(self, what: str, found: Path, was: str, option: str) -> UserError:
        return DataError(
            f"the prepared {what} is not the one this run was trained on, so its held-out text may "
            "have been trained on",
            where=str(found),
            hint=f"{self._where_it_was(was)} To evaluate on it anyway: simsmoe eval "
            f"{shlex.quote(str(self.run.path))} {option} {shlex.quote(str(found))}",
        )

    @staticmethod
    def _where_it_was(was: str) -> str:
        folder = shlex.quote(str(Path(was).parent))
        return f"Name the folder of the run's own with --data-dir; it was {folder}."


def open_language_model(run: RunDir, which: str, data_dir: Path) -> OpenedRun:
    """The checkpoint of a language model, and a corpus with its tokenizer.

    Raises:
        UserError: the checkpoint is missing, damaged, or of a classifier; or no such corpus is
            found.
    """
    opened = OpenedRun.open(run, which, data_dir)
    opened.require_language_model()
    _ = opened.store
    return opened
