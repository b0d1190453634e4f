"""One backbone for every architecture: a pattern of sub-layers behind an embedding.

Losses of all MoE layers are summed by name and returned; nothing is stored on a module.
LanguageModel adds an output layer to the backbone, Classifier a linear layer over classes.

With `data.attend_within_documents`, attention sees only the document of each position: an end token
and the text after it, up to the next. The end token predicts the first token of its document
without any context, and every document gets the same hidden states as if it was read alone.

Shapes: B batch, M block, L span, D model width, V vocabulary, W head width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from simsmoe_cli.kernels.cross_entropy import total_cross_entropy
from simsmoe_cli.model.blocks import SubLayer, make_norm
from simsmoe_cli.model.flops import forward_flops, similarity_flops
from simsmoe_cli.model.interface import MoEModel, ReadOn, TextModel
from simsmoe_cli.moe.balance import routed_slots
from simsmoe_cli.moe.layer import MoELayer, MoEOutput
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.similarity.cost import Cost
from simsmoe_cli.similarity.learning import SimilarityResult
from simsmoe_cli.similarity.routed import Routed


def _as_it_is(layer: SubLayer) -> SubLayer:
    return layer


_built: ContextVar[Callable[[SubLayer], SubLayer]] = ContextVar("built", default=_as_it_is)


@contextlib.contextmanager
def each_built(change: Callable[[SubLayer], SubLayer]) -> Iterator[None]:
    """Within it, each sub-layer of a model is changed before the next one is built, so that a model
    need not be whole at any time."""
    token = _built.set(change)
    try:
        yield
    finally:
        _built.reset(token)


@dataclass
class BackboneOutput:
    """The backbone's output for one block of text.

    Attributes:
        hidden: [B, M, D], normalised for the output layer.
        memory: for the next block of the same streams, one [B, L, D] per attention sub-layer;
            empty without relative attention.
        losses: auxiliary losses summed over layers, by name, without coefficients.
        moe: output of each MoE layer, in order.
    """

    hidden: Tensor
    memory: list[Tensor]
    losses: dict[str, Tensor]
    moe: list[MoEOutput]

    @property
    def similarities(self) -> list[SimilarityResult]:
        """The result of similarity learning in each layer where it is on."""
        return [layer.similarity for layer in self.moe if layer.similarity is not None]

    @property
    def metrics(self) -> list[dict[str, Tensor]]:
        """What the router of each layer reports, by name."""
        return [layer.routing.metrics for layer in self.moe]

    @property
    def slots(self) -> list[Tensor]:
        """Routed slots that each expert received, [N] fp32 of each MoE layer."""
        routings = [layer.routing for layer in self.moe]
        return [routed_slots(one.index_TK, one.logits_TN.shape[1]) for one in routings]


@dataclass
class ModelOutput(BackboneOutput):
    """A backbone's output with logits [B, M, V]."""

    logits: Tensor


@dataclass
class ScoreOutput(BackboneOutput):
    """A backbone's output with the code length of the targets in nats, a scalar."""

    nats: Tensor


