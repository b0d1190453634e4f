"""What `attach` costs a training step of somebody else's model.

    python -m benchmarks.attach [--tokens 8192] [--experts 16] [--repeats 5]

A random Mixtral of four layers takes the same steps plain, attached with similarity "none", and
with "calibrated", in turns within one process. Reported are the medians and their ratios to plain.
The aims are 1.02 and 1.06.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from benchmarks.timing import machine
from simsmoe_cli.any_moe.handle import attach

KINDS = ("plain", "none", "calibrated")


def mixtral(experts: int) -> Any:
    """A Mixtral of four layers, width 256."""
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_local_experts=experts,
        num_experts_per_tok=2,
        max_position_embeddings=512,
    )
    return transformers.MixtralForCausalLM(config).train()


def main(words: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(words)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    ids = torch.randint(0, 4096, (given.tokens // 512, 512))
    trained = {kind: mixtral(given.experts) for kind in KINDS}
    optimizers = {k: torch.optim.AdamW(m.parameters(), lr=1e-4) for k, m in trained.items()}
    handles = {kind: attach(trained[kind], kind, probe_every=200) for kind in KINDS[1:]}
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for repeat in range(given.repeats + 1):
        for kind in KINDS:
            start = time.perf_counter()
            optimizers[kind].zero_grad()
            trained[kind](input_ids=ids, labels=ids).loss.backward()
            optimizers[kind].step()
            if kind in handles:
                handles[kind].step()
            if repeat:  # the first one probes, and warms up
                taken[kind].append(time.perf_counter() - start)
    for kind in KINDS:
        ratios = [t / p for t, p in zip(taken[kind], taken["plain"], strict=True)]
        print(
            f"{kind:11} {statistics.median(taken[kind]):.2f} s a step, "
            f"{statistics.median(ratios):.3f} of plain"
        )


if __name__ == "__main__":
    main()
