"""The numbers that trackers get of an event."""

from __future__ import annotations

from typing import Any

import pytest

from simsmoe_cli.loggers.numbers import MOST_LAYERS, numbers_of


def test_a_train_event_is_its_numbers() -> None:
    event: dict[str, Any] = {"kind": "train", "step": 5, "bpc": None, "lr": 0.1, "loss_nats": 2.0}
    event |= {"losses": {"balance": 0.5, "z": None}, "metrics": {"k": 2.0}}
    event |= {"similarity": {"mean": 0.25}}
    assert numbers_of(event, []) == {  # type: ignore[arg-type]
        "train/loss_nats": 2.0,
        "train/lr": 0.1,
        "losses/balance": 0.5,
        "router/k": 2.0,
        "similarity_learning/mean": 0.25,
    }


def test_a_score_has_the_name_of_its_split() -> None:
    event: Any = {"kind": "eval", "step": 5, "split": "valid", "bpc": 2.0, "best": True}
    assert numbers_of(event, []) == {"valid/bpc": 2.0}


def test_layers_have_their_mean_and_worst_under_the_model_s_own_numbers() -> None:
    layers = [{"layer": 0, "mean": 0.2, "highest": 0.5}, {"layer": 1, "mean": 0.4}]
    event: Any = {"kind": "similarity", "step": 5, "layers": layers}
    assert numbers_of(event, ["1", "3"]) == {
        "cka_mean/layer_1": 0.2,
        "cka_mean/layer_3": 0.4,
        "cka_worst/layer_1": 0.5,
        "cka/mean": pytest.approx(0.3),
        "cka/worst": 0.5,
    }
    router: Any = {"kind": "router", "step": 5}
    router["layers"] = [{"layer": 0, "load": [0.5] * 64, "load_cv": 0.5, "dead": [1, 2]}]
    assert numbers_of(router, ["1"]) == {
        "load_cv/layer_1": 0.5,
        "load/cv_mean": 0.5,
        "load/cv_worst": 0.5,
        "load/dead_experts": 2.0,
    }


def test_dead_experts_are_left_out_while_they_are_too_few_slots_to_judge() -> None:
    layers: list[Any] = [{"layer": 0, "dead": [1]}, {"layer": 1, "dead": None}]
    router: Any = {"kind": "router", "step": 0, "layers": layers}
    assert "load/dead_experts" not in numbers_of(router, [])
    layers[1]["dead"] = []
    assert numbers_of(router, [])["load/dead_experts"] == 1.0


@pytest.mark.parametrize("layers", [1, MOST_LAYERS, 1000])
def test_the_number_of_names_is_bounded(layers: int) -> None:
    many = [{"layer": index, "mean": 0.1, "highest": 0.2} for index in range(layers)]
    event: Any = {"kind": "similarity", "step": 5, "layers": many}
    assert 2 <= len(numbers_of(event, [])) <= 2 * MOST_LAYERS + 2


def test_other_events_have_none() -> None:
    event: Any = {"kind": "checkpoint", "step": 5, "path": "x"}
    assert numbers_of(event, []) == {}
