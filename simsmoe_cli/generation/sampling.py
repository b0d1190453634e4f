"""Generates text after a prompt, token by token, at a cost per token that does not grow with the
text.

The text that was read is kept as memory (relative attention), or as a cache of keys and values no
longer than the sliding window (rotary positions). The window is at most a training block long,
because greater distances never occurred in training. Routers work as in evaluation.

Nucleus sampling: Holtzman et al. 1904.09751.

Shapes: M tokens read at once, V vocabulary, T tokens, N experts, K chosen per token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from simsmoe_cli.errors import UserError
from simsmoe_cli.model.interface import TextModel
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.registry import ROUTERS

READ_AT_ONCE = 256


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Attributes:
        temperature: logits are divided by it; 0 takes the most likely token.
        top_p: tokens are drawn from the smallest set of most likely tokens that holds this much
            probability.
        seed: of the draws; None: a new one each time.

    Raises:
        UserError: a value out of range, or settings that would be ignored.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(
                f"{self.temperature:g} is not a temperature",
                where="--temperature",
                hint="Use 0 for the most likely token, 1 for the model's own distribution.",
            )
        if not 0 < self.top_p <= 1:
            raise UserError(
                f"{self.top_p:g} is not a share of probability",
                where="--top-p",
                hint="Use more than 0 and at most 1.",
            )
        if self.temperature == 0:
            for flag, given in (("--top-p", self.top_p < 1), ("--seed", self.seed is not None)):
                if given:
                    raise UserError(
                        "has no effect at temperature 0, where nothing is drawn",
                        where=flag,
                        hint="Leave it out, or raise --temperature.",
                    )


@dataclass(frozen=True)
class Step:
    """A token, and the experts it went to.

    Attributes:
        token: its id.
        experts: the expert with the largest weight in each MoE layer; None where it had none.
    """

    token: int
    experts: list[int | None]


def generating(recipe: Recipe) -> Recipe:
    """The recipe for a model that generates: its window is at most a training block.

    Raises:
        UserError: the router looks at later tokens, which are not written yet.
    """
    model, block = recipe.model, recipe.train.block
    if "g" in model.pattern and ROUTERS[recipe.moe.router].looks_ahead:
        raise UserError(
            f"router {recipe.moe.router} looks at the tokens that follow, and none are written yet",
            where="moe.router",
            hint="A model with another router can generate.",
        )
    if model.attention == "rope" and block < model.span:
        model = model.model_copy(update={"span": block})
    return recipe.model_copy(update={"model": model})


class Reader:
    """A model and the text it has read so far.

    Args:
        model: in evaluation mode.
        context: the step information for routers.
        at_once: most tokens read in one forward pass.
    """

    def __init__(
        self,
        model: TextModel,
        context: StepContext | None = None,
        at_once: int = READ_AT_ONCE,
    ):
        self.model = model
        self.context = context
        self.at_once = at_once
        self.device = next(model.parameters()).device
        self.memory = model.initial_cache(1)
        self._end = None if model.document_end is None else int(model.document_end)

    @torch.inference_mode()
    def read(self, tokens: Sequence[int]) -> tuple[Tensor, list[Step]]:
        """Read on.

        Args:
            tokens: at least one id.

        Returns:
            Logits [V] of the token after them, and the experts each of them went to.
        """
        steps: list[Step] = []
        for part in self._parts(tokens):
            if part[0] == self._end:
                self.memory = self.model.initial_cache(1)
            ids_1M = torch.tensor([part], device=self.device)
            found = self.model.read_on(ids_1M, self.memory, self.context)
            self.memory = found.memory
            layers = [_or_none(expert_T) for expert_T in found.foremost]
            experts = zip(*layers, strict=True) if layers else ([] for _ in part)
            steps += [Step(token, list(own)) for token, own in zip(part, experts, strict=True)]
        return found.logits_V, steps

    def _parts(self, tokens: Sequence[int]) -> Iterator[Sequence[int]]:
        """What is read at once; an end token that attention depends on begins a part."""
        start = 0
        for stop in range(1, len(tokens) + 1):
            ends = stop == len(tokens) or tokens[stop] == self._end
            if ends or stop - start == self.at_once:
                yield tokens[start:stop]
                start = stop


def generate(
    reader: Reader,
    prompt: Sequence[int],
    tokens: int,
    sampling: Sampling,
    end_id: int | None = None,
    vocab_size: int | None = None,
) -> Iterator[Step]:
    """The prompt, and then one token after the other, each as soon as it is drawn.

    Args:
        reader: a model that has read nothing, or the text before the prompt.
        prompt: at least one id.
        tokens: how many to add.
        sampling: how they are drawn.
        end_id: the token that ends a document; the text ends before it.
        vocab_size: of the tokenizer; models of Hugging Face often have more ids, which have no text
            and are never drawn. None: all ids of the model.
    """
    generator = torch.Generator()
    generator.seed() if sampling.seed is None else generator.manual_seed(sampling.seed)
    logits_V, steps = reader.read(prompt)
    yield from steps
    for _ in range(tokens):
        token = draw(logits_V[:vocab_size], sampling, generator)
        if token == end_id:
            return
        logits_V, steps = reader.read([token])
        yield from steps


def draw(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token, drawn on the host so that a seed draws the same on every device.

    Args:
        logits_V: of a model, on any device.
        generator: of the CPU.
    """
    logits_V = logits_V.float().cpu()
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    # The largest logit is subtracted first: divided by a small temperature it would be infinite.
    # The smallest temperatures would be 0 in fp32; below this one nothing changes.
    temperature = max(sampling.temperature, 1e-30)
    probability_V = ((logits_V - logits_V.max()) / temperature).softmax(0)
    if sampling.top_p < 1:
        sorted_V, order_V = probability_V.sort(descending=True, stable=True)
        before_V = sorted_V.cumsum(0) - sorted_V
        probability_V[order_V[before_V >= sampling.top_p]] = 0
    return int(torch.multinomial(probability_V, 1, generator=generator))


def _or_none(expert_T: Tensor) -> list[int | None]:
    return [expert if expert >= 0 else None for expert in expert_T.tolist()]
