"""The loss of a language model over a split, every token once, and the scores computed from it.

Bits per character (BPC) are the loss in nats per token / ln 2, where tokens are characters or
bytes. In documents, the nats of end tokens count and the end tokens themselves do not: BPC = total
nats / ln 2 / characters of text. Models with other tokens are compared by the loss of the same
text, independent of its tokens: bits per byte = total nats / ln 2 / bytes, perplexity per word =
exp(total nats / words), with words and line ends counted as in word-level work on WikiText (Merity
et al. 1609.07843).
Unknown words cost what `<unk>` costs, so word models compare with others only on text without
unknown words. The first token of a split has no context; a whole evaluation charges it log V nats,
so that the total is a code length of all tokens.

The context of a token does not depend on the number of streams a split is read in. A model with
rotary positions sees at most one block of the recipe, whose first `overlap` positions are not
scored; the blocks are the same for every number of streams. A model with carried memory sees the
same context as if it read the split from its start: before its part, each stream first reads as
many tokens as all layers together can look back (the span times the number of attention layers).
SimSMoE's published code starts each of 8 streams with an empty memory, which makes its score
slightly worse. Reading only a part of a split (`max_blocks`), as in validation during training, is
an estimate and starts with an empty memory too.

Shapes: B streams, M block, L span, D model width, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsmoe_cli.data.store import Manifest, SplitInfo
from simsmoe_cli.data.streams import IGNORED, Tokens, evaluation_steps, evaluation_streams
from simsmoe_cli.errors import DataError
from simsmoe_cli.model.interface import TextModel
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.parallel.world import ALONE, World, sum_over_ranks
from simsmoe_cli.run.events import SplitScore, TestScores
from simsmoe_cli.run.score import bits, perplexity


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on a split.

    Attributes:
        total_nats: code length of the tokens read.
        tokens: tokens read.
        seconds: time it took.
    """

    total_nats: float
    tokens: int
    seconds: float

    @property
    def loss_nats(self) -> float:
        return self.total_nats / self.tokens

    @property
    def bpc(self) -> float:
        """Bits per token, which are bits per character or byte if tokens are characters or
        bytes."""
        return self.loss_nats / math.log(2)

    def bits_per_character(self, split: SplitInfo, unit: str) -> float | None:
        """BPC on a split, end tokens not counted; None where a token is something else."""
        return bits(self.loss_nats * split.tokens_per_unit, unit)

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss_nats)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    def per(self, split: SplitInfo, units: int) -> float:
        """Nats per unit of text (a byte, a word), given how many units the whole split has.

        An estimate for a part of a split: its tokens are assumed as long as those of the whole.
        """
        return self.loss_nats * split.tokens / units

    def on_split(self, split: str, manifest: Manifest) -> SplitScore:
        """The fields of an eval event.

        Args:
            split: its name.
            manifest: of the store it is in.
        """
        text = manifest.splits[split]
        return {
            "split": split,
            "loss_nats": self.loss_nats,
            "bpc": self.bits_per_character(text, manifest.unit),
            "bits_per_byte": self.per(text, text.bytes) / math.log(2),
            "perplexity": self.perplexity,
            "word_perplexity": perplexity(self.per(text, text.words)),
            "tokens": self.tokens,
            "tokens_per_s": self.tokens_per_s,
        }

    def test_scores(self, manifest: Manifest) -> TestScores:
        """The fields of a run_finished event, of the store's test split."""
        bpc = self.bits_per_character(manifest.splits["test"], manifest.unit)
        return {"test_bpc": bpc, "test_loss_nats": self.loss_nats}


# Called with the amount done and the amount in all.
Progress = Callable[[int, int], None]


def untold(done: int, total: int) -> None:
    """The progress that nobody asked for."""


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The autocast context of a precision, "fp32" or "bf16"."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@torch.no_grad()
def evaluate_split(
    model: TextModel,
    tokens: Tokens,
    *,
    block: int,
    streams: int,
    overlap: int = 0,
    max_blocks: int = 0,
    precision: str = "fp32",
    context: StepContext | None = None,
    world: World = ALONE,
    progress: Progress = untold,
) -> Evaluation:
    """Evaluate, leaving the model in the mode it was in.

    Args:
        tokens: one split.
        block, streams, overlap, max_blocks: see `evaluation_streams`.
        precision: "fp32" or "bf16" autocast.
        context: the step information for routers.
        world: ranks that share the model, each of which reads a part of the streams.
        progress: told after each block; it does not wait on the device.

    Raises:
        UserError: the split holds nothing to predict.
    """
    if len(tokens) < 2:
        raise DataError(
            f"a split of {len(tokens)} tokens is too short to evaluate on",
            hint="Prepare more text.",
        )
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    start = time.perf_counter()
    nats = torch.zeros((), dtype=torch.float64, device=device)
    scored = 0
    memory: list[torch.Tensor] = []
    warm_up = 0 if max_blocks else look_back(model)
    plan = (streams, block, overlap, max_blocks, warm_up)
    steps, _ = evaluation_steps(len(tokens), *plan)
    # FSDP2 keeps gathered weights for the training, which inference tensors cannot serve.
    with torch.inference_mode(world.alone):
        progress(0, steps)
        for step, (inputs, targets, begins) in enumerate(evaluation_streams(tokens, *plan), 1):
            scored += int((targets != IGNORED).sum())
            if not world.alone:
                inputs, targets, begins = _own_streams(world, inputs, targets, begins)
            if memory and begins.any():
                goes_on_B11 = torch.from_numpy(~begins).to(device)[:, None, None]
                memory = [part_BLD * goes_on_B11 for part_BLD in memory]
            with autocast(device, precision):
                output = model.score(inputs.to(device), targets.to(device), memory, context)
            memory = output.memory
            nats += output.nats
            progress(step, steps)
    model.train(was_training)
    total = sum_over_ranks(nats).item() if not world.alone else nats.item()
    if not max_blocks:
        total += math.log(model.vocab_size)
        scored += 1
    return Evaluation(total, scored, time.perf_counter() - start)


def _own_streams(
    world: World, inputs: Tensor, targets: Tensor, begins: NDArray[np.bool_]
) -> tuple[Tensor, Tensor, NDArray[np.bool_]]:
    """This rank's part of the streams; one that is not scored if there are fewer than ranks."""
    own = world.part(len(inputs))
    if own.start < own.stop:
        return inputs[own], targets[own], begins[own]
    return inputs[:1], torch.full_like(targets[:1], IGNORED), begins[:1]


def look_back(model: TextModel) -> int:
    """The number of tokens before a block on which its carried memory depends."""
    settings = model.recipe.model
    if settings.attention != "relative":
        return 0
    return settings.span * settings.sublayers.count("s")
