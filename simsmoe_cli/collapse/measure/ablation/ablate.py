"""Measures what a model could do without, by doing without it (`collapse/ablation.py`).

The windows are read once for every case: each expert left out, and for some pairs of each layer
one expert instead of two. The pairs are the most similar ones by debiased CKA (copies first), and
as many others drawn at random as a control. A case changes one layer; what lies below it is not
computed again. The unchanged model is run in the same way for comparison, so a case that changes
nothing gives exactly 0.

Shapes: T tokens, W windows, N experts, K experts per token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from simsmoe_cli.collapse.ablation import Ablation, Change, LeftOut, MeanCost, PairCost
from simsmoe_cli.collapse.findings import Findings, LayerFindings
from simsmoe_cli.collapse.measure.ablation.intervals import Difference, Intervals
from simsmoe_cli.collapse.measure.ablation.matching import MOST_UNITS, matched_order
from simsmoe_cli.collapse.measure.ablation.rerouting import average, hand_over, leave_out
from simsmoe_cli.collapse.measure.ablation.weighting import find_weighting
from simsmoe_cli.collapse.measure.options import Options
from simsmoe_cli.collapse.pairs import Pair, most_similar, pairs_of
from simsmoe_cli.collapse.sources.base import Source
from simsmoe_cli.collapse.sources.replay import CannotReplay, Replay, Slots, WindowScores
from simsmoe_cli.similarity.routed import Routed

PAIRS = 2  # similar pairs of a layer that are merged, and as many random ones
RUNS_OF_A_PAIR = 3
SAME_LOSS = 1e-3  # relative: rounding explains less between a model and its replay

Kind = Literal["similar", "random"]


@dataclass
class OnePair:
    """What a pair's three cases change."""

    layer: int
    pair: Pair
    kind: Kind
    keeper: int
    hand_over: Difference
    merged: Difference | None
    mean_output: Difference


def runs_of_layer(experts: int) -> int:
    """How often a layer with so many experts is run, at most."""
    pairs = experts * (experts - 1) // 2
    return 1 + experts + RUNS_OF_A_PAIR * min(2 * PAIRS, pairs)


def ablate(
    source: Source,
    replay: Replay,
    findings: Findings,
    options: Options,
    on_progress: Callable[[float], None],
) -> Ablation:
    """Leave out and merge experts.

    Args:
        source: the model.
        replay: its windows.
        findings: of the same model; say which layers, and which pairs are similar.
        options: level and resamples of the intervals, and the seed.
        on_progress: told the share that is done, 0 to 1.

    Raises:
        CannotReplay: the model does not give its own loss when it is run from the middle.
    """
    measured = _Ablation(source, replay, findings, options, on_progress)
    return measured.run()


