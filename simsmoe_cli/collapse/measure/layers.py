"""Measures a whole model, layer by layer, from a `Source`.

While the text goes through a layer, routing counts are kept for all tokens, and inputs (T x D
numbers) for the rows that similarity is measured on. When a layer has seen the whole text, its
experts run on all kept rows (N x T x D numbers), `layer.measure_all` compares the outputs, and only
the findings are kept. So the memory does not grow with the length of the text, and the memory for
expert outputs does not grow with the number of layers.

Shapes: T tokens or rows, D model width, N experts, K experts per token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from simsmoe_cli.collapse.difference import Difference
from simsmoe_cli.collapse.findings import Findings, LayerFindings, defined
from simsmoe_cli.collapse.measure.across_layers import overall
from simsmoe_cli.collapse.measure.difference import difference_of, pair_to_show, with_labels
from simsmoe_cli.collapse.measure.layer import Layer, all_outputs, measure_all
from simsmoe_cli.collapse.measure.linear_cka import FEWEST_ROWS, count_of_blocks
from simsmoe_cli.collapse.measure.options import Bounds, Options
from simsmoe_cli.collapse.measure.routing import Counts
from simsmoe_cli.collapse.measure.specialisation import token_specialisation
from simsmoe_cli.collapse.measure.unigram_loss import frequency_nats
from simsmoe_cli.collapse.pairs import Pair
from simsmoe_cli.collapse.sources.base import Reading, Source
from simsmoe_cli.collapse.subject import Settings, Text
from simsmoe_cli.errors import DataError
from simsmoe_cli.run.dead_experts import DEAD_BELOW
from simsmoe_cli.run.layer_labels import layer_labels
from simsmoe_cli.run.score import bits, perplexity
from simsmoe_cli.similarity.routed import Routed


def measure(
    source: Source,
    options: Options | None = None,
    on_progress: Callable[[float, int], None] | None = None,
    layers: Sequence[int] | None = None,
) -> Findings:
    """Measure everything.

    Args:
        source: a model and its text.
        options: how much; the defaults if None.
        on_progress: told which share of the forward pass is done and how many layers are measured.
        layers: indices, in order, of the layers to measure; all if None. The text also goes through
            the other layers, so that the loss is that of the whole model.

    Raises:
        UserError: the text has too few tokens.
    """
    options = options or Options()
    layers = range(len(source.layers)) if layers is None else layers
    measurer = _Measurer(source, options, layers, on_progress or (lambda share, done: None))
    reading = source.walk(options.all_tokens, options.rows, measurer, layers)
    ids, bounds = reading.ids[: options.rows], measurer.bounds
    found = [measurer.with_tokens(layer, reading.read_T) for layer in measurer.found]
    return Findings(
        subject=source.subject,
        text=_text(source, reading, len(ids)),
        settings=Settings(
            level=options.level,
            resamples=options.resamples,
            blocks=count_of_blocks(len(ids), options.blocks),
            rbf_rows=min(bound.rbf_rows for bound in bounds),
            rank_rows=min(bound.rank_rows for bound in bounds),
            dead_below=DEAD_BELOW,
            seed=options.seed,
        ),
        layers=found,
        overall=overall(found, options.resamples, options.level, options.seed),
        difference=with_labels(measurer.difference, source, ids),
        history=source.history,
    )


def with_pair_of(findings: Findings, source: Source, options: Options, other: Findings) -> Findings:
    """The findings, with the difference measured for the same pair of experts as in another run.

    Unchanged where that pair is missing or undefined here.

    Args:
        findings: measured from `source` with `options`; the text is read again.
        other: findings of the other run.
    """
    shown = other.difference
    theirs = None if shown is None else other.layer_at(shown.layer)
    layer = None if theirs is None else findings.partner_of(theirs, other)
    if shown is None or layer is None:
        return findings
    i, j = shown.experts
    cka = layer.cka[i][j] if max(i, j) < layer.experts else None
    if cka is None:
        return findings
    one = _OnePair(source, options, Pair(layer, i, j, cka))
    reading = source.walk(options.all_tokens, options.rows, one, [layer.layer], loss=False)
    difference = with_labels(one.difference, source, reading.ids[: options.rows])
    return findings.model_copy(update={"difference": difference})


class Keeper:
    """Keeps the rows of each layer until it has seen the whole text, then calls `on_layer`.

    A source gives whole windows of text; only as many of their tokens are kept as were asked for.
    """

    def __init__(self, source: Source, options: Options, layers: Sequence[int]):
        self.source, self.options = source, options
        self.rows: dict[int, list[Routed]] = {layer: [] for layer in layers}
        self.difference: Difference | None = None

    def routed(self, layer: int, routed: Routed, rows: bool) -> None:
        if rows:
            self.rows[layer].append(routed)

    def seen(self, layer: int) -> None:
        parts = self.rows.pop(layer)
        count = min(sum(len(part.input_TD) for part in parts), self.options.rows)
        if count < FEWEST_ROWS:
            raise DataError(
                f"experts cannot be compared on fewer than {FEWEST_ROWS} rows, got {count}",
                where="--tokens",
                hint="Use more tokens, or a split with more text.",
            )
        input_TD = torch.cat([part.input_TD for part in parts])[:count]
        index_TK = torch.cat([part.index_TK for part in parts])[:count]
        weights = [part.weight_TK for part in parts if part.weight_TK is not None]
        weight_TK = torch.cat(weights)[:count] if len(weights) == len(parts) else None
        parts.clear()
        self.on_layer(layer, Routed(input_TD, index_TK, None, weight_TK))

    def on_layer(self, layer: int, rows: Routed) -> None:
        raise NotImplementedError

    def progress(self, share: float) -> None:
        pass


class _Measurer(Keeper):
    """Measures each layer as soon as it has seen the text."""

    def __init__(
        self,
        source: Source,
        options: Options,
        layers: Sequence[int],
        on_progress: Callable[[float, int], None],
    ):
        super().__init__(source, options, layers)
        self.on_progress = on_progress
        self.counts = {layer: Counts.of(source.layers[layer].experts) for layer in layers}
        self.index: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        self.found: list[LayerFindings] = []
        self.bounds: list[Bounds] = []
        self.labels = layer_labels([layer.name for layer in source.layers])
        self.passed = 0.0

    def routed(self, layer: int, routed: Routed, rows: bool) -> None:
        self.counts[layer].add(routed)
        self.index[layer].append(routed.index_TK.to("cpu", torch.int32))
        super().routed(layer, routed, rows)

    def on_layer(self, layer: int, rows: Routed) -> None:
        counts = self.counts.pop(layer)
        measured = Layer(
            self.source, layer, counts, rows.input_TD, rows.index_TK, self.options, rows.weight_TK
        )
        del rows
        found = measure_all(measured, self.labels[layer])
        self.found.append(found)
        self.bounds.append(measured.bounds)
        pair = pair_to_show(found)
        least = -math.inf if self.difference is None else self.difference.cka
        if pair is not None and pair.cka is not None and pair.cka > least:
            self.difference = difference_of(pair, measured.outputs_NTD)
        self.progress(self.passed)

    def with_tokens(self, layer: LayerFindings, read_T: Tensor) -> LayerFindings:
        """The findings of a layer with the tokens that its experts receive."""
        index_TK = torch.cat(self.index[layer.layer]).long()
        if layer.load[0] is None or len(index_TK) != len(read_T):  # routing is undefined
            return layer
        text_of = self.source.text_of
        return layer.model_copy(
            update=token_specialisation(index_TK, read_T, layer.experts, text_of)
        )

    def progress(self, share: float) -> None:
        self.passed = share
        self.on_progress(share, len(self.found))


class _OnePair(Keeper):
    """Makes the difference of one pair of one layer."""

    def __init__(self, source: Source, options: Options, pair: Pair):
        super().__init__(source, options, [pair.layer.layer])
        self.pair = pair

    def on_layer(self, layer: int, rows: Routed) -> None:
        self.difference = difference_of(self.pair, all_outputs(self.source, layer, rows.input_TD))


def _text(source: Source, reading: Reading, rows: int) -> Text:
    """The text that was read, and how well it was predicted."""
    loss = reading.nats / reading.scored if reading.scored else None
    of_token = loss if reading.right is None else None
    read = reading.read_T.cpu().long().numpy()
    return Text(
        corpus=source.corpus,
        split=source.split,
        notes=source.notes,
        unit=source.unit,
        tokens=reading.tokens,
        rows=rows,
        block=source.block,
        scored=reading.scored,
        loss_nats=defined(loss),
        bpc=None
        if of_token is None
        else defined(bits(of_token * source.tokens_per_unit, source.unit)),
        perplexity=None if of_token is None else defined(perplexity(of_token)),
        accuracy=None if reading.right is None else reading.right / reading.scored,
        choices=reading.choices,
        distinct=len(set(read.tolist())),
        frequency_nats=frequency_nats(read, reading.choices) if reading.right is None else None,
    )
