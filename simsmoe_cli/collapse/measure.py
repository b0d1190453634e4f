"""Everything a report measures, from a `Source`: one pass over the text, then layer by layer.

METHODS section 5. The first pass runs the text through the model and keeps counts of all tokens
and, of the rows that similarity is measured on, each layer's inputs (L x T x D numbers). Then all
experts of one layer at a time see all its rows (N x T x D numbers), so the memory needed does not
grow with the text, nor the experts' part of it with the layers.

Shapes: T tokens or rows, D model width, N experts, K experts per token, L layers with experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from simsmoe_cli.collapse import statistics
from simsmoe_cli.collapse.copies import exact_copies
from simsmoe_cli.collapse.findings import (
    Difference,
    Estimate,
    Findings,
    LayerFindings,
    Null,
    Settings,
    Text,
)
from simsmoe_cli.collapse.guessing import frequency_nats
from simsmoe_cli.collapse.overall import (
    defined,
    difference_of,
    matrix,
    most_alike,
    overall,
    spread,
)
from simsmoe_cli.collapse.sources import Batch, Routed, Source
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.layer_labels import layer_labels
from simsmoe_cli.similarity.agreement import pairwise_cosine
from simsmoe_cli.similarity.cka import pairwise_rbf_cka

DEAD_BELOW = 0.01  # of a fair share of the load, as in the probes of training
NULL_DRAWS = 100  # pairs of shuffled experts, at least, as far as NULL_PASSES allow
RBF_NULL_DRAWS = 40  # a pass costs more
NULL_PASSES = 20
DENSE_ROWS = 512  # rows all experts see at once
BOOTSTRAP = "percentile bootstrap of {blocks} blocks of rows, {resamples} times"


@dataclass(frozen=True)
class Options:
    """How much is measured, and how closely.

    Attributes:
        rows: tokens that all experts see.
        tokens: tokens read for load, routing and loss; None: four times the rows.
        blocks, resamples, level: of the bootstrap.
        rbf_rows, rank_rows: rows of the RBF CKA and of the effective rank, whose cost grows faster
            than the rows.
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
    matching: float = 1e11
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
    non_finite_inputs: int = 0
    non_finite_scores: int = 0

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
    """What is kept of the rows that similarity is measured on."""

    ids: list[int]
    inputs_TD: list[Tensor]
    index_TK: list[Tensor]


