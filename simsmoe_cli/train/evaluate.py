"""Loss of a model over a split, every token once.

BPC is loss in nats / ln 2 per character (per byte for byte corpora). The first token of a split
has no context; a whole evaluation charges it log V nats, so that the total is a code length of
all tokens.

Shapes: B streams, M block, V vocabulary.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from simsmoe_cli.data.streams import IGNORED, Tokens, evaluation_blocks
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.routers.base import RouteContext


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a split.

    Attributes:
        total_nats: code length of the tokens read.
        tokens: tokens read.
        seconds: how long it took.
    """

    total_nats: float
    tokens: int
    seconds: float

    @property
    def loss_nats(self) -> float:
        return self.total_nats / self.tokens

    @property
    def bpc(self) -> float:
        """Bits per token: per character or byte where tokens are those."""
        return self.loss_nats / math.log(2)

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss_nats, 700.0))

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    def event_fields(self, split: str, unit: str) -> dict[str, float | int | str | None]:
        """The fields of an eval event."""
        return {
            "split": split,
            "loss_nats": self.loss_nats,
            "bpc": self.bpc if unit in ("byte", "character") else None,
            "perplexity": self.perplexity,
            "tokens": self.tokens,
            "tokens_per_s": self.tokens_per_s,
        }


def resolve_precision(precision: str, device: torch.device) -> str:
    """The precision with "auto" decided: bf16 on a CUDA device that computes it, fp32 elsewhere."""
    if precision != "auto":
        return precision
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if bf16 else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The autocast context of a precision, "fp32" or "bf16"."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@torch.no_grad()
def evaluate_split(
    model: LanguageModel,
    tokens: Tokens,
    *,
    block: int,
    streams: int,
    overlap: int = 0,
    max_blocks: int = 0,
    precision: str = "fp32",
    context: RouteContext | None = None,
) -> Evaluation:
    """Evaluate, leaving the model in the mode it was in.

    Args:
        tokens: one split.
        block, streams, overlap, max_blocks: see `evaluation_blocks`.
        precision: "fp32" or "bf16" autocast.
        context: options of routing.

    Raises:
        UserError: the split holds nothing to predict.
    """
    if len(tokens) < 2:
        raise UserError(
            f"a split of {len(tokens)} tokens is too short to evaluate on",
            hint="Prepare more text.",
            code=EXIT_DATA,
        )
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    start = time.perf_counter()
    nats = torch.zeros((), dtype=torch.float64, device=device)
    scored = 0
    memory: list[torch.Tensor] = []
    for inputs, targets in evaluation_blocks(tokens, streams, block, overlap, max_blocks):
        with autocast(device, precision):
            output = model.score(inputs.to(device), targets.to(device), memory, context)
        memory = output.memory
        nats += output.nats
        scored += int((targets != IGNORED).sum())
    model.train(was_training)
    total = nats.item()
    if not max_blocks:
        total += math.log(model.vocab_size)
        scored += 1
    return Evaluation(total, scored, time.perf_counter() - start)
