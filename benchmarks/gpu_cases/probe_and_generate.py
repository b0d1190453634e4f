"""What is not a training step: a probe, and generation."""

from __future__ import annotations

import torch

from benchmarks.gpu_cases.bench import Bench, Figures
from simsmoe_cli.generation.sampling import Reader, Sampling, generate
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.train.objectives.language_modelling import LanguageModelling
from simsmoe_cli.train.probes import probe


def probing(bench: Bench, recipe: Recipe) -> Figures:
    """A probe of all layers, as a run makes them."""
    objective = LanguageModelling(recipe, bench.store, bench.device)
    tokens_BM, _ = objective.probe_batch()
    context = StepContext(step=1, total_steps=2)
    seconds, _ = bench.seconds(lambda: probe(objective.model, tokens_BM, context, "bf16"), 1.0)
    return {"seconds": seconds, "tokens": tokens_BM.numel()}


def generating(bench: Bench, recipe: Recipe) -> Figures:
    """Tokens one after the other, after a prompt of 64."""
    torch.manual_seed(0)
    with bench.device:
        model = LanguageModel(recipe, bench.vocabulary).eval()
    context = StepContext(step=1, total_steps=2)
    prompt = torch.randint(bench.vocabulary, (64,)).tolist()
    count = 4 if bench.tiny else 128

    def run() -> None:
        for _ in generate(Reader(model, context), prompt, count, Sampling(temperature=0.0)):
            pass

    seconds, _ = bench.seconds(run, 2.0)
    return {"tokens_per_s": count / seconds}
