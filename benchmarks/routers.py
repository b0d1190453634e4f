"""Every router with every similarity preset, trained by the command line on real text.

    python -m benchmarks.routers [--steps 100] [--set A.B=C ...] [--only ROUTER ...]

Prints a table: BPC of the first and last train event, validation BPC, mean debiased CKA between
experts (all pairs and layers, from the last probe), the load's coefficient of variation (mean over
layers), and tokens per second. Exits 1 if any run fails or its loss does not fall.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from statistics import fmean
from typing import Any

from simsmoe_cli import registry
from simsmoe_cli.recipe.similarity import PRESETS

# What a router needs besides its name.
SETTINGS = {
    "switch": ["moe.top_k=1"],
    "expert-choice": ["expert_choice.allow_leak=true"],
}
SIMILARITIES = ("none", "published", "calibrated")


def train(router: str, similarity: str, arguments: list[str]) -> list[dict[str, Any]] | str:
    """The events of a run, or what went wrong."""
    command = [sys.executable, "-m", "simsmoe_cli", "pretrain", "--json"]
    command += ["--router", router, "--similarity", similarity, *arguments]
    for setting in SETTINGS.get(router, []):
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    return [json.loads(line) for line in done.stdout.splitlines()]


def row(events: list[dict[str, Any]]) -> dict[str, float]:
    """The figures of a run."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        kinds.setdefault(event["kind"], []).append(event)
    means = [layer["mean"] for layer in kinds["similarity"][-1]["layers"]]
    return {
        "first BPC": kinds["train"][0]["bpc"],
        "last BPC": kinds["train"][-1]["bpc"],
        "valid BPC": [e for e in kinds["eval"] if e["split"] == "valid"][-1]["bpc"],
        "CKA": fmean(mean for mean in means if mean is not None),
        "load CV": fmean(layer["load_cv"] for layer in kinds["router"][-1]["layers"]),
        "tokens/s": kinds["train"][-1]["tokens_per_s"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="settings")
    parser.add_argument("--only", nargs="*", choices=registry.ROUTERS, metavar="ROUTER")
    parser.add_argument("--similarities", nargs="*", choices=PRESETS, default=SIMILARITIES)
    options = parser.parse_args()
    failures = 0
    header: list[str] = []
    for router in options.only or registry.ROUTERS:
        for similarity in options.similarities:
            with tempfile.TemporaryDirectory() as runs:
                arguments = ["--recipe", "quickstart", "--runs-dir", runs]
                for setting in (
                    f"train.steps={options.steps}",
                    "train.warmup_steps=10",
                    f"train.probe_every={options.steps}",
                    "train.checkpoint_every=0",
                    "eval.final_blocks=1",
                    *options.settings,
                ):
                    arguments += ["--set", setting]
                events = train(router, similarity, arguments)
            if isinstance(events, str):
                failures += 1
                print(f"| {router} | {similarity} | failed: {events} |", flush=True)
                continue
            figures = row(events)
            failures += figures["last BPC"] >= figures["first BPC"]
            if not header:
                header = ["router", "similarity", *figures]
                print("| " + " | ".join(header) + " |")
                print("|" + "---|" * len(header))
            cells = [
                f"{value:,.0f}" if value > 100 else f"{value:.3f}" for value in figures.values()
            ]
            print(f"| {router} | {similarity} | {' | '.join(cells)} |", flush=True)
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
