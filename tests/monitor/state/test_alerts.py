"""Alerts: once when something begins, once when it is over."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from simsmoe_cli.monitor.state.alerts import (
    Thresholds,
    Watch,
    in_one_line,
    patience_s,
    warm_up_steps,
)
from simsmoe_cli.monitor.state.probes import RouterFrame, RouterLayer, SimilarityFrame


def router(step: int, load_cv: float, dead: tuple[int, ...] = ()) -> RouterFrame:
    load = np.ones(4, dtype=np.float32) / 4
    return RouterFrame(step, 10.0 * step, (RouterLayer(2, load, load_cv, dead, 1.0, 1.0),))


def similarity(step: int, *means: float) -> SimilarityFrame:
    return SimilarityFrame(step, 10.0 * step, "cka", 8, dict(enumerate(means)))


def test_an_expert_is_dead_after_two_probes_and_back_after_two() -> None:
    watch = Watch(Thresholds())
    course = [(), (3, 1), (3, 1), (3, 1), (0, 1), (0, 1)]
    seen = [watch.router(router(step, 0.1, dead)) for step, dead in enumerate(course)]
    assert [len(alerts) for alerts in seen] == [0, 0, 1, 0, 0, 2]
    (died,) = seen[2]
    assert (died.kind, died.layer, died.experts, died.recovered) == ("dead", 2, (1, 3), False)
    assert (died.step, died.time) == (2, 20.0)
    assert "layer 2" in died.text
    assert "1, 3" in died.text
    more, back = seen[5]
    assert (more.experts, more.recovered) == ((0,), False)
    assert (back.experts, back.recovered) == ((3,), True)


def test_a_crossing_is_told_once_when_two_probes_in_a_row_saw_it() -> None:
    watch = Watch(Thresholds(load_cv_above=0.5))
    course = [0.4, 0.6, 0.4, 0.6, 0.7, 0.49, 0.6, 0.3, 0.6, 0.3, 0.3, 0.9]
    told = [[a.recovered for a in watch.router(router(0, value))] for value in course]
    # One probe alone is nothing, and 0.49 is below the threshold, but not by 5%.
    assert told == [[], [], [], [], [False], [], [], [], [], [], [True], []]


def test_similarity_is_told_by_layer_and_undefined_is_no_crossing() -> None:
    watch = Watch(Thresholds(cka_above=0.8))
    course = [(0.5, math.nan), (0.5, 0.85), (0.5, math.nan), (0.5, 0.86), (0.5, math.nan)]
    seen = [watch.similarity(similarity(step, *means)) for step, means in enumerate(course)]
    assert [len(alerts) for alerts in seen] == [0, 0, 0, 1, 0]
    (alert,) = seen[3]
    assert (alert.kind, alert.layer) == ("cka", 1)
    assert "0.86 above 0.8" in alert.text
    assert watch.similarity(similarity(6, 0.5, 0.2)) == []
    (alert,) = watch.similarity(similarity(7, 0.5, 0.2))
    assert alert.recovered


def test_a_threshold_below_zero_recovers_below_it() -> None:
    watch = Watch(Thresholds(cka_above=-0.5))
    course = [0.0, 0.0, -0.51, -0.51, -0.6, -0.6]
    told = [[a.recovered for a in watch.similarity(similarity(1, mean))] for mean in course]
    assert told == [[], [False], [], [], [], [True]]


def test_what_is_similar_or_dead_before_the_end_of_the_warm_up_is_no_alert() -> None:
    watch = Watch(Thresholds())
    watch.armed_from = warm_up_steps(50, 80)
    probes = [watch.similarity(similarity(step, 0.9)) for step in range(0, 80, 10)]
    assert [len(alerts) for alerts in probes] == [0, 0, 0, 0, 0, 0, 1, 0]
    assert watch.router(router(40, 2.0, (1,))) == []
    assert (warm_up_steps(50, 5000), warm_up_steps(None, None)) == (500, 0)


def test_many_alerts_are_one_line() -> None:
    watch = Watch(Thresholds(load_cv_above=0.5))
    watch.similarity(similarity(1, 0.9, 0.2, 0.9))
    alerts = watch.similarity(similarity(2, 0.9, 0.2, 0.9))
    watch.router(router(1, 0.9, (1, 3)))
    alerts += watch.router(router(2, 0.9, (1, 3)))
    assert in_one_line(alerts, watch.thresholds) == (
        "mean CKA above 0.8 in layers 0, 2; "
        "layer 2: experts 1, 3 are dead (under 1% of a fair share); "
        "layer 2: load CV 0.90 above 0.5"
    )
    both = [alerts[2], replace(alerts[2], label="4", layer=4)]
    assert in_one_line(both, watch.thresholds) == "4 experts dead in layers 2, 4"


def test_a_loss_that_is_not_finite_is_told_until_it_is() -> None:
    watch = Watch(Thresholds())
    told = [watch.loss(step, 0.0, finite) for step, finite in enumerate([True, False, False, True])]
    assert [[a.recovered for a in alerts] for alerts in told] == [[], [False], [], [True]]


def test_silence_is_told_until_the_run_is_heard_again() -> None:
    watch = Watch(Thresholds())
    quiet = [(10, False), (200, True), (300, True), (0, False)]
    told = [watch.silence(5, 1e9, seconds, silent) for seconds, silent in quiet]
    assert [[a.recovered for a in alerts] for alerts in told] == [[], [False], [], [True]]
    assert "3 min" in told[1][0].text


def test_patience_follows_the_pace_of_the_run() -> None:
    assert patience_s([], None) == 120
    assert patience_s([1.0, 2.0, 1.0], None) == 120
    assert patience_s([60.0, 50.0, 70.0, 5000.0, float("nan"), -3.0], None) == 20 * 70
    assert patience_s([60.0], 5.0) == 5