class Backbone(MoEModel):
    """Embedding and sub-layers.

    Args:
        recipe: its sections model, moe and similarity are read, and data.attend_within_documents.
        vocab_size: V.

    Attributes:
        document_end: the token that begins another document, kept with the weights; None where
            attention does not depend on documents.
    """

    document_end: Tensor | None

    def __init__(self, recipe: Recipe, vocab_size: int):
        super().__init__()
        settings = recipe.model
        self.recipe = recipe
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, settings.width)
        self.position: nn.Parameter | None = None
        if settings.attention == "relative":
            head_width = settings.width // settings.heads
            self.position = nn.Parameter(torch.randn(head_width, settings.span))
        within = recipe.data.attend_within_documents
        self.register_buffer("document_end", torch.tensor(-1) if within else None)
        kinds = settings.sublayers
        self.layers = nn.ModuleList(
            _built.get()(
                SubLayer(kind, recipe, vocab_size, kinds[:number].count("g"), kinds.count("g"))
            )
            for number, kind in enumerate(kinds)
        )
        self.norm = make_norm(settings) if settings.norm_position == "pre" else nn.Identity()

    @property
    def moe_layers(self) -> list[MoELayer]:
        """The MoE layers, in order."""
        return [module for module in self.modules() if isinstance(module, MoELayer)]

    def route(self, tokens_BM: Tensor, context: StepContext) -> list[Routed]:
        with self.watching(context.real_T) as seen:
            self.encode(tokens_BM, (), context)
        return seen

    @contextlib.contextmanager
    def watching(self, real_T: Tensor | None = None) -> Iterator[list[Routed]]:
        seen: list[Routed] = []

        def record(layer: nn.Module, given: tuple[Any, ...], output: MoEOutput) -> None:
            x_TD = given[0].flatten(0, -2)
            if real_T is not None:
                x_TD = x_TD.index_select(0, real_T)
            routing = output.routing
            seen.append(Routed(x_TD, routing.index_TK, routing.logits_TN, routing.weight_TK))

        hooks = [layer.register_forward_hook(record) for layer in self.moe_layers]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    @property
    def expert_layers(self) -> list[tuple[str, int]]:
        names = {module: name for name, module in self.named_modules()}
        return [(names[layer], self.recipe.moe.experts) for layer in self.moe_layers]

    @property
    def router_name(self) -> str:
        return self.recipe.moe.router

    @property
    def experts_per_token(self) -> int | None:
        return self.recipe.moe.top_k

    def similarity_cost(self, tokens: int) -> Cost | None:
        layers, flops = len(self.moe_layers), forward_flops(self)
        return similarity_flops(self.recipe, layers, flops, tokens)

    def dense(self, layer: int, x_TD: Tensor) -> Tensor:
        with_experts = [part for part in self.layers if getattr(part, "kind", "") == "g"]
        return cast(SubLayer, with_experts[layer]).dense(x_TD)

    def router(self, layer: int) -> nn.Module:
        return self.moe_layers[layer].router

    def expert_weights(self, layer: int) -> list[Tensor]:
        experts = self.moe_layers[layer].experts
        entering, leaving = experts.w_in.detach(), experts.w_out.detach().mT
        if experts.b_in is not None:
            entering = torch.cat([entering, experts.b_in.detach()[..., None]], dim=-1)
        # SwiGLU stacks gate and up: a hidden unit has a row of each.
        halves = list(entering.chunk(2, dim=1)) if experts.swiglu else [entering]
        return [*halves, leaving]

    def initial_memory(self, batch: int) -> list[Tensor]:
        """Memory at the start of streams: zeros, one [B, L, D] per attention sub-layer."""
        if self.position is None:
            return []
        settings = self.recipe.model
        shape = (batch, settings.span, settings.width)
        attentions = settings.sublayers.count("s")
        return [torch.zeros(shape, device=self.position.device) for _ in range(attentions)]

    def initial_cache(self, batch: int) -> list[Tensor]:
        """The initial memory for `encode` to read a text piece by piece: carried memory, or empty
        caches of keys and values, [B, 0, 2D], with rotary positions.
        """
        settings = self.recipe.model
        if settings.attention == "relative":
            return self.initial_memory(batch)
        attentions = settings.sublayers.count("s")
        return [self.embedding.weight.new_empty(batch, 0, 2 * settings.width)] * attentions

    def encode(
        self,
        tokens_BM: Tensor,
        memory: Sequence[Tensor] = (),
        context: StepContext | None = None,
    ) -> BackboneOutput:
        """Hidden states of each position.

        Args:
            tokens_BM: vocabulary ids, int64.
            memory: returned by the previous block; empty at the start of streams.
            context: the step information for routers.
        """
        memory = memory or self.initial_memory(tokens_BM.shape[0])
        hidden, next_memory, outputs = self.through(
            range(len(self.layers)), self.embedding(tokens_BM), tokens_BM, memory, context
        )
        losses: dict[str, Tensor] = {}
        for output in outputs:
            for name, loss in output.losses.items():
                losses[name] = losses[name] + loss if name in losses else loss
        return BackboneOutput(self.norm(hidden), next_memory, losses, outputs)

    def through(
        self,
        layers: range,
        hidden: Tensor,
        tokens_BM: Tensor,
        memory: Sequence[Tensor] = (),
        context: StepContext | None = None,
    ) -> tuple[Tensor, list[Tensor], list[MoEOutput]]:
        """Hidden states through some consecutive sub-layers.

        Args:
            layers: which, of `self.layers`.
            hidden: in front of the first of them, [B, M, D].
            tokens_BM: vocabulary ids, int64.
            memory: of the attention sub-layers among them, in order.
            context: the step information for routers.

        Returns:
            The hidden states after the last of them, not normalised; the memory for the next block
            of the attention sub-layers; the output of each MoE layer.
        """
        context, ids_T = context or StepContext(), tokens_BM.flatten()
        document_BM = None
        if self.document_end is not None:
            document_BM = (tokens_BM == self.document_end).cumsum(1)
        remembered = iter(memory)
        next_memory: list[Tensor] = []
        outputs: list[MoEOutput] = []
        for number in layers:
            layer = self.layers[number]
            assert isinstance(layer, SubLayer)
            if layer.kind == "s":
                hidden, new = layer.attend(
                    hidden, next(remembered, None), self.position, document_BM
                )
                if new is not None:
                    next_memory.append(new)
            elif layer.kind == "g":
                hidden, output = layer.mix(hidden, context, ids_T)
                outputs.append(output)
            else:
                hidden = layer.feed_forward(hidden)
        return hidden, next_memory, outputs


