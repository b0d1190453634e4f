"""Reports made from a seed, whose numbers are plausible, for tests of what shows them."""

from __future__ import annotations

from typing import Any

import numpy as np

from simsmoe_cli.collapse.report import Report


def report(
    name: str = "plain",
    against: str | None = None,
    layers: int = 3,
    experts: int = 4,
    **changes: Any,
) -> Report:
    """A report on a run, and on another one too where `against` names it.

    Args:
        name, against: of the runs.
        layers, experts: how many.
        changes: fields of the first layer's findings to replace.
    """
    main = findings(name, layers, experts, seed=0, alike=0.4)
    main["layers"][0] |= changes
    return Report.model_validate(
        {
            "findings": [main],
            "against": against and findings(against, layers, experts, seed=1, alike=0.1),
            "verdict": {
                "level": "partly alike",
                "headline": f"Some experts of {name} are similar.",
                "sentences": [
                    {"text": "Layer 0 has the most similar pair.", "tone": "warning"},
                    {"text": "No expert is dead.", "tone": "good", "evidence": {"dead": 0}},
                ],
            },
        }
    )


def findings(name: str, layers: int, experts: int, seed: int, alike: float) -> dict[str, Any]:
    """One run's findings as the JSON has them."""
    random = np.random.default_rng(seed)
    return {
        "subject": {
            "kind": "run",
            "name": name,
            "recipe": "quickstart",
            "router": "smoe",
            "similarity": "none" if seed == 0 else "calibrated",
            "settings": {"moe": {"experts": experts}, "similarity": {"weight": 0.01 * seed}},
            "parameters": 1_234_567,
            "checkpoint": "best",
            "step": 500,
            "seed": seed,
            "simsmoe": "0.1.0",
            "torch": "2.13.0",
        },
        "text": {
            "corpus": "enwik8",
            "split": "valid",
            "notes": ["a prefix of enwik8"],
            "unit": "byte",
            "tokens": 16384,
            "rows": 4096,
            "block": 256,
            "scored": 16320,
            "loss_nats": 2.01 + seed / 100,
            "bpc": 2.9 + seed / 100,
            "perplexity": 7.46,
        },
        "settings": {
            "level": 0.95,
            "resamples": 200,
            "blocks": 32,
            "rbf_rows": 1024,
            "rank_rows": 2048,
            "dead_below": 0.01,
            "seed": 0,
        },
        "layers": [_layer(random, number, experts, alike) for number in range(layers)],
        "overall": {
            "cka_mean": alike,
            "pearson": _estimate(0.31, layers * experts * (experts - 1) // 2, "pairs"),
            "spearman": _estimate(0.27, layers * experts * (experts - 1) // 2, "pairs"),
            "depth": _estimate(None, layers, "layers"),
        },
        "difference": None
        if experts < 2
        else {
            "layer": 0,
            "experts": [0, 1],
            "cka": 0.9,
            "rows": list(range(24)),
            "labels": ["a"] * 24,
            "features": [[start, start + 2] for start in range(0, 32, 2)],
            "values": random.uniform(0, 1.6, (24, 16)).round(4).tolist(),
            "mean": 0.87,
        },
        "history": {
            "losses": [
                {"step": step, "split": "train", "loss_nats": 2 + 50 / step, "bpc": 3 + 70 / step}
                for step in range(20, 501, 20)
            ]
            + [
                {"step": step, "split": "valid", "loss_nats": 2.1, "bpc": 3.0 + 20 / step}
                for step in (250, 500)
            ]
            + [{"step": 500, "split": "test", "loss_nats": 2.0, "bpc": 2.9}],
            "probes": [
                {
                    "step": step,
                    "cka_mean": [alike * step / 500] * (layers - 1) + [None],
                    "load_cv": [0.2] * layers,
                    "dead": [0] * layers,
                    "drift": [None if step == 0 else 0.1] * layers,
                }
                for step in (0, 250, 500)
            ],
            "probe_tokens": 1024,
            "total_steps": 500,
        },
    }


def with_costs(made: Report, scale: float = 1.0) -> Report:
    """The report with what experts cost and receive, as if measured: expert e of each layer is
    missed by 0.01 e nats, less 0.001, and similar pairs cost half of random ones.

    Args:
        made: without these.
        scale: of the costs of the run compared with.
    """
    fields = made.model_dump()
    for found, by in ((fields["findings"][-1], 1.0), (fields["against"], scale)):
        if found is not None:
            found["ablation"] = _ablation(found["layers"], by)
            found["domains"] = [{"name": name, "tokens": 5000} for name in ("code", "prose")]
            for layer in found["layers"]:
                layer |= _received(layer)
    return Report.model_validate(fields)


def _received(layer: dict[str, Any]) -> dict[str, Any]:
    """What experts of a layer receive, and what the router does."""
    count, load = layer["experts"], layer["load"]
    even = [[0.0 if i == j else 0.1 for j in range(count)] for i in range(count)]
    return {
        "apart": [[0.0 if i == j else 1.3 for j in range(count)] for i in range(count)],
        "frequency": [2 * share for share in load],
        "saliency": [1.0 + expert for expert in range(count)],
        "max_violation": max(load) * count - 1,
        "effective_experts": 0.95,
        "shared_expected": even,
        "router_cosine": [[float(i == j) for j in range(count)] for i in range(count)],
        "margin": {"mean": 0.8, "quantile_10": 0.1, "median": 0.6, "quantile_90": 2.0},
        "saturation": [{"step": 250, "tokens": 4096, "share": 0.6, "chance": 0.3}],
        "favourites": [
            [{"text": "<b>\n", "count": 9, "share": 0.75, "over_fair": 3.0}] for _ in range(count)
        ],
        "vocabulary": [0.4] * count,
        "domain_share": {"code": [0.5] * count, "prose": [0.25] * count},
    }


def _ablation(layers: list[dict[str, Any]], by: float) -> dict[str, Any]:
    def change(nats: float) -> dict[str, float]:
        return {"nats": nats, "low": nats - 0.002, "high": nats + 0.002, "in_unit": 1.44 * nats}

    def mean(nats: float) -> dict[str, Any]:
        return {"pairs": len(layers), "hand_over": change(2 * nats), "mean_output": change(nats)}

    return {
        "tokens": 16384,
        "windows": 64,
        "predictions": 16320,
        "loss_nats": 2.0,
        "unit": "bpc",
        "in_unit": 2.9,
        "level": 0.95,
        "resamples": 1000,
        "left_out": [
            {
                "layer": layer["layer"],
                "expert": expert,
                "tokens": 100,
                "change": change(by * 0.01 * expert - 0.001 + 0.0001 * layer["layer"]),
            }
            for layer in layers
            for expert in range(layer["experts"])
        ],
        "pairs": [
            {
                "layer": layer["layer"],
                "experts": pair,
                "kind": kind,
                "cka": layer["cka"][pair[0]][pair[1]],
                "keeper": pair[0],
                "hand_over": change(2 * nats),
                "mean_output": change(nats),
            }
            for layer in layers
            for kind, pair, nats in (("similar", (0, 1), 0.005), ("random", (1, 2), 0.01))
        ],
        "similar": mean(0.005),
        "random": mean(0.01),
        "similar_minus_random": mean(-0.005),
    }


def _layer(random: np.random.Generator, number: int, experts: int, alike: float) -> dict[str, Any]:
    cka = _matrix(random, experts, alike)
    pairs = np.array(cka)[np.triu_indices(experts, 1)]
    mean = float(pairs.mean()) if len(pairs) else None
    load = random.dirichlet(np.full(experts, 20.0))
    null = {"mean": 0.0004, "quantile_95": 0.0123, "draws": 200}
    return {
        "layer": number,
        "name": f"blocks.{number}.moe",
        "experts": experts,
        "top_k": 2,
        "cka": cka,
        "cka_low": [[value if value == 1 else value - 0.03 for value in row] for row in cka],
        "cka_high": [[value if value == 1 else value + 0.02 for value in row] for row in cka],
        "cka_null": null,
        "cka_mean": {
            **_estimate(mean, len(pairs), "pairs"),
            "low": None if mean is None else mean - 0.02,
            "high": None if mean is None else mean + 0.02,
        },
        "cka_biased": _matrix(random, experts, alike),
        "cka_biased_null": null,
        "cka_rbf": _matrix(random, experts, alike),
        "cka_rbf_null": null,
        "cosine": _matrix(random, experts, alike / 2),
        "weight_cosine": _matrix(random, experts, 0.01),
        "weight_matched": _matrix(random, experts, 0.2),
        "weight_matched_chance": 0.19,
        "shared": _matrix(random, experts, 0.15, diagonal=0),
        "load": load.tolist(),
        "load_cv": float(load.std() / load.mean()),
        "load_max_over_mean": float(load.max() / load.mean()),
        "dead": [],
        "entropy_nats": 0.6 * float(np.log(experts)),
        "entropy_of_mean_nats": 0.98 * float(np.log(experts)),
        "entropy_max_nats": float(np.log(experts)),
        "effective_rank": random.uniform(20, 60, experts).tolist(),
        "effective_rank_max": 128,
    }


def _estimate(value: float | None, count: int, of: str) -> dict[str, Any]:
    return {
        "value": value,
        "low": None if value is None else value - 0.1,
        "high": None if value is None else value + 0.1,
        "n": count,
        "of": of,
        "null_mean": 0.0,
        "null_low": -0.2,
        "null_high": 0.2,
        "method": "bootstrap of experts, permutations",
    }


def _matrix(
    random: np.random.Generator, experts: int, centre: float, diagonal: float = 1
) -> list[list[float]]:
    values = np.triu(random.uniform(0.5 * centre, 1.5 * centre, (experts, experts)), 1)
    values = values + values.T
    np.fill_diagonal(values, diagonal)
    rows: list[list[float]] = values.tolist()
    return rows
