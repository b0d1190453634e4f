"""A classifier of texts on the backbone of a transformers model, trained and evaluated as ours are.

The model's output layer is dropped. A fresh linear layer without bias reads the hidden state of the
last real token, or the mean over the real tokens. With the last token this is what the classes
`...ForSequenceClassification` of transformers compute, so the result is written as one of those
where transformers has one for the family.

Shapes: B texts, M tokens of the longest, D width, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simsmoe_cli.errors import DataError
from simsmoe_cli.files import atomic
from simsmoe_cli.huggingface.foreign_code import foreign_code, transformers_module
from simsmoe_cli.huggingface.model_config import class_of
from simsmoe_cli.huggingface.save import FOLDER, save_model, whole_tensors
from simsmoe_cli.huggingface.wrapped import Wrapped, WrappedOutcome, build
from simsmoe_cli.model.classifier import pool
from simsmoe_cli.model.interface import TextClassifier
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.parallel.world import first
from simsmoe_cli.recipe.schema import Recipe

HEAD_STD = 0.02


@dataclass(kw_only=True)
class ClassifiedTexts(WrappedOutcome):
    """With logits, [B, C]."""

    logits: Tensor


class HuggingFaceClassifier(Wrapped, TextClassifier):
    """A classifier on a model of transformers; see `Wrapped`.

    Args:
        recipe: its section huggingface describes the model, finetune how texts are pooled.
        vocab_size: ids that the tokenizer gives.
        classes: C.
        model: the language model whose backbone is used; None builds it with fresh weights.

    Raises:
        UserError: the model has no backbone apart from its output layer.
    """

    def __init__(
        self, recipe: Recipe, vocab_size: int, classes: int, model: nn.Module | None = None
    ):
        whole: Any = build(recipe) if model is None else model
        if whole.base_model is whole:
            raise DataError(
                f"{type(whole).__name__} has no backbone without its output layer, so it cannot be "
                "made a classifier",
                where=recipe.huggingface.folder,
            )
        super().__init__(recipe, vocab_size, whole.base_model)
        self.pooling = recipe.finetune.pooling
        width = whole.get_input_embeddings().weight.shape[1]
        device = next(whole.parameters()).device
        self.classifier = nn.Linear(width, classes, bias=False, device=device)
        nn.init.normal_(self.classifier.weight, std=HEAD_STD)

    def forward(
        self, tokens_BM: Tensor, length_B: Tensor, context: StepContext | None = None
    ) -> ClassifiedTexts:
        output, found = self.learn(tokens_BM, context or StepContext())
        hidden_BD = pool(output.last_hidden_state, length_B, self.pooling)
        return ClassifiedTexts(**vars(found), logits=self.classifier(hidden_BD))

    def remarks(self) -> list[str]:
        """Why the result cannot be written for transformers; empty where it can."""
        body: Any = self.body
        if self.pooling != "last":
            why = f"the classifiers of transformers have no finetune.pooling={self.pooling}"
        elif self._class() is None:
            why = f"transformers has no classifier for models of type {body.config.model_type}"
        else:
            return []
        return [f"{why}, so RUN/huggingface gets the tokenizer alone; simsmoe eval reads the run"]

    def publish(self, run: Path, labels: Sequence[str] = ()) -> None:
        """Write `RUN/huggingface`, where transformers has a class for it."""
        kind = self._class()
        if kind is None or self.remarks():
            return
        body = whole_tensors(self.body)
        if not first():
            return
        config: Any = copy.deepcopy(self.body.config)
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
        if config.pad_token_id is None:  # the last token of a text is found by it
            end = config.eos_token_id
            config.pad_token_id = (end[0] if isinstance(end, list) else end) or 0
        with foreign_code("transformers cannot build the classifier", str(run)):
            with torch.device("meta"):
                model = kind(config)
            prefix = model.base_model_prefix
            tensors = {f"{prefix}.{name}": part for name, part in body.items()}
            tensors["score.weight"] = self.classifier.weight.detach()
            model.load_state_dict(tensors, assign=True)
        with atomic.whole_folder(run / FOLDER, replace=True) as partial:
            save_model(model, whole_tensors(model), self.dtype, run / FOLDER, partial)

    def _class(self) -> Any:
        """The classifier of transformers for this family; None if there is none."""
        return class_of(transformers_module().AutoModelForSequenceClassification, self.body.config)
