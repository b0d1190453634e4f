"""A collapse report of a model the size of OLMoE-1B-7B, beside its forward pass.

    python -m benchmarks.large_report [--folder DIR] [--layers 16] [--tokens N] [--keep]

Writes random bf16 weights under the names and in the shapes of the real checkpoint (16 layers are
13 GB), then runs in processes of their own: the forward pass over the tokens a report reads, and
the report. Prints wall time, CPU time and peak resident memory of each, and the ratio. The bar is
6 GB and three times the forward pass. Not part of `benchmarks.run`, which needs no such folder.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.timing import machine
from simsmoe_cli.collapse.build import ROWS
from simsmoe_cli.collapse.estimate import plan
from simsmoe_cli.collapse.measure.layers import measure
from simsmoe_cli.collapse.measure.options import Options
from simsmoe_cli.collapse.sources.huggingface.source import HuggingFaceSource
from simsmoe_cli.collapse.sources.open_huggingface import open_huggingface
from simsmoe_cli.similarity.routed import Routed

WIDTH, HIDDEN, EXPERTS, TOP_K, VOCABULARY = 2048, 1024, 64, 8, 50304
LAYERS_OF_A_SHARD = 2
CONFIG: dict[str, Any] = {
    "architectures": ["OlmoeForCausalLM"],
    "model_type": "olmoe",
    "dtype": "bfloat16",
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "num_experts": EXPERTS,
    "num_experts_per_tok": TOP_K,
    "norm_topk_prob": False,
    "max_position_embeddings": 4096,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "pad_token_id": 1,
    "eos_token_id": 50279,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}


class Silent:
    """Listens to a walk and keeps nothing."""

    def routed(self, layer: int, routed: Routed, rows: bool) -> None:
        pass

    def seen(self, layer: int) -> None:
        pass

    def progress(self, share: float) -> None:
        pass


def write(folder: Path, layers: int) -> None:
    """Write the model: shards of two layers each, an index and a config."""
    folder.mkdir(parents=True)
    random = torch.Generator().manual_seed(0)

    def weight(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=random).mul_(0.02).bfloat16()

    file_of: dict[str, str] = {}
    total = 0

    def shard(tensors: dict[str, torch.Tensor]) -> None:
        nonlocal total
        name = f"model-{len(set(file_of.values())) + 1:05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        file_of.update(dict.fromkeys(tensors, name))
        total += sum(tensor.nbytes for tensor in tensors.values())

    shard(
        {
            "model.embed_tokens.weight": weight(VOCABULARY, WIDTH),
            "model.norm.weight": torch.ones(WIDTH, dtype=torch.bfloat16),
            "lm_head.weight": weight(VOCABULARY, WIDTH),
        }
    )
    for first in range(0, layers, LAYERS_OF_A_SHARD):
        tensors = {}
        for number in range(first, min(layers, first + LAYERS_OF_A_SHARD)):
            layer = f"model.layers.{number}"
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                tensors[f"{layer}.self_attn.{name}.weight"] = weight(WIDTH, WIDTH)
            for name in (
                "self_attn.q_norm",
                "self_attn.k_norm",
                "input_layernorm",
                "post_attention_layernorm",
            ):
                tensors[f"{layer}.{name}.weight"] = torch.ones(WIDTH, dtype=torch.bfloat16)
            tensors[f"{layer}.mlp.gate.weight"] = weight(EXPERTS, WIDTH)
            for expert in range(EXPERTS):
                own = f"{layer}.mlp.experts.{expert}"
                tensors[f"{own}.gate_proj.weight"] = weight(HIDDEN, WIDTH)
                tensors[f"{own}.up_proj.weight"] = weight(HIDDEN, WIDTH)
                tensors[f"{own}.down_proj.weight"] = weight(WIDTH, HIDDEN)
        shard(tensors)
    index = {"metadata": {"total_size": total}, "weight_map": file_of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": layers}))


def opened(folder: Path, tokens: int) -> HuggingFaceSource:
    ids = np.random.default_rng(0).integers(0, VOCABULARY, 5 * tokens)
    return open_huggingface(folder, None, device=torch.device("cpu"), token_ids=ids)


def run(what: str, folder: Path, tokens: int | None) -> dict[str, Any]:
    """Do one thing in this process and say what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    source = opened(folder, tokens or ROWS)
    layers = range(len(source.layers))
    made = plan(
        source, Options(rows=tokens or ROWS), layers, torch.device("cpu"), asked=tokens is not None
    )
    open_s = time.perf_counter() - wall
    if what == "forward":
        read = source.walk(made.options.all_tokens, made.options.rows, Silent(), []).tokens
    else:
        read = measure(source, made.options).text.tokens
    return {
        "what": what,
        "tokens": read,
        "rows": made.options.rows,
        "computed_in": str(source.size.dtype),
        "estimate": made.words,
        "open_s": open_s,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def main(words: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("olmoe-sized"))
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--tokens", type=int, help="as of collapse-report; its default if left out")
    parser.add_argument("--keep", action="store_true", help="leave the folder for another time")
    parser.add_argument("--run", choices=("forward", "report"), help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.run:
        print(json.dumps(run(given.run, given.folder, given.tokens)))
        return
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    if not given.folder.exists():
        started = time.perf_counter()
        write(given.folder, given.layers)
        size = sum(path.stat().st_size for path in given.folder.iterdir()) / 1e9
        print(f"wrote {size:.1f} GB in {time.perf_counter() - started:.0f} s", flush=True)
    found = {}
    for what in ("forward", "report"):
        words = ["--folder", str(given.folder), "--run", what]
        words += [] if given.tokens is None else ["--tokens", str(given.tokens)]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.large_report", *words],
            check=True, stdout=subprocess.PIPE, text=True, env=os.environ,
        )  # fmt: skip
        found[what] = json.loads(done.stdout)
        print(done.stdout, end="", flush=True)
    for unit in ("wall_s", "cpu_s"):
        ratio = found["report"][unit] / found["forward"][unit]
        print(f"report / forward pass, {unit}: {ratio:.2f}")
    if not given.keep:
        shutil.rmtree(given.folder)


if __name__ == "__main__":
    main()
