"""The part of a report's JSON that says what could be done without, measured by doing without.

In every case the model reads the same held-out windows as it did unchanged, with one layer changed:

- an expert is left out: each of its tokens goes to the best expert, by the router's own scores,
  that the token does not have yet;
- of a pair of experts, the busier one takes the other's tokens (`hand_over`);
- a pair becomes one expert whose weights are the mean of both, weighted by load, after the hidden
  units of one were matched to those of the other (`merged`);
- both give the mean of their outputs, weighted by load (`mean_output`): the best that one could
  hope for when averaging, because no single expert has to be found that gives this mean.

The same is done for pairs drawn at random, as the control.

Imports no torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from simsmoe_cli.collapse.subject import Count, Facts, Number

FEWEST_WINDOWS = 8  # of fewer a bootstrap over windows says nothing


class Change(Facts):
    """How much a change of the model changes the loss on the held-out windows."""

    nats: Number = Field(
        description="mean loss with the change minus without it, nats per prediction (a token, or "
        "a text of a classifier); above 0: worse"
    )
    low: Number = Field(
        None, description="lower end of the interval, nats; paired bootstrap over windows"
    )
    high: Number = Field(None, description="upper end of the interval, nats")
    in_unit: Number = Field(
        None,
        description="the same in `Ablation.unit`; worse is above 0 for bpc and perplexity, and "
        "below 0 for accuracy",
    )


class LeftOut(Facts):
    """One expert that was left out."""

    layer: Count = Field(description="index among the layers with experts, from 0")
    expert: Count
    tokens: Count = Field(description="of the windows that the router sends to it")
    change: Change = Field(description="exactly 0 where no token is sent to it")

    @property
    def missed(self) -> bool:
        """Whether the loss rises without it, by the interval; by the value where there is none."""
        lowest = self.change.nats if self.change.low is None else self.change.low
        return lowest is not None and lowest > 0


class PairCost(Facts):
    """What it costs to have one expert instead of two."""

    layer: Count = Field(description="index among the layers with experts, from 0")
    experts: tuple[Count, Count] = Field(description="i < j")
    kind: Literal["similar", "random"] = Field(
        description="similar: among the most similar pairs of its layer, by copies and debiased "
        "CKA; random: drawn from the other pairs of the same layer, the control"
    )
    cka: Number = Field(description="debiased CKA of the pair, as in the layer's findings")
    keeper: Count = Field(description="of the two, the one with more tokens; it takes the others")
    hand_over: Change = Field(description="the keeper takes the other's tokens as well")
    merged: Change | None = Field(
        None,
        description="both are one expert with the mean of the weights; None: not measured, as "
        "`Ablation.notes` says",
    )
    mean_output: Change = Field(description="both give the mean of their outputs")


class MeanCost(Facts):
    """The mean over pairs of what each of the three costs."""

    pairs: Count = Field(description="how many")
    hand_over: Change
    merged: Change | None = Field(None, description="None where a pair has none")
    mean_output: Change


class Ablation(Facts):
    """What the model could do without."""

    tokens: Count = Field(description="tokens of the held-out windows")
    windows: Count = Field(description="windows (texts of a classifier) the bootstrap draws from")
    predictions: Count = Field(description="predictions the loss is a mean of")
    loss_nats: float = Field(description="mean loss of the unchanged model on these windows")
    unit: Literal["bpc", "perplexity", "accuracy"] = Field(
        description="of `Change.in_unit`: the run's own score"
    )
    in_unit: Number = Field(description="the unchanged model's score in that unit")
    level: float = Field(description="of the intervals, as 0.95")
    resamples: Count = Field(description="of the bootstrap")
    weighting: dict[str, str] = Field(
        {},
        description="by the layers' labels: how the router weights its experts, in words; the "
        "weights after a change follow it",
    )
    left_out: list[LeftOut] = Field([], description="every expert of every measured layer")
    mean_left_out: Change | None = Field(
        None, description="mean over all of `left_out`, those without tokens too"
    )
    pairs: list[PairCost] = Field([], description="similar and random pairs of every layer")
    similar: MeanCost | None = Field(None, description="over the similar pairs; None: no pairs")
    random: MeanCost | None = Field(None, description="over the random pairs; None: no pairs")
    similar_minus_random: MeanCost | None = Field(
        None,
        description="difference of these two means, from the same resamples; below 0: similar "
        "pairs are cheaper to merge than random ones",
    )
    notes: list[str] = Field([], description="what was left out of the measurement, and why")
    seconds: float = Field(0.0, description="how long it took")

    def share(self, nats: Number) -> Number:
        """A change of the loss as a share of the unchanged model's loss; None where undefined."""
        return nats / self.loss_nats if nats is not None and self.loss_nats else None

    @property
    def unneeded(self) -> int:
        """How many experts could be left out, one at a time, without a measurable rise of the
        loss."""
        return sum(not one.missed for one in self.left_out if one.change.nats is not None)

    @property
    def cheapest(self) -> LeftOut | None:
        """The expert, of those with tokens, whose absence costs least; None where there is none."""
        used = [one for one in self.left_out if one.tokens and one.change.nats is not None]
        return min(used, key=lambda one: one.change.nats or 0.0, default=None)
