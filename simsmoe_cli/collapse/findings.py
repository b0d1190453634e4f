"""The schema of a collapse report's JSON: everything that is measured on one set of weights.

An undefined number (an expert gives the same output for every token, or there are too few rows) is
None here and null in JSON, never 0 and never left out. Experts are numbered from 0. A layer has an
index among the layers with experts (`layer`, from 0, as in events.jsonl) and a label, the number
that the model gives it, which is shown to people. Matrices are [N][N] over the experts of one
layer, symmetric.

This module does not import torch, so code that shows a report does not need it.

Shapes: N experts, L layers with experts, D model width.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from simsmoe_cli.collapse.ablation import Ablation
from simsmoe_cli.collapse.difference import Difference
from simsmoe_cli.collapse.specialisation import Domain, FavouriteToken, Margin, Saturation
from simsmoe_cli.collapse.subject import Count, Facts, History, Number, Settings, Subject, Text
from simsmoe_cli.run.layer_labels import layer_labels

Matrix = list[list[Number]]


def defined(value: float | None) -> Number:
    """A plain float; None if it is not finite."""
    return float(value) if value is not None and math.isfinite(value) else None


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None, or None."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


class Estimate(Facts):
    """A number with its interval, its null and the count it rests on."""

    value: Number = Field(description="None: undefined")
    low: Number = Field(None, description="lower end of the interval")
    high: Number = Field(None, description="upper end of the interval")
    n: int = Field(description="how many things it was computed from; `of` says which")
    of: str = Field(description="what n counts: 'pairs', 'layers'")
    null_mean: Number = Field(None, description="its mean where nothing is related")
    null_low: Number = Field(
        None, description="2.5 % quantile where nothing is related; None: the null has no lower end"
    )
    null_high: Number = Field(
        None,
        description="97.5 % quantile where nothing is related; 95 % where null_low is None",
    )
    method: str = Field("", description="how interval and null were made, in words")


class Null(Facts):
    """The values of a measure when the rows of each expert are shuffled separately (the null)."""

    mean: Number
    quantile_95: Number
    draws: int = Field(description="pairs of shuffled experts measured")


class Copies(Facts):
    """Experts of one layer that have the same weights."""

    experts: list[Count] = Field(min_length=2, description="in ascending order")
    renumbered: bool = Field(description="whether some have their hidden units in another order")


class LayerFindings(Facts):
    """One layer with experts."""

    layer: Count = Field(description="its index among the layers with experts, from 0")
    label: str = Field(
        "",
        description="what the model calls it, as `layer_labels.py` says; filled in for reports of "
        "versions that did not write it",
    )
    name: str = Field(description="the module's name in the model")
    experts: int = Field(ge=1, le=1 << 16)
    top_k: Count = Field(description="experts a token is sent to, at most")

    cka: Matrix = Field(description="debiased linear CKA of the outputs on the same rows")
    cka_low: Matrix = Field(description="lower end of the block-bootstrap interval")
    cka_high: Matrix = Field(description="upper end of the block-bootstrap interval")
    cka_null: Null = Field(description="of one pair's debiased linear CKA")
    cka_mean: Estimate = Field(description="mean over defined pairs; null of one pair")
    cka_row_pairs: float = Field(
        1.0,
        description="share of the pairs of rows that the linear CKAs are summed over; below 1 they "
        "are an unbiased sample, which bounds the time",
    )
    cka_biased: Matrix = Field(description="biased linear CKA of the same rows")
    cka_biased_null: Null
    cka_rbf: Matrix = Field(description="biased CKA, Gaussian kernels of median width")
    cka_rbf_null: Null
    cosine: Matrix = Field(description="mean cosine of the outputs on the same row")
    apart: Matrix = Field(
        [],
        description="root mean square of the difference of the outputs on the same rows, over that "
        "of the outputs of both: 0 the same, 1.41 unrelated. Unlike CKA it sees rotation and scale",
    )
    weight_cosine: Matrix = Field(
        description="cosine of all weights of the expert as one vector, each matrix scaled to norm "
        "1; changes when hidden units are renumbered"
    )
    weight_matched: Matrix = Field(
        description="mean over hidden units of the largest cosine with any unit of the other "
        "expert; a unit is its rows and columns of all matrices; renumbering changes nothing"
    )
    weight_matched_chance: Number = Field(
        description="weight_matched of units whose entries were shuffled"
    )
    weight_matched_units: int | None = Field(
        None, description="hidden units of each expert that were looked up in the others"
    )
    weight_matched_of_unit: float = Field(
        1.0,
        description="share of a unit's weights that were compared; fewer make chance higher",
    )
    shared: Matrix = Field(description="share of tokens sent to both; diagonal 0")
    cka_shared: Matrix = Field(
        [],
        description="debiased linear CKA on the measured rows sent to both; None where they are "
        "fewer than `cka_on_shared_tokens.FEWEST_SHARED`; empty in reports of earlier versions",
    )

    load: list[Number] = Field(
        description="share of routed slots, sums to 1; None where routing is undefined"
    )
    load_cv: Number = Field(description="standard deviation of load / its mean")
    load_max_over_mean: Number
    dead: list[Count] | None = Field(
        description="experts below Settings.dead_below of a fair load, judged on `dead_slots`; "
        "None: routing is undefined, or the slots are too few to judge"
    )
    dead_slots: Count | None = Field(
        None, description="routed slots that `dead` rests on; None: not known (earlier versions)"
    )
    dead_on: Literal["held-out text", "training batches"] = Field(
        "held-out text",
        description="where these slots were counted; a run's own events are of training batches, "
        "as the monitor shows",
    )
    frequency: list[Number] = Field(
        [], description="share of tokens sent to each expert; they sum to K, or less"
    )
    saliency: list[Number] = Field(
        [],
        description="REAP (2510.13999): mean over an expert's measured rows of router weight times "
        "norm of its output; None where it has none, or weights are not known",
    )
    max_violation: Number = Field(
        None, description="MaxVio (2408.15664): largest load / mean load - 1; 0 is balanced"
    )
    effective_experts: Number = Field(
        None, description="exp of the entropy of the loads / N: 1 is balanced, 1/N is one expert"
    )
    shared_expected: Matrix = Field(
        [],
        description="share of tokens sent to both if experts were combined at random with these "
        "loads; `shared` over it is co-activation, 1 at random; diagonal 0",
    )
    router_cosine: Matrix = Field(
        [],
        description="cosine of the router's rows; empty where it has no row for each expert",
    )
    margin: Margin | None = Field(
        None, description="last chosen score minus first left out; None: scores are not known"
    )
    saturation: list[Saturation] = Field(
        [], description="against the run's earlier checkpoints, earliest first"
    )
    favourites: list[list[FavouriteToken]] = Field(
        [],
        description="for each expert, the tokens it receives most above its share; the first "
        "exceeds it by most occurrences",
    )
    vocabulary: list[Number] = Field(
        [],
        description="vocabulary specialisation: for an expert's tokens, the mean share of the "
        "other occurrences of the same token that it receives too; `frequency` if it does not "
        "depend on the token, 1 if it receives all occurrences of its tokens",
    )
    domain_share: dict[str, list[Number]] = Field(
        {},
        description="by the names of `Findings.domains`: share of its tokens sent to each expert; "
        "compare with `frequency`",
    )
    entropy_nats: Number = Field(description="of a token's router softmax, mean over tokens")
    entropy_of_mean_nats: Number = Field(description="of the mean router softmax")
    entropy_max_nats: float = Field(description="ln N, the most both can be")
    effective_rank: list[Number] = Field(
        description="of each expert's centred outputs: exp of the entropy of the singular values "
        "divided by their sum (Roy and Vetterli 2007)"
    )
    effective_rank_max: int = Field(description="the most it can be: min(D, rank_rows - 1)")
    copies: list[Copies] = Field([], description="groups of experts whose weights are equal")
    non_finite: list[Count] = Field(
        [],
        description="experts with a weight that is not finite, or that give an output that is not "
        "finite for a finite input",
    )
    non_finite_inputs: Count = Field(
        0, description="tokens whose input to this layer is not finite; any makes routing undefined"
    )
    non_finite_scores: Count = Field(
        0,
        description="tokens of finite input whose router scores are not finite; any makes routing "
        "undefined",
    )

    @property
    def number(self) -> int | str:
        """The label as an integer if it is one; the evidence in the JSON contains this value."""
        digits = re.fullmatch(r"0|[1-9][0-9]{0,8}", self.label)
        return int(self.label) if digits else self.label

    @property
    def finite(self) -> bool:
        """Whether inputs, router scores, experts and outputs are finite."""
        return not (self.non_finite or self.non_finite_inputs or self.non_finite_scores)

    @model_validator(mode="after")
    def _of_one_size(self) -> Self:
        """Every matrix is [N][N], every list [N], and experts are named by their numbers."""
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value == field.default:  # of a measure that a report of an earlier version lacks
                continue
            if field.annotation == Matrix:
                if [len(row) for row in value] != [self.experts] * self.experts:
                    raise ValueError(f"{name} is not a matrix of {self.experts} experts")
            elif field.annotation == list[Number] and len(value) != self.experts:
                raise ValueError(f"{name} is not of {self.experts} experts")
        sizes = [len(share) for share in self.domain_share.values()]
        sizes += [len(self.favourites)] if self.favourites else []
        if any(size != self.experts for size in sizes):
            raise ValueError(f"favourites or domain_share are not of {self.experts} experts")
        named = [*(self.dead or []), *self.non_finite, *(e for c in self.copies for e in c.experts)]
        if any(expert >= self.experts for expert in named):
            raise ValueError(f"an expert beyond the {self.experts} of the layer")
        return self

    def pairs(self) -> Iterator[tuple[int, int]]:
        """All pairs of experts i < j."""
        return itertools.combinations(range(self.experts), 2)

    @property
    def pair_count(self) -> int:
        """How many pairs of experts there are, defined or not."""
        return self.experts * (self.experts - 1) // 2

    def copies_of(self, *experts: int) -> Copies | None:
        """The group of exact copies that contains all these experts; None if there is no such
        group."""
        return next((group for group in self.copies if set(experts) <= set(group.experts)), None)


class Overall(Facts):
    """Over all layers."""

    cka_mean: Number = Field(description="mean of the layers' means")
    cka_shared: Estimate = Field(
        Estimate(value=None, n=0, of="pairs"),
        description="mean CKA on tokens sent to both experts, over the pairs with enough of them",
    )
    pearson: Estimate = Field(description="of shared tokens and debiased CKA over all pairs")
    spearman: Estimate = Field(description="the same of ranks")
    depth: Estimate = Field(description="Spearman of a layer's number and its mean CKA")


class Findings(Facts):
    """Everything measured on one set of weights."""

    subject: Subject
    text: Text
    settings: Settings
    layers: list[LayerFindings] = Field(min_length=1)
    overall: Overall
    difference: Difference | None = Field(description="None: no pair is defined")
    history: History
    domains: list[Domain] = Field([], description="parts of the text counted by themselves")
    ablation: Ablation | None = Field(
        None, description="what leaving out and merging costs; None: not measured"
    )
    ablation_refused: str = Field(
        "", description="why `ablation` is None, in words; empty where it was not asked for"
    )

    @model_validator(mode="before")
    @classmethod
    def _with_labels(cls, found: Any) -> Any:
        """Reports of versions that wrote no labels get those of the modules' names."""
        layers = found.get("layers") if isinstance(found, dict) else None
        if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
            return found
        names = [layer.get("name") for layer in layers]
        if all(layer.get("label") for layer in layers) or not all(
            isinstance(n, str) for n in names
        ):
            return found
        labels = layer_labels(names)
        layers = [
            layer if layer.get("label") else {**layer, "label": label}
            for layer, label in zip(layers, labels, strict=True)
        ]
        return {**found, "layers": layers}

    @model_validator(mode="after")
    def _each_layer_once(self) -> Self:
        indices = [layer.layer for layer in self.layers]
        if indices != sorted(set(indices)):
            raise ValueError("layers are not in their order, each once")
        if len({layer.label for layer in self.layers}) < len(indices):
            raise ValueError("two layers have one label")
        if self.difference is not None:
            layer = self.layer_at(self.difference.layer)
            if layer is None or max(self.difference.experts) >= layer.experts:
                raise ValueError("the difference is of experts that are not there")
        return self

    def layer_at(self, index: int) -> LayerFindings | None:
        """The layer with this index among those with experts; None if it was not measured."""
        return next((layer for layer in self.layers if layer.layer == index), None)

    def partner_of(self, layer: LayerFindings, other: Findings) -> LayerFindings | None:
        """The layer that corresponds to one of another model: that of its label; or, if the models
        have no label in common, that at its place. None if there is none.

        Args:
            layer: of the other model.
            other: the other model's findings.
        """
        own = {one.label: one for one in self.layers}
        if any(one.label in own for one in other.layers):
            return own.get(layer.label)
        place = [one.layer for one in other.layers].index(layer.layer)
        return self.layers[place] if place < len(self.layers) else None

    @property
    def highest(self) -> LayerFindings | None:
        """The layer with the largest mean CKA; None where none is defined."""
        known = [layer for layer in self.layers if layer.cka_mean.value is not None]
        return max(known, key=lambda layer: layer.cka_mean.value or 0.0, default=None)

    @property
    def null_95(self) -> Number:
        """The value that 95 % of unrelated pairs stay below, in the layer where it is largest."""
        nulls = [layer.cka_null.quantile_95 for layer in self.layers]
        return max((null for null in nulls if null is not None), default=None)

    @property
    def dead(self) -> int | None:
        """How many experts are dead; None where the routing of a layer is undefined."""
        dead = [layer.dead for layer in self.layers]
        return None if None in dead else sum(len(experts or ()) for experts in dead)

    @property
    def load_cv(self) -> Number:
        """Mean of the layers' load CV, of those where it is defined."""
        return mean_of(layer.load_cv for layer in self.layers)
