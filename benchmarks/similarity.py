"""How the time of a training step grows with the number of experts N, by what is compared.

    python benchmarks/similarity.py [--tokens 128] [--measure cka-linear-debiased] [--device cpu]

One model (two layers of attention and experts, width 128, hidden 256, K = 2; 2,048 tokens a step),
forward and backward without the optimizer, in milliseconds: the fastest of some steps after
warming up, settings taking turns. On a CPU it is the time of one thread on it, which other work on
the machine changes least. "none" is the step without similarity learning; "pairs" compares 4 pairs
a layer, "layer" all N(N-1)/2, "experts" each expert with all others at once.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.nn import functional as F

from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.recipe.schema import Recipe

VOCABULARY = 256


def build(experts: int, similarity: dict[str, object], device: str) -> LanguageModel:
    sections = {
        "model": {"pattern": "sg", "repeats": 2, "width": 128, "heads": 4},
        "moe": {"experts": experts, "hidden": 256, "top_k": 2},
        "similarity": similarity,
    }
    torch.manual_seed(0)
    return LanguageModel(Recipe.model_validate(sections), VOCABULARY).to(device)


def step(model: LanguageModel, tokens_BM: torch.Tensor) -> float:
    """Milliseconds of a forward and backward pass."""
    cuda = tokens_BM.device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.synchronize()
    start = clock()
    output = model(tokens_BM)
    loss = F.cross_entropy(output.logits.flatten(0, 1), tokens_BM.flatten())
    for value in output.losses.values():
        loss = loss + 0.01 * value
    loss.backward()
    if cuda:
        torch.cuda.synchronize()
    elapsed = 1000 * (clock() - start)
    model.zero_grad(set_to_none=True)
    return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=int, nargs="+", default=[4, 8, 16, 32, 64, 128])
    parser.add_argument("--tokens", type=int, default=128, help="n, sampled tokens")
    parser.add_argument("--measure", default="cka-linear-debiased")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    common = {"preset": "calibrated", "measure": given.measure, "tokens": given.tokens}
    settings: dict[str, dict[str, object]] = {
        "none": {},
        "pairs": {**common, "min_tokens": 4},
        "layer": {**common, "scope": "layer"},
        "experts": {"preset": "calibrated", "scope": "experts", "tokens": given.tokens},
    }
    print(f"{given.measure}, n = {given.tokens}, {given.device}")
    print("    N " + "".join(f"{name:>18}" for name in settings))
    for experts in given.experts:
        tokens_BM = torch.randint(VOCABULARY, (8, 256), device=given.device)
        models = {name: build(experts, one, given.device) for name, one in settings.items()}
        times: dict[str, list[float]] = {name: [] for name in settings}
        for number in range(given.steps + 2):
            for name, model in models.items():
                elapsed = step(model, tokens_BM)
                if number >= 2:
                    times[name].append(elapsed)
        plain = min(times["none"])
        cells = []
        for name in settings:
            fastest = min(times[name])
            more = "" if name == "none" else f" ({100 * (fastest / plain - 1):+.0f}%)"
            cells.append(f"{fastest:.0f} ms{more}")
        print(f"{experts:5} " + "".join(f"{cell:>18}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
