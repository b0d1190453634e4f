"""Everything a report measures, from a `Source`, layer by layer.

METHODS section 5. While the text goes through a layer, counts of all tokens are kept and, of the
rows that similarity is measured on, the inputs (T x D numbers). When a layer has seen all of it,
its experts run on all its rows (N x T x D numbers), those are compared, and nothing but findings is
kept. So the memory needed does not grow with the text, nor the experts' part of it with the layers.

What costs more than in proportion to the rows is bounded (`Options.products`, `Options.matching`):
it is measured on fewer pairs of rows, rows, hidden units or pairs of experts than there are, and
findings say on how many.

Shapes: T tokens or rows, D model width, N experts, K experts per token, L layers with experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from simsmoe_cli.attach.expert_calls import Routed
from simsmoe_cli.collapse.findings import (
    Difference,
    Estimate,
    Findings,
    LayerFindings,
    Null,
    Settings,
    Text,
)
from simsmoe_cli.collapse.measure import intervals as statistics
from simsmoe_cli.collapse.measure.across_layers import (
    defined,
    difference_of,
    matrix,
    most_alike,
    overall,
    spread,
    with_labels,
)
from simsmoe_cli.collapse.measure.exact_copies import exact_copies
from simsmoe_cli.collapse.measure.unigram_loss import frequency_nats
from simsmoe_cli.collapse.sources.base import Reading, Source
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.run.layer_labels import layer_labels
from simsmoe_cli.similarity.cka import pairwise_rbf_cka

DEAD_BELOW = 0.01  # of a fair share of the load, as in the probes of training
NULL_DRAWS = 100  # pairs of shuffled experts, at least, as far as NULL_PASSES allow
RBF_NULL_DRAWS = 40  # a pass costs more
NULL_PASSES = 20
NULL_EXPERTS = 16  # that are shuffled in a pass, at most: 120 pairs
DENSE_BYTES = 2**28  # of what all experts give at once
OF_RUNNING = 24  # comparing costs at most this part of running all experts, if that is more
RBF_PASSES = 4  # a kernel's exponentials and sums beside its product
OF_AN_EIGENVALUE = 64  # multiplications for each entry of a matrix and eigenvalue of it
BOOTSTRAP = "percentile bootstrap of {blocks} blocks of rows, {resamples} times"


@dataclass(frozen=True)
class Options:
    """How much is measured, and how closely.

    Attributes:
        rows: tokens that all experts see.
        tokens: tokens read for load, routing and loss; None: four times the rows.
        blocks, resamples, level: of the bootstrap.
        rbf_rows, rank_rows: rows of the RBF CKA and of the effective rank at most, whose cost grows
            faster than the rows.
        products: multiplications that each measure of a layer may cost which grows faster than the
            rows: Gram matrices, RBF kernels, effective ranks. A 24th of what running all experts
            costs, where that is more.
        matching: multiplications the matching of hidden units of a layer may cost.
        seed: of all that is drawn.
    """

    rows: int = 4096
    tokens: int | None = None
    blocks: int = 32
    resamples: int = 1000
    level: float = 0.95
    rbf_rows: int = 512
    rank_rows: int = 1024
    products: float = 4e10
    matching: float = 2e10
    seed: int = 0

    @property
    def all_tokens(self) -> int:
        """How many tokens are read."""
        return max(self.tokens or 4 * self.rows, self.rows)


@dataclass
class _Counts:
    """Sums over all tokens of one layer.

    Sums mean nothing once a token's input or router scores were not finite.
    """

    chosen_N: Tensor
    shared_NN: Tensor
    probability_N: Tensor
    entropy: float = 0.0  # NaN where a router gives no distribution
    top_k: int = 0
    tokens: int = 0
    non_finite_inputs: int = 0
    non_finite_scores: int = 0

    @classmethod
    def of(cls, experts: int) -> _Counts:
        """Nothing counted yet."""
        return cls(
            torch.zeros(experts, dtype=torch.float64),
            torch.zeros(experts, experts, dtype=torch.float64),
            torch.zeros(experts, dtype=torch.float64),
        )

    @property
    def defined(self) -> bool:
        return not (self.non_finite_inputs or self.non_finite_scores)

    def add(self, routed: Routed) -> None:
        index_TK, logits_TN = routed.index_TK, routed.logits_TN
        finite_T = routed.input_TD.isfinite().all(-1)
        self.non_finite_inputs += int((~finite_T).sum())
        chosen_TN = statistics.received(index_TK, self.chosen_N.numel()).float()
        self.chosen_N += chosen_TN.sum(0).double().cpu()
        self.shared_NN += (chosen_TN.T @ chosen_TN).double().cpu()
        self.top_k = max(self.top_k, index_TK.shape[1])
        self.tokens += len(index_TK)
        if logits_TN is None:
            self.entropy = math.nan
            self.probability_N.fill_(math.nan)
            return
        probability_TN = logits_TN.float().softmax(-1)  # a score of -inf is none
        scored_T = probability_TN.isfinite().all(-1)
        self.non_finite_scores += int((finite_T & ~scored_T).sum())
        self.probability_N += probability_TN.sum(0).double().cpu()
        self.entropy += torch.special.entr(probability_TN).sum().item()


@dataclass
class _Rows:
    """What is kept of the rows that similarity is measured on, of one layer."""

    inputs_TD: list[Tensor] = field(default_factory=list)
    index_TK: list[Tensor] = field(default_factory=list)

    def add(self, routed: Routed) -> None:
        self.inputs_TD.append(routed.input_TD)
        self.index_TK.append(routed.index_TK)


class _Keeper:
    """Keeps the rows of layers until each has seen all of them; then `on_layer` is called."""

    def __init__(self, layers: Collection[int]):
        self.rows = {place: _Rows() for place in layers}

    def routed(self, layer: int, routed: Routed, rows: bool) -> None:
        if rows:
            self.rows[layer].add(routed)

    def seen(self, layer: int) -> None:
        rows = self.rows.pop(layer)
        count = sum(map(len, rows.inputs_TD))
        if count < statistics.FEWEST_ROWS:
            raise UserError(
                f"{count} rows are too few to compare experts on",
                where="--tokens",
                hint="Use more tokens, or a split with more text.",
                code=EXIT_DATA,
            )
        self.on_layer(layer, torch.cat(rows.inputs_TD), torch.cat(rows.index_TK))

    def on_layer(self, layer: int, input_TD: Tensor, index_TK: Tensor) -> None:
        raise NotImplementedError

    def progress(self, share: float) -> None:
        pass


class _Measurer(_Keeper):
    """Measures each layer as soon as it has seen the text."""

    def __init__(
        self,
        source: Source,
        options: Options,
        layers: Sequence[int],
        on_progress: Callable[[float, int], None],
    ):
        super().__init__(layers)
        self.source = source
        self.options = options
        self.on_progress = on_progress
        self.counts = {place: _Counts.of(source.layers[place].experts) for place in layers}
        self.found: list[LayerFindings] = []
        self.bounds: list[_Bounds] = []
        self.labels = layer_labels([layer.name for layer in source.layers])
        self.difference: Difference | None = None
        self.passed = 0.0

    def routed(self, layer: int, routed: Routed, rows: bool) -> None:
        self.counts[layer].add(routed)
        super().routed(layer, routed, rows)

    def on_layer(self, layer: int, input_TD: Tensor, index_TK: Tensor) -> None:
        found, outputs_NTD, bounds = _layer(
            self.source, layer, self.counts.pop(layer), input_TD, index_TK, self.options
        )
        self.found.append(found.model_copy(update={"label": self.labels[layer]}))
        self.bounds.append(bounds)
        pair = most_alike(found)
        if pair is not None and (self.difference is None or pair[2] > self.difference.cka):
            self.difference = difference_of(found, pair, outputs_NTD)
        self.progress(self.passed)

    def progress(self, share: float) -> None:
        self.passed = share
        self.on_progress(share, len(self.found))


class _OnePair(_Keeper):
    """Makes the difference of one pair of one layer."""

    def __init__(self, source: Source, found: LayerFindings, pair: tuple[int, int, float]):
        super().__init__([found.layer])
        self.source, self.found, self.pair = source, found, pair
        self.difference: Difference | None = None

    def on_layer(self, layer: int, input_TD: Tensor, index_TK: Tensor) -> None:
        outputs_NTD = _outputs(self.source, layer, input_TD)
        self.difference = difference_of(self.found, self.pair, outputs_NTD)


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
        layers: places, in order, of the layers to measure; all if None. The text goes through the
            others as well, so that the loss is the model's.

    Raises:
        UserError: the text has too few tokens.
    """
    options = options or Options()
    layers = range(len(source.layers)) if layers is None else layers
    measurer = _Measurer(source, options, layers, on_progress or (lambda share, done: None))
    reading = source.walk(options.all_tokens, options.rows, measurer, layers)
    rows = len(reading.ids)
    found, bounds = measurer.found, measurer.bounds
    return Findings(
        subject=source.subject,
        text=_text(source, reading),
        settings=Settings(
            level=options.level,
            resamples=options.resamples,
            blocks=max(1, min(options.blocks, rows // statistics.FEWEST_ROWS)),
            rbf_rows=min(bound.rbf_rows for bound in bounds),
            rank_rows=min(bound.rank_rows for bound in bounds),
            dead_below=DEAD_BELOW,
            seed=options.seed,
        ),
        layers=found,
        overall=overall(found, options.resamples, options.level, options.seed),
        difference=with_labels(measurer.difference, source, reading.ids),
        history=source.history,
    )


def with_pair_of(findings: Findings, source: Source, options: Options, other: Findings) -> Findings:
    """The findings with the difference of the pair of experts that another run's is of.

    Unchanged where that pair is missing or undefined here.

    Args:
        findings: measured from `source` with `options`; the text is read again.
        other: findings of the other run.
    """
    shown = other.difference
    layer = None if shown is None else findings.layer_at(shown.layer)
    if shown is None or layer is None:
        return findings
    i, j = shown.experts
    cka = layer.cka[i][j] if max(i, j) < layer.experts else None
    if cka is None:
        return findings
    one = _OnePair(source, layer, (i, j, cka))
    reading = source.walk(options.all_tokens, options.rows, one, [shown.layer], loss=False)
    difference = with_labels(one.difference, source, reading.ids)
    return findings.model_copy(update={"difference": difference})


def _text(source: Source, reading: Reading) -> Text:
    """What was read, and how well it was predicted."""
    loss = reading.nats / reading.scored if reading.scored else None
    of_token = loss if reading.right is None else None
    read = reading.read_T.cpu().long().numpy()
    return Text(
        corpus=source.corpus,
        split=source.split,
        notes=source.notes,
        unit=source.unit,
        tokens=reading.tokens,
        rows=len(reading.ids),
        block=source.block,
        scored=reading.scored,
        loss_nats=defined(loss),
        bpc=defined(of_token / math.log(2))
        if of_token is not None and source.unit in ("byte", "character")
        else None,
        perplexity=None if of_token is None else defined(math.exp(min(of_token, 700.0))),
        accuracy=None if reading.right is None else reading.right / reading.scored,
        choices=reading.choices,
        distinct=len(set(read.tolist())),
        frequency_nats=frequency_nats(read, reading.choices) if reading.right is None else None,
    )


def _outputs(source: Source, layer: int, input_TD: Tensor) -> Tensor:
    """All experts of a layer on all rows, [N, T, D] fp32, some rows at a time."""
    rows, width = input_TD.shape
    experts = source.layers[layer].experts
    outputs_NTD: Tensor | None = None
    step = max(1, DENSE_BYTES // (4 * experts * width))
    for start in range(0, rows, step):
        part_NRD = source.dense(layer, input_TD[start : start + step])
        if outputs_NTD is None:
            outputs_NTD = part_NRD.new_empty(experts, rows, part_NRD.shape[2])
        outputs_NTD[:, start : start + step] = part_NRD
    assert outputs_NTD is not None
    return outputs_NTD


@dataclass(frozen=True)
class _Bounds:
    """How much of a layer is compared with what grows faster than its rows.

    Attributes:
        partners: of a block of rows in the linear CKA, as in `statistics.cka_with_interval`.
        rbf_rows, rank_rows: rows of the RBF CKA and of the effective rank.
    """

    partners: int | None
    rbf_rows: int
    rank_rows: int

    @classmethod
    def of(cls, options: Options, products: float, experts: int, rows: int, width: int) -> _Bounds:
        """Bounds of a layer of N experts, T rows and D features, by multiplications allowed."""
        rbf = int((products / (RBF_PASSES * experts * width)) ** 0.5)
        rank = int((products / (experts * OF_AN_EIGENVALUE)) ** (1 / 3))
        if rank >= width:  # the matrix whose eigenvalues are taken is no larger
            rank = rows
        return cls(
            statistics.partners(experts, rows, width, options.blocks, products),
            min(rows, options.rbf_rows, max(rbf, statistics.FEWEST_SHARED)),
            min(rows, options.rank_rows, max(rank, statistics.FEWEST_SHARED)),
        )


def _layer(
    source: Source,
    number: int,
    count: _Counts,
    input_TD: Tensor,
    index_TK: Tensor,
    options: Options,
) -> tuple[LayerFindings, Tensor, _Bounds]:
    """Everything about one layer, its experts' outputs [N, T, D], and how much was compared."""
    spec = source.layers[number]
    experts, rows = spec.experts, len(input_TD)
    parts = source.weights(number)
    weights = sum(part.numel() for part in parts)
    seed = options.seed * 1_000_003 + number
    matched = statistics.matched_units(
        parts, options.matching, torch.Generator().manual_seed(seed + 500_000)
    )
    weight_cosine = matrix(statistics.flat_cosine(parts))
    outputs_NTD = _outputs(source, number, input_TD)
    finite_T = input_TD.isfinite().all(-1)
    non_finite = _non_finite(parts, outputs_NTD, finite_T)
    copies = exact_copies(parts, outputs_NTD)
    del parts, input_TD
    source.release(number)
    if not finite_T.all():
        outputs_NTD = torch.full_like(outputs_NTD, torch.nan)
    products = max(options.products, rows * weights / OF_RUNNING)
    bounds = _Bounds.of(options, products, experts, rows, outputs_NTD.shape[2])
    generator = torch.Generator().manual_seed(seed)
    bootstrap = (options.blocks, options.resamples, options.level, generator, bounds.partners)
    standard = statistics.Standardised(outputs_NTD)
    cka = statistics.cka_with_interval(standard, *bootstrap)
    rbf_NTD = statistics.median_scaled(outputs_NTD[:, spread(rows, bounds.rbf_rows)])
    null, biased_null, rbf_null = _nulls(outputs_NTD, rbf_NTD, options.blocks, bounds, generator)
    rank_NTD = outputs_NTD[:, spread(rows, bounds.rank_rows)]
    load_N = count.chosen_N / count.chosen_N.sum().clamp(min=1)
    mean_load = load_N.mean().item()
    probability_N = count.probability_N / count.tokens
    pairs = int(torch.triu(~cka.debiased.isnan(), 1).sum())
    value, low, high = cka.mean
    shared_NN = (count.shared_NN / count.tokens).fill_diagonal_(0)
    cka_shared_NN = statistics.cka_of_shared(outputs_NTD, index_TK, products)
    if not count.defined:
        for routing in (load_N, shared_NN, cka_shared_NN):
            routing.fill_(torch.nan)
    found = LayerFindings(
        layer=number,
        name=spec.name,
        experts=experts,
        top_k=count.top_k,
        cka=matrix(cka.debiased),
        cka_low=matrix(cka.low),
        cka_high=matrix(cka.high),
        cka_null=null,
        cka_mean=Estimate(
            value=defined(value),
            low=defined(low),
            high=defined(high),
            n=pairs,
            of="pairs",
            null_mean=null.mean,
            null_high=null.quantile_95,
            method=BOOTSTRAP.format(
                blocks=min(options.blocks, rows // statistics.FEWEST_ROWS),
                resamples=options.resamples,
            )
            + ("" if cka.row_pairs == 1 else f"; {cka.row_pairs:.0%} of the pairs of rows")
            + "; null: of one pair, its 95 % quantile",
        ),
        cka_row_pairs=cka.row_pairs,
        cka_biased=matrix(cka.biased),
        cka_biased_null=biased_null,
        cka_rbf=matrix(pairwise_rbf_cka(rbf_NTD, 1.0)),
        cka_rbf_null=rbf_null,
        cosine=matrix(statistics.mean_cosine(standard)),
        weight_cosine=weight_cosine,
        weight_matched=matrix(matched.found),
        weight_matched_chance=defined(matched.chance),
        weight_matched_units=matched.units,
        weight_matched_of_unit=matched.weights,
        shared=matrix(shared_NN),
        cka_shared=matrix(cka_shared_NN),
        load=[defined(share) for share in load_N.tolist()],
        load_cv=defined(load_N.std(correction=0).item() / mean_load if mean_load else math.nan),
        load_max_over_mean=defined(load_N.max().item() / mean_load if mean_load else math.nan),
        dead=torch.nonzero(load_N < DEAD_BELOW / experts).flatten().tolist()
        if count.defined
        else None,
        entropy_nats=defined(count.entropy / count.tokens if count.defined else math.nan),
        entropy_of_mean_nats=defined(
            torch.special.entr(probability_N).sum().item() if count.defined else math.nan
        ),
        entropy_max_nats=math.log(experts),
        effective_rank=[defined(rank) for rank in statistics.effective_rank(rank_NTD).tolist()],
        effective_rank_max=min(rank_NTD.shape[1] - 1, rank_NTD.shape[2]),
        copies=copies,
        non_finite=non_finite,
        non_finite_inputs=count.non_finite_inputs,
        non_finite_scores=count.non_finite_scores,
    )
    return found, outputs_NTD, bounds


def _non_finite(parts: list[Tensor], outputs_NTD: Tensor, finite_T: Tensor) -> list[int]:
    """Experts with weights that are not finite, or outputs for rows of finite input."""
    all_finite = bool(finite_T.all())
    return [
        expert
        for expert in range(len(outputs_NTD))
        if not _finite(outputs_NTD[expert] if all_finite else outputs_NTD[expert, finite_T])
        or not all(_finite(part[expert]) for part in parts)
    ]


def _finite(values: Tensor) -> bool:
    """Whether all are finite; the largest and least are not where there is a NaN."""
    return not values.numel() or bool(torch.stack(torch.aminmax(values)).isfinite().all())


def _nulls(
    outputs_NTD: Tensor,
    rbf_NTD: Tensor,
    blocks: int,
    bounds: _Bounds,
    generator: torch.Generator,
) -> tuple[Null, Null, Null]:
    """Debiased, biased and RBF CKA of shuffled rows, of at most `NULL_EXPERTS` experts."""
    if len(outputs_NTD) > NULL_EXPERTS:
        some_N = spread(len(outputs_NTD), NULL_EXPERTS)
        outputs_NTD, rbf_NTD = outputs_NTD[some_N], rbf_NTD[some_N]
    experts = outputs_NTD.shape[0]
    rows, columns = torch.triu_indices(experts, experts, 1)
    if bounds.partners is None:
        blocks = statistics.NULL_BLOCKS
    debiased, biased, rbf = [], [], []
    for _ in range(_passes(NULL_DRAWS, len(rows))):
        shuffled_NTD = statistics.shuffled(outputs_NTD, generator)
        cka = statistics.cka_with_interval(shuffled_NTD, blocks, 0, 0, generator, bounds.partners)
        debiased.append(cka.debiased[rows, columns])
        biased.append(cka.biased[rows, columns])
    for _ in range(_passes(RBF_NULL_DRAWS, len(rows))):
        rbf_NN = pairwise_rbf_cka(statistics.shuffled(rbf_NTD, generator), 1.0).cpu()
        rbf.append(rbf_NN[rows, columns].double())
    return _null(debiased), _null(biased), _null(rbf)


def _passes(draws: int, pairs: int) -> int:
    """How often all pairs of a layer are shuffled and measured for so many draws."""
    return max(1, min(NULL_PASSES, math.ceil(draws / max(1, pairs))))


def _null(draws: list[Tensor]) -> Null:
    values = torch.cat(draws)
    values = values[~values.isnan()]
    if not len(values):
        return Null(mean=None, quantile_95=None, draws=0)
    return Null(
        mean=values.mean().item(),
        quantile_95=torch.quantile(values, 0.95).item(),
        draws=len(values),
    )
