"""The folder of a Hugging Face model as the starting point of a training.

Everything of it that a run needs later is copied: the configuration into the recipe, the weights
into the checkpoints, the tokenizer into the run folder. So a run can be resumed without the folder.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from simsmoe_cli.any_moe.find_layers import find_expert_layers, no_experts
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.data.tokenizers.huggingface import open_given
from simsmoe_cli.errors import DataError
from simsmoe_cli.huggingface.classifier import HuggingFaceClassifier
from simsmoe_cli.huggingface.folder import ModelFolder, read_model_folder
from simsmoe_cli.huggingface.foreign_code import transformers_module
from simsmoe_cli.huggingface.language_model import HuggingFaceLanguageModel
from simsmoe_cli.huggingface.load_whole import load_whole
from simsmoe_cli.huggingface.model_config import (
    LANGUAGE_MODELS,
    ModelConfig,
    read_config,
    settings_of,
)
from simsmoe_cli.huggingface.save import FOLDER
from simsmoe_cli.huggingface.unsupported import CONFIG
from simsmoe_cli.model.available_memory import require_memory
from simsmoe_cli.parallel.launch import launch
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.find import REPOSITORY, is_run
from simsmoe_cli.run.layer_labels import layer_labels
from simsmoe_cli.run.vocabulary import Vocabulary

BYTES_PER_PARAMETER = 16  # weight, gradient and two moments in fp32


@dataclass(frozen=True)
class PretrainedFolder:
    """A causal language model with experts, and its tokenizer.

    Attributes:
        files: of the folder, checked.
        config: how transformers builds the model.
        section: the section `huggingface` of a recipe that trains it.
        vocabulary: its tokenizer.
        fallback: the recipe of a fine-tuning that names none.
    """

    files: ModelFolder
    config: ModelConfig
    section: dict[str, Any]
    vocabulary: Vocabulary
    fallback: ClassVar[str] = "finetune-huggingface"

    @classmethod
    def open(cls, folder: Path) -> PretrainedFolder:
        """Check a folder; no weights are read.

        Raises:
            UserError: transformers is missing, or the folder holds no model that can be trained.
        """
        _require_folder(folder)
        transformers = transformers_module()
        files = read_model_folder(folder)
        config = read_config(files, transformers)
        if config.both_stacks or not config.kind.__name__.endswith(LANGUAGE_MODELS):
            raise _cannot(folder, f"{config.kind.__name__} is no causal language model")
        if files.quantised:
            raise _cannot(
                folder,
                f"its weights are quantised ({files.quantised})",
                "Give a folder of the same model in bf16, fp16 or fp32.",
            )
        model = config.without_memory()
        layers = find_expert_layers(model)
        if not layers:
            raise no_experts(model, str(folder))
        section = {
            "folder": str(folder.resolve()),
            "config": settings_of(model),
            "layers": layer_labels([layer.name for layer in layers]),
        }
        tokenizer = open_given(str(folder))
        assert tokenizer is not None
        vocabulary = Vocabulary(tokenizer.kind, tokenizer.file_name, tokenizer.dump())
        return cls(files, config, section, vocabulary)

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.files.path.resolve().name

    @property
    def training_bytes(self) -> int:
        """Memory for weights, gradients and moments."""
        return self.files.numbers * BYTES_PER_PARAMETER

    @property
    def recipe(self) -> None:
        """The recipe it was trained with: there is none."""
        return None

    def identity(self) -> dict[str, Any]:
        """Name and hash of the weights, which a fine-tuned run keeps."""
        digest = hashlib.sha256()
        for file in sorted({tensor.file for tensor in self.files.tensors.values()}):
            digest.update(checkpoint.sha256(file).encode())
        return {"run": self.name, "step": 0, "sha256": digest.hexdigest()}

    def settings(self, *, keep_router: bool = True) -> dict[str, Any]:
        """The sections of a recipe that a training of it starts from; the router always stays."""
        return {"huggingface": self.section, "data": {"tokenizer": "huggingface"}}

    def require_encoded(self, store: TokenStore) -> None:
        """Raise a UserError unless a corpus was encoded with the folder's tokenizer."""
        if store.manifest.vocabulary != self.vocabulary.sha256:
            folder = self.files.path
            raise DataError(
                f"the corpus was encoded by another tokenizer than that of {folder}",
                where=str(store.path),
                hint=f"Prepare it again: simsmoe prepare-data TEXT --tokenizer {folder} --name "
                "NAME, then --set data.corpus=NAME.",
            )

    def language_model(
        self, recipe: Recipe, vocab_size: int, device: torch.device
    ) -> HuggingFaceLanguageModel:
        """The model with the folder's weights, in fp32.

        Raises:
            UserError: training needs more memory than is free, or the weights are damaged.
        """
        return HuggingFaceLanguageModel(recipe, vocab_size, self._load(device))

    def classifier(
        self, recipe: Recipe, vocab_size: int, classes: int, device: torch.device
    ) -> HuggingFaceClassifier:
        """A classifier on the backbone with the folder's weights, in fp32; raises what
        `language_model` raises."""
        return HuggingFaceClassifier(recipe, vocab_size, classes, self._load(device))

    def _load(self, device: torch.device) -> nn.Module:
        hint = "Training keeps weights, gradients and two moments in fp32. Use a larger machine."
        parts = launch().size if device.type == "cuda" else 1  # ranks on a CPU share its memory
        whole = 4 * self.files.numbers  # every rank reads all weights
        needed = whole + (self.training_bytes - whole) // parts
        require_memory(needed, device, str(self.files.path), hint)
        return load_whole(self.config, self.files, torch.float32, device)


def _require_folder(folder: Path) -> None:
    """Refuse what is not there, and a run of ours."""
    if is_run(folder):
        written = folder / FOLDER
        hint = f"Go on with it: simsmoe pretrain --resume {folder}."
        if (written / CONFIG).is_file():
            hint = f"Give the model that it wrote: {written}."
        raise DataError("this is a run of simsmoe", where=str(folder), hint=hint)
    if folder.is_dir():
        return
    name = str(folder)
    hint = "Give a run, or the folder of a Hugging Face model."
    if REPOSITORY.fullmatch(name):
        hint = f"Nothing is downloaded; first: hf download {name} --local-dir {folder.name}"
    raise DataError("no such folder", where=name, hint=hint)


def _cannot(folder: Path, why: str, hint: str = "") -> DataError:
    return DataError(f"cannot be trained: {why}", where=str(folder), hint=hint)