class _Ablation:
    """One measurement; arguments as of `ablate`."""

    def __init__(
        self,
        source: Source,
        replay: Replay,
        findings: Findings,
        options: Options,
        on_progress: Callable[[float], None],
    ):
        self.source, self.replay, self.findings, self.options = source, replay, findings, options
        self.on_progress = on_progress
        last = len(source.layers)
        self.cost = [
            runs_of_layer(layer.experts) * (last - layer.layer) for layer in findings.layers
        ]
        self.before: WindowScores | None = None
        self.left_out: list[tuple[int, int, int, Difference | None]] = []
        self.pairs: list[OnePair] = []
        self.weighting: dict[str, str] = {}
        self.notes: list[str] = []
        self.generator = torch.Generator().manual_seed(options.seed)

    def run(self) -> Ablation:
        started = time.perf_counter()
        for number, layer in enumerate(self.findings.layers):
            self._layer(number, layer)
        return self._found(time.perf_counter() - started)

    def _layer(self, number: int, layer: LayerFindings) -> None:
        routed = self.replay.record(layer.layer)
        why_not = _unreadable(routed)
        if why_not:
            self.notes.append(f"layer {layer.label} was left as it is: {why_not}")
            return
        slots = [Slots(one.index_TK, one.weight_TK) for one in routed if one.weight_TK is not None]
        logits = [one.logits_TN for one in routed if one.logits_TN is not None]
        rule = find_weighting(
            torch.cat(logits),
            torch.cat([one.index_TK for one in slots]),
            torch.cat([one.weight_TK for one in slots]),
        )
        self.weighting[layer.label] = rule.words
        before = self.replay.run(slots)
        self._check(before, layer)
        tokens_N = _tokens(slots, layer.experts)
        chosen = self._pairs(layer)
        runs = layer.experts + RUNS_OF_A_PAIR * len(chosen)
        done = 0

        def step(cases: int = 1) -> None:
            nonlocal done
            done += cases
            passed = sum(self.cost[:number]) + self.cost[number] * done / runs
            self.on_progress(passed / sum(self.cost))

        for expert, tokens in enumerate(tokens_N):
            changed = None
            if tokens:
                otherwise = [
                    leave_out(scores, one, expert, rule)
                    for scores, one in zip(logits, slots, strict=True)
                ]
                changed = Difference.of(self.replay.run(otherwise), before)
            self.left_out.append((layer.layer, expert, tokens, changed))
            step()
        for kind, pair in chosen:
            self.pairs.append(self._pair(layer, kind, pair, slots, tokens_N, before))
            step(RUNS_OF_A_PAIR)

    def _check(self, scores: WindowScores, layer: LayerFindings) -> None:
        """Every layer's replay of the unchanged model gives the same loss."""
        if not bool(scores.nats_W.isfinite().all()):
            raise CannotReplay("the model's loss on this text is not finite")
        if self.before is None:
            self.before = scores
        error = float((scores.nats_W - self.before.nats_W).abs().sum())
        if not error <= SAME_LOSS * float(self.before.nats_W.abs().sum()):
            raise CannotReplay(
                f"run again from layer {layer.label} on, the unchanged model gives another loss"
            )

    def _pairs(self, layer: LayerFindings) -> list[tuple[Kind, Pair]]:
        """The most similar pairs, and as many others drawn at random."""
        similar = most_similar([layer], PAIRS)
        taken = {(pair.i, pair.j) for pair in similar}
        others = [pair for pair in pairs_of([layer]) if (pair.i, pair.j) not in taken]
        drawn = torch.randperm(len(others), generator=self.generator)[: len(similar)].tolist()
        found: list[tuple[Kind, Pair]] = [("similar", pair) for pair in similar]
        return found + [("random", others[index]) for index in sorted(drawn)]

    def _pair(
        self,
        layer: LayerFindings,
        kind: Kind,
        pair: Pair,
        slots: Sequence[Slots],
        tokens_N: list[int],
        before: WindowScores,
    ) -> OnePair:
        keep, give = pair.i, pair.j
        if tokens_N[give] > tokens_N[keep]:
            keep, give = give, keep
        both = tokens_N[keep] + tokens_N[give]
        share = tokens_N[keep] / both if both else 0.5
        handed = [hand_over(one, keep, give) for one in slots]
        averaged = [average(one, keep, give, share, layer.experts) for one in slots]
        return OnePair(
            layer.layer,
            pair,
            kind,
            keep,
            Difference.of(self.replay.run(handed), before),
            self._merged(layer, keep, give, share, handed, before),
            Difference.of(self.replay.run(averaged), before),
        )

    def _merged(
        self,
        layer: LayerFindings,
        keep: int,
        give: int,
        share: float,
        handed: Sequence[Slots],
        before: WindowScores,
    ) -> Difference | None:
        units_NHF = self.replay.units()
        if self.replay.parts() is None:
            self._note("weights were not merged: some belong to no known hidden unit")
            return None
        if units_NHF[0].shape[1] > MOST_UNITS:
            self._note(f"weights were not merged: more than {MOST_UNITS:,} hidden units to match")
            return None
        order_H = matched_order(units_NHF, keep, give)
        with self.replay.merged(keep, give, order_H, share):
            return Difference.of(self.replay.run(handed), before)

    def _note(self, words: str) -> None:
        if words not in self.notes:
            self.notes.append(words)

    def _found(self, seconds: float) -> Ablation:
        if self.before is None:
            raise CannotReplay("; ".join(self.notes))
        options, source = self.options, self.source
        intervals = Intervals(
            self.replay.scored_W,
            self.before,
            source.unit,
            source.tokens_per_unit,
            options.resamples,
            options.level,
            options.seed,
        )
        nothing = Difference.of(self.before, self.before)
        missed = [nothing if changed is None else changed for *_, changed in self.left_out]
        similar, random = (
            [pair for pair in self.pairs if pair.kind == kind] for kind in ("similar", "random")
        )
        return Ablation.model_validate(
            {
                "tokens": self.replay.tokens,
                "windows": len(self.replay.scored_W),
                "predictions": int(self.replay.scored_W.sum()),
                "loss_nats": intervals.loss_nats,
                "unit": intervals.score_unit,
                "in_unit": intervals.score,
                "level": options.level,
                "resamples": options.resamples,
                "weighting": self.weighting,
                "left_out": [
                    LeftOut(
                        layer=layer,
                        expert=expert,
                        tokens=tokens,
                        change=intervals.change(changed),
                    )
                    for (layer, expert, tokens, _), changed in zip(
                        self.left_out, missed, strict=True
                    )
                ],
                "mean_left_out": intervals.change(Difference.mean(missed)),
                "pairs": [_pair_cost(pair, intervals) for pair in self.pairs],
                "similar": _mean_cost(similar, intervals),
                "random": _mean_cost(random, intervals),
                "similar_minus_random": _mean_cost(similar, intervals, minus=random),
                "notes": self.notes,
                "seconds": seconds,
            }
        )


