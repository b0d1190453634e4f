"""A classifier of texts on a pre-trained backbone (SimSMoE 2406.15883, section 4: transfer).

The output layer of the language model is dropped. A fresh linear layer reads the hidden state of
the last real token, which has attended to the whole text, or the mean over the real tokens.

`finetune.drop_last_layer` also drops the backbone's last layer: its last self-attention sub-layer
and all sub-layers after it (a whole repeat of "sg" or "sgfgfg", the last letter of "sgsfss"); the
final norm of a pre-norm backbone stays. Layers that stay keep their index among all layers of the
pre-trained model, which routers that draw by layer and seed need.

Texts are padded on the right. Attention is causal, so no token of a text ever sees padding, and the
MoE layers leave it out (`StepContext.real_T`), so padding does not change any result.

Shapes: B texts, M tokens of the longest, T = B*M positions of a batch, D model width, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from simsmoe_cli.errors import UserError
from simsmoe_cli.model.interface import TextClassifier
from simsmoe_cli.model.language_model import Backbone, BackboneOutput
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.schema import Recipe


@dataclass
class ClassifierOutput(BackboneOutput):
    """The output for a batch of texts; hidden states of padding are meaningless.

    Attributes:
        logits: [B, C].
    """

    logits: Tensor


class Classifier(Backbone, TextClassifier):
    """A sparse mixture-of-experts classifier; see `Backbone`.

    Args:
        recipe: its section finetune says how texts are pooled and whether the last layer is kept.
        vocab_size: of the pre-trained model.
        classes: C.

    Raises:
        UserError: the last layer is to be dropped, and it is the only one.
    """

    def __init__(self, recipe: Recipe, vocab_size: int, classes: int):
        super().__init__(recipe, vocab_size)
        self.pooling = recipe.finetune.pooling
        if recipe.finetune.drop_last_layer:
            self.layers = self.layers[: kept_layers(recipe)]
        self.classifier = nn.Linear(recipe.model.width, classes)

    def forward(
        self, tokens_BM: Tensor, length_B: Tensor, context: StepContext | None = None
    ) -> ClassifierOutput:
        """Classify texts that are padded on the right.

        Args:
            tokens_BM: vocabulary ids, int64; any valid id at padding.
            length_B: tokens of each text, at least 1, int64.
            context: the step information for routers. With padding, its `real_T` must hold the
                positions of the real tokens (see `real_positions`).
        """
        found = self.encode(tokens_BM, (), context)
        logits_BC = self.classifier(pool(found.hidden, length_B, self.pooling))
        return ClassifierOutput(found.hidden, found.memory, found.losses, found.moe, logits_BC)


def kept_layers(recipe: Recipe) -> int:
    """How many sub-layers a backbone has before its last layer."""
    kinds = recipe.model.sublayers
    kept = kinds.rfind("s") if "s" in kinds else len(kinds) - 1
    if kept == 0:
        raise UserError(
            "the model has one layer, and nothing would be left of it",
            where="finetune.drop_last_layer",
            hint="Set it to false.",
        )
    return kept


def real_positions(length_B: Tensor, longest: int) -> Tensor:
    """Positions of the real tokens in a flattened batch of B*M, [real tokens] int64.

    Args:
        length_B: tokens of each text, on the CPU, where lengths are known without waiting for the
            device.
        longest: M.
    """
    real_BM = np.arange(longest) < length_B.numpy()[:, None]
    return torch.from_numpy(np.flatnonzero(real_BM))


def pool(hidden_BMD: Tensor, length_B: Tensor, pooling: str) -> Tensor:
    """One hidden state a text, [B, D]: of the last real token ("last"), or the mean ("mean")."""
    if pooling == "last":
        last_B11 = (length_B - 1)[:, None, None].expand(-1, -1, hidden_BMD.shape[2])
        return hidden_BMD.gather(1, last_B11).squeeze(1)
    place_M = torch.arange(hidden_BMD.shape[1], device=hidden_BMD.device)
    real_BM1 = (place_M < length_B.unsqueeze(1)).unsqueeze(2)
    return torch.where(real_BM1, hidden_BMD, 0.0).sum(1) / length_B.unsqueeze(1)