class LanguageModel(Backbone, TextModel):
    """A sparse mixture-of-experts language model; see `Backbone`."""

    def __init__(self, recipe: Recipe, vocab_size: int):
        super().__init__(recipe, vocab_size)
        settings = recipe.model
        self.output = nn.Linear(settings.width, vocab_size, bias=settings.bias)
        if settings.norm_position == "pre":
            nn.init.normal_(self.embedding.weight, std=0.02)
            nn.init.normal_(self.output.weight, std=0.02)
        if settings.tie_embeddings:
            self.output.weight = self.embedding.weight

    def forward(
        self,
        tokens_BM: Tensor,
        memory: Sequence[Tensor] = (),
        context: StepContext | None = None,
    ) -> ModelOutput:
        """Predict the token after each position; arguments as `encode` takes them."""
        found = self.encode(tokens_BM, memory, context)
        return ModelOutput(
            found.hidden, found.memory, found.losses, found.moe, self.output(found.hidden)
        )

    def score(
        self,
        tokens_BM: Tensor,
        targets_BM: Tensor,
        memory: Sequence[Tensor] = (),
        context: StepContext | None = None,
    ) -> ScoreOutput:
        """The loss of the targets in nats, summed; logits are never all in memory at once.

        Args:
            tokens_BM, memory, context: as `encode` takes them.
            targets_BM: the token after each position, int64; -100 is ignored.
        """
        found = self.encode(tokens_BM, memory, context)
        nats = total_cross_entropy(
            found.hidden.flatten(0, 1), self.output.weight, self.output.bias, targets_BM.flatten()
        )
        return ScoreOutput(found.hidden, found.memory, found.losses, found.moe, nats)

    def read_on(self, tokens_1M: Tensor, memory: Any, context: StepContext | None) -> ReadOn:
        found = self.encode(tokens_1M, memory, context)
        foremost = [layer.routing.foremost_T() for layer in found.moe]
        return ReadOn(self.output(found.hidden[0, -1]), foremost, found.memory)
