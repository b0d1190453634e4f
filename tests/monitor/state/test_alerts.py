"""Alerts: once when something begins, once when it is over."""

from __future__ import annotations

import numpy as np

from simsmoe_cli.monitor.state.alerts import Thresholds, Watch, patience_s
from simsmoe_cli.monitor.state.probes import RouterFrame, RouterLayer, SimilarityFrame


def router(step: int, load_cv: float, dead: tuple[int, ...] = ()) -> RouterFrame:
    load = np.ones(4, dtype=np.float32) / 4
    return RouterFrame(step, 10.0 * step, (RouterLayer(2, load, load_cv, dead, 1.0, 1.0),))


def similarity(step: int, *means: float) -> SimilarityFrame:
    return SimilarityFrame(step, 10.0 * step, "cka", 8, dict(enumerate(means)))


def test_an_expert_that_dies_is_told_once_and_again_when_it_is_back() -> None:
    watch = Watch(Thresholds())
    seen = [watch.router(router(step, 0.1, dead)) for step, dead in enumerate([(), (3, 1), (3, 1)])]
    assert [len(alerts) for alerts in seen] == [0, 1, 0]
    (died,) = seen[1]
    assert (died.kind, died.layer, died.experts, died.recovered) == ("dead", 2, (1, 3), False)
    assert (died.step, died.time) == (1, 10.0)
    assert "layer 2" in died.text
    assert "1, 3" in died.text
    more, back = watch.router(router(4, 0.1, (0, 1)))
    assert (more.experts, more.recovered) == ((0,), False)
    assert (back.experts, back.recovered) == ((3,), True)


def test_a_crossing_is_told_once_not_per_event() -> None:
    watch = Watch(Thresholds(load_cv_above=0.5))
    course = [0.4, 0.6, 0.7, 0.49, 0.6, 0.3, 0.3, 0.9]
    told = [[a.recovered for a in watch.router(router(0, value))] for value in course]
    # 0.49 is below the threshold, but not by 5%.
    assert told == [[], [False], [], [], [], [True], [], [False]]


def test_similarity_is_told_by_layer_and_undefined_is_no_crossing() -> None:
    watch = Watch(Thresholds(cka_above=0.8))
    assert watch.similarity(similarity(1, 0.5, float("nan"))) == []
    (alert,) = watch.similarity(similarity(2, 0.5, 0.85))
    assert (alert.kind, alert.layer) == ("cka", 1)
    assert "0.85 above 0.8" in alert.text
    assert watch.similarity(similarity(3, 0.5, float("nan"))) == []
    (alert,) = watch.similarity(similarity(4, 0.5, 0.2))
    assert alert.recovered


def test_a_threshold_below_zero_recovers_below_it() -> None:
    watch = Watch(Thresholds(cka_above=-0.5))
    assert len(watch.similarity(similarity(1, 0.0))) == 1
    assert watch.similarity(similarity(2, -0.51)) == []
    assert watch.similarity(similarity(3, -0.6))[0].recovered


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
