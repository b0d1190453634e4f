"""The numbers of an event for trackers: few names, however many experts a model has.

Of pairs and experts only the mean and the worst of each layer is logged, and of a model with very
many layers only those of the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simsmoe_cli.run.events import Event

MOST_LAYERS = 64
TRAINED = (
    "loss_nats",
    "bpc",
    "accuracy",
    "lr",
    "grad_norm",
    "tokens",
    "tokens_per_s",
    "step_ms",
)
SCORED = (
    "loss_nats",
    "bpc",
    "accuracy",
    "bits_per_byte",
    "perplexity",
    "word_perplexity",
    "macro_f1",
)


def numbers_of(event: Event, labels: Sequence[str]) -> dict[str, float]:
    """The numbers of an event by name, such as "train/loss_nats" or "cka_worst/layer_3".

    Args:
        event: of any kind; of some there are none.
        labels: of the layers with experts.
    """
    found: dict[str, Any] = {}
    if event["kind"] == "train":
        found = {f"train/{name}": event.get(name) for name in TRAINED}
        groups: dict[str, Any] = {
            "losses": event.get("losses"),
            "router": event.get("metrics"),
            "similarity_learning": event.get("similarity"),
        }
        for group, values in groups.items():
            found |= {f"{group}/{name}": value for name, value in (values or {}).items()}
    elif event["kind"] == "eval":
        split = event.get("split", "eval")
        found = {f"{split}/{name}": event.get(name) for name in SCORED}
    elif event["kind"] == "router":
        layers = event.get("layers", [])
        dead = [one for layer in layers if (one := layer.get("dead")) is not None]
        known = len(dead) == len(layers)  # None: too few slots to judge
        found = {"load/dead_experts": sum(len(one) for one in dead) if known else None}
        found |= _by_layer("load_cv", layers, "load_cv", labels)
        found |= _over_layers("load", "cv_mean", "cv_worst", layers, "load_cv", "load_cv")
    elif event["kind"] == "similarity":
        similar = event.get("layers", [])
        found = _by_layer("cka_mean", similar, "mean", labels)
        found |= _by_layer("cka_worst", similar, "highest", labels)
        found |= _over_layers("cka", "mean", "worst", similar, "mean", "highest")
    return {name: float(value) for name, value in found.items() if value is not None}


def _by_layer(
    group: str, layers: Sequence[Any], field: str, labels: Sequence[str]
) -> dict[str, Any]:
    """A field of each layer."""
    if len(layers) > MOST_LAYERS:
        return {}
    return {f"{group}/layer_{_label(layer['layer'], labels)}": layer.get(field) for layer in layers}


def _label(index: int, labels: Sequence[str]) -> str:
    return labels[index] if index < len(labels) else str(index)


def _over_layers(
    group: str, mean: str, worst: str, layers: Sequence[Any], mean_of: str, worst_of: str
) -> dict[str, float]:
    """The mean of a field over layers, and the largest of another."""
    means = [layer[mean_of] for layer in layers if layer.get(mean_of) is not None]
    most = [layer[worst_of] for layer in layers if layer.get(worst_of) is not None]
    found = {f"{group}/{mean}": sum(means) / len(means)} if means else {}
    return found | ({f"{group}/{worst}": max(most)} if most else {})