def _unreadable(routed: Sequence[Routed]) -> str:
    """Why a layer's tokens cannot be sent elsewhere; empty if they can."""
    for one in routed:
        if one.logits_TN is None:
            return "its router's scores are not known, so neither is the next best expert"
        if one.weight_TK is None or one.weight_TK.shape != one.index_TK.shape:
            return "the weights of its experts are not known"
        if not bool(one.input_TD.isfinite().all() & one.weight_TK.isfinite().all()):
            return "not all numbers in it are finite"
    return ""


def _tokens(slots: Sequence[Slots], experts: int) -> list[int]:
    """How many tokens each expert gets."""
    counted: Tensor = sum(
        (torch.bincount(one.index_TK.flatten(), minlength=experts + 1) for one in slots),
        start=torch.zeros((), dtype=torch.int64),
    )
    tokens: list[int] = counted[:experts].tolist()
    return tokens


def _pair_cost(one: OnePair, intervals: Intervals) -> PairCost:
    return PairCost(
        layer=one.layer,
        experts=(one.pair.i, one.pair.j),
        kind=one.kind,
        cka=one.pair.cka,
        keeper=one.keeper,
        hand_over=intervals.change(one.hand_over),
        merged=None if one.merged is None else intervals.change(one.merged),
        mean_output=intervals.change(one.mean_output),
    )


def _mean_cost(
    pairs: list[OnePair], intervals: Intervals, minus: list[OnePair] | None = None
) -> MeanCost | None:
    """The mean over pairs, minus that over other pairs if there are any."""
    if not pairs or minus == []:
        return None

    def change(differences: Callable[[OnePair], Difference | None]) -> Change | None:
        own, others = ([differences(pair) for pair in some] for some in (pairs, minus or []))
        known = [one for one in own if one is not None]
        other = [one for one in others if one is not None]
        if len(known) < len(own) or len(other) < len(others):
            return None
        mean = Difference.mean(known)
        return intervals.change(mean.minus(Difference.mean(other)) if other else mean)

    handed, averaged = change(lambda pair: pair.hand_over), change(lambda pair: pair.mean_output)
    assert handed is not None
    assert averaged is not None
    return MeanCost(
        pairs=len(pairs),
        hand_over=handed,
        merged=change(lambda pair: pair.merged),
        mean_output=averaged,
    )