def measure(
    source: Source,
    options: Options | None = None,
    on_layer: Callable[[int, int], None] | None = None,
) -> Findings:
    """Measure everything.

    Args:
        source: a model and its text.
        options: how much; the defaults if None.
        on_layer: told how many layers are done, of how many.

    Raises:
        UserError: the text has too few tokens.
    """
    options = options or Options()
    counts, rows, text = _read(source, options.all_tokens, options.rows)
    layers: list[LayerFindings] = []
    difference: Difference | None = None
    labels = layer_labels([layer.name for layer in source.layers])
    for place, count in enumerate(counts):
        outputs_NTD = _outputs(source, place, rows.inputs_TD[place])
        found = _layer(source, place, count, text.tokens, outputs_NTD, rows, options)
        found = found.model_copy(update={"label": labels[place]})
        layers.append(found)
        pair = most_alike(found)
        if pair is not None and (difference is None or pair[2] > difference.cka):
            difference = difference_of(source, found, pair, outputs_NTD, rows.ids)
        del outputs_NTD
        if on_layer is not None:
            on_layer(place + 1, len(counts))
    return Findings(
        subject=source.subject,
        text=text,
        settings=Settings(
            level=options.level,
            resamples=options.resamples,
            blocks=max(1, min(options.blocks, text.rows // statistics.FEWEST_ROWS)),
            rbf_rows=min(options.rbf_rows, text.rows),
            rank_rows=min(options.rank_rows, text.rows),
            dead_below=DEAD_BELOW,
            seed=options.seed,
        ),
        layers=layers,
        overall=overall(layers, options.resamples, options.level, options.seed),
        difference=difference,
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
    _, rows, _ = _read(source, options.all_tokens, options.rows)
    outputs_NTD = _outputs(source, shown.layer, rows.inputs_TD[shown.layer])
    difference = difference_of(source, layer, (i, j, cka), outputs_NTD, rows.ids)
    return findings.model_copy(update={"difference": difference})


def _read(source: Source, tokens: int, rows: int) -> tuple[list[_Counts], _Rows, Text]:
    """The first pass."""
    counts = [
        _Counts(
            torch.zeros(layer.experts, dtype=torch.float64),
            torch.zeros(layer.experts, layer.experts, dtype=torch.float64),
            torch.zeros(layer.experts, dtype=torch.float64),
        )
        for layer in source.layers
    ]
    kept: list[Batch] = []
    total, scored, nats = 0, 0, 0.0
    right: int | None = None
    choices: int | None = None
    read: list[Tensor] = []
    for batch in source.read(tokens, rows):
        total += len(batch.ids_T)
        read.append(batch.ids_T.cpu())
        choices = batch.choices
        scored += batch.scored
        nats += batch.nats
        if batch.right is not None:
            right = (right or 0) + batch.right
        for count, routed in zip(counts, batch.layers, strict=True):
            count.add(routed)
        if batch.rows:
            kept.append(batch)
    ids = [token for batch in kept for token in batch.ids_T.tolist()]
    if len(ids) < statistics.FEWEST_ROWS:
        raise UserError(
            f"{len(ids)} rows are too few to compare experts on",
            where="--tokens",
            hint="Use more tokens, or a split with more text.",
            code=EXIT_DATA,
        )
    places = range(len(counts))
    inputs = [torch.cat([batch.layers[place].input_TD for batch in kept]) for place in places]
    chosen = [torch.cat([batch.layers[place].index_TK for batch in kept]) for place in places]
    all_ids = torch.cat(read).long().numpy()
    loss = nats / scored if scored else None
    of_token = loss if right is None else None
    text = Text(
        corpus=source.corpus,
        split=source.split,
        notes=source.notes,
        unit=source.unit,
        tokens=total,
        rows=len(ids),
        block=source.block,
        scored=scored,
        loss_nats=defined(loss),
        bpc=defined(of_token / math.log(2))
        if of_token is not None and source.unit in ("byte", "character")
        else None,
        perplexity=None if of_token is None else defined(math.exp(min(of_token, 700.0))),
        accuracy=None if right is None else right / scored,
        choices=choices,
        distinct=len(set(all_ids.tolist())),
        frequency_nats=frequency_nats(all_ids, choices) if right is None else None,
    )
    return counts, _Rows(ids, inputs, chosen), text


def _outputs(source: Source, layer: int, input_TD: Tensor) -> Tensor:
    """All experts of a layer on all rows, [N, T, D], some rows at a time."""
    return torch.cat([source.dense(layer, part) for part in input_TD.split(DENSE_ROWS)], dim=1)


def _layer(
    source: Source,
    number: int,
    count: _Counts,
    tokens: int,
    outputs_NTD: Tensor,
    kept: _Rows,
    options: Options,
) -> LayerFindings:
    """Everything about one layer."""
    spec = source.layers[number]
    experts, rows = spec.experts, outputs_NTD.shape[1]
    index_TK = kept.index_TK[number]
    finite_T = kept.inputs_TD[number].isfinite().all(-1)
    parts = source.weights(number)
    non_finite = _non_finite(parts, outputs_NTD, finite_T)
    copies = exact_copies(parts, outputs_NTD)
    if not finite_T.all():
        outputs_NTD = torch.full_like(outputs_NTD, torch.nan)
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + number)
    bootstrap = (options.blocks, options.resamples, options.level, generator)
    cka = statistics.cka_with_interval(outputs_NTD, *bootstrap)
    rbf_NTD = statistics.median_scaled(outputs_NTD[:, spread(rows, options.rbf_rows)])
    null, biased_null, rbf_null = _nulls(outputs_NTD, rbf_NTD, generator)
    matched_NN, chance, _ = statistics.matched_units(parts, options.matching, generator)
    load_N = count.chosen_N / count.chosen_N.sum().clamp(min=1)
    mean_load = load_N.mean().item()
    probability_N = count.probability_N / tokens
    rank_NTD = outputs_NTD[:, spread(rows, options.rank_rows)]
    pairs = int(torch.triu(~cka.debiased.isnan(), 1).sum())
    value, low, high = cka.mean
    shared_NN = (count.shared_NN / tokens).fill_diagonal_(0)
    cka_shared_NN = statistics.cka_of_shared(outputs_NTD, index_TK)
    if not count.defined:
        for routing in (load_N, shared_NN, cka_shared_NN):
            routing.fill_(torch.nan)
    return LayerFindings(
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
            + "; null: of one pair, its 95 % quantile",
        ),
        cka_biased=matrix(cka.biased),
        cka_biased_null=biased_null,
        cka_rbf=matrix(pairwise_rbf_cka(rbf_NTD, 1.0)),
        cka_rbf_null=rbf_null,
        cosine=matrix(pairwise_cosine(outputs_NTD)),
        weight_cosine=matrix(statistics.flat_cosine(parts)),
        weight_matched=matrix(matched_NN),
        weight_matched_chance=defined(chance),
        shared=matrix(shared_NN),
        cka_shared=matrix(cka_shared_NN),
        load=[defined(share) for share in load_N.tolist()],
        load_cv=defined(load_N.std(correction=0).item() / mean_load if mean_load else math.nan),
        load_max_over_mean=defined(load_N.max().item() / mean_load if mean_load else math.nan),
        dead=torch.nonzero(load_N < DEAD_BELOW / experts).flatten().tolist()
        if count.defined
        else None,
        entropy_nats=defined(count.entropy / tokens if count.defined else math.nan),
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


def _non_finite(parts: list[Tensor], outputs_NTD: Tensor, finite_T: Tensor) -> list[int]:
    """Experts with weights that are not finite, or outputs for rows of finite input."""
    return [
        expert
        for expert in range(len(outputs_NTD))
        if not outputs_NTD[expert, finite_T].isfinite().all()
        or not all(part[expert].isfinite().all() for part in parts)
    ]


def _nulls(
    outputs_NTD: Tensor, rbf_NTD: Tensor, generator: torch.Generator
) -> tuple[Null, Null, Null]:
    """Debiased, biased and RBF CKA of shuffled rows."""
    experts = outputs_NTD.shape[0]
    rows, columns = torch.triu_indices(experts, experts, 1)
    debiased, biased, rbf = [], [], []
    for _ in range(_passes(NULL_DRAWS, len(rows))):
        shuffled_NTD = statistics.shuffled(outputs_NTD, generator)
        cka = statistics.cka_with_interval(shuffled_NTD, statistics.NULL_BLOCKS, 0, 0, generator)
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
