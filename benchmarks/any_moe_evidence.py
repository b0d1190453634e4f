"""What similarity learning does in somebody else's training: upcycled models, and the Trainer.

    python -m benchmarks.any_moe_evidence OUT --text FILE [--only 'scratch-*'] [--steps 200]
    python -m benchmarks.any_moe_evidence OUT --table

Small models of transformers are trained by its Trainer on the bytes of a text file (enwik8), each
with `SimSMoECallback`:

- upcycled: a dense Llama is trained, `simsmoe upcycle` makes it a Mixtral of 8 experts with
  Drop-Upcycling (drop ratio 0.5), and that is trained on, with similarity "none" and "calibrated".
  "copies" is the same with exact copies as experts, one seed.
- scratch: a Mixtral of random weights is trained, with "none" and "calibrated".

A cell is one training. A finished cell leaves OUT/cells/NAME.json and is skipped the next time, so
an interrupted call is repeated as it is; two calls with different `--only` may run side by side.
The table shows, at each measured step, bits per byte and CKA on held-out text, with 95% t-intervals
over seeds of the mean and of the difference between "calibrated" and "none" of the same seed.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.utils.data import Dataset

import simsmoe_cli as simsmoe
from benchmarks.timing import machine
from simsmoe_cli.any_moe.expert_calls import LayerRecorder, recording
from simsmoe_cli.any_moe.find_layers import find_expert_layers
from simsmoe_cli.similarity.cka import debiased_linear_cka
from simsmoe_cli.upcycle.experts import Settings
from simsmoe_cli.upcycle.write import upcycle

SEEDS = (0, 1, 2)
T_975 = {2: 4.303, 1: 12.706}  # Student's t for a 95% interval, by degrees of freedom
EXPERTS, TOP_K, WIDTH, HIDDEN, LAYERS, HEADS = 8, 2, 64, 128, 3, 4
BLOCK, BATCH = 128, 8
VALID_BYTES = 1 << 15
CKA_TOKENS = 2048
SCORES = {"bpb": "bits per byte", "cka": "CKA", "cka_shared": "CKA, shared tokens"}


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        start: "dense", "upcycled", "copies" or "scratch".
        similarity: a preset; None: nothing is attached.
    """

    start: str
    similarity: str | None
    seed: int

    @property
    def name(self) -> str:
        return "-".join(
            str(part) for part in (self.start, self.similarity, self.seed) if part is not None
        )


CELLS = [
    *(
        Cell(start, similarity, seed)
        for seed in SEEDS
        for start, kinds in {
            "dense": (None,),
            "upcycled": ("none", "calibrated"),
            "scratch": ("none", "calibrated"),
        }.items()
        for similarity in kinds
    ),
    Cell("copies", "none", 0),
    Cell("copies", "calibrated", 0),
]


class Blocks(Dataset[dict[str, Tensor]]):
    """Random blocks of a text; the order and places depend on the seed."""

    def __init__(self, ids: Tensor, seed: int, count: int):
        self.ids = ids
        generator = torch.Generator().manual_seed(seed)
        self.starts = torch.randint(0, len(ids) - BLOCK, (count,), generator=generator).tolist()

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        start = self.starts[number]
        ids = self.ids[start : start + BLOCK].long()
        return {"input_ids": ids, "labels": ids}


class Measure(transformers.TrainerCallback):
    """Scores a model on held-out text several times while it trains."""

    def __init__(self, measured: Callable[[Any], dict[str, float | None]], steps: int):
        self.at = {steps * half // 2 for half in range(3)}
        self.measured = measured
        self.found: dict[int, dict[str, float | None]] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.on_step_end(args, state, control, **given)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step in self.at:
            self.found[state.global_step] = self.measured(given["model"])


def byte_tokenizer() -> Any:
    """A tokenizer whose tokens are bytes, and whose ids are their values."""
    # ByteLevel writes each byte as a printable character: those of Latin-1, and others after 255.
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    names = {chr(byte): byte for byte in kept}
    names |= {chr(256 + place): byte for place, byte in enumerate(others)}
    inner = Tokenizer(models.BPE(vocab=names, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner)


def sizes() -> dict[str, Any]:
    return {
        "vocab_size": 256,
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": BLOCK,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def bits_per_byte(model: Any, ids: Tensor) -> float:
    """Of held-out text, in blocks without memory."""
    with torch.no_grad():
        losses = [
            model(input_ids=rows.long(), labels=rows.long()).loss.item()
            for rows in ids.view(-1, BLOCK).split(32)
        ]
    return statistics.fmean(losses) / math.log(2)


def similarity_of(model: Any, ids: Tensor) -> dict[str, float | None]:
    """Mean debiased linear CKA over all pairs and layers: of outputs on all tokens, and on those
    that both experts of a pair are sent (at least 16)."""
    recorders = [LayerRecorder(layer, TOP_K) for layer in find_expert_layers(model)]
    everywhere, shared = [], []
    with torch.no_grad():
        with recording(recorders):
            model(input_ids=ids.view(-1, BLOCK).long())
        for recorder in recorders:
            routed = recorder.result(None, "model")
            outputs_NTD = recorder.layer.dense(routed.input_TD)
            sent_TN = torch.nn.functional.one_hot(routed.index_TK, EXPERTS).any(1)
            for first, second in itertools.combinations(range(EXPERTS), 2):
                pair = outputs_NTD[first], outputs_NTD[second]
                both_T = sent_TN[:, first] & sent_TN[:, second]
                everywhere.append(debiased_linear_cka(*pair).item())
                if both_T.sum() >= 16:
                    shared.append(debiased_linear_cka(*(rows[both_T] for rows in pair)).item())
    return {
        "cka": statistics.fmean(everywhere),
        "cka_shared": statistics.fmean(shared) if shared else None,
    }


def started(cell: Cell, out: Path) -> Any:
    """The model that a cell trains."""
    torch.manual_seed(cell.seed)
    if cell.start == "dense":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes()))
    if cell.start == "scratch":
        config = transformers.MixtralConfig(
            **sizes(), num_local_experts=EXPERTS, num_experts_per_tok=TOP_K
        )
        return transformers.MixtralForCausalLM(config)
    with tempfile.TemporaryDirectory() as folder:
        drop_ratio = 0.5 if cell.start == "upcycled" else None
        settings = Settings(EXPERTS, TOP_K, drop_ratio, None, cell.seed)
        upcycle(out / f"dense-{cell.seed}", Path(folder) / "moe", settings)
        return transformers.MixtralForCausalLM.from_pretrained(
            Path(folder) / "moe", dtype=torch.float32
        )


def train(cell: Cell, text: Path, steps: int, out: Path) -> dict[str, Any]:
    """One training; its scores by step."""
    ids = torch.frombuffer(bytearray(text.read_bytes()), dtype=torch.uint8)
    cut = len(ids) * 95 // 100

    def measured(model: Any) -> dict[str, float | None]:
        model.eval()
        found: dict[str, float | None] = {"bpb": bits_per_byte(model, ids[cut : cut + VALID_BYTES])}
        if cell.start != "dense":
            found |= similarity_of(model, ids[cut : cut + CKA_TOKENS])
        model.train()
        print(cell.name, json.dumps(found), flush=True)
        return found

    measure = Measure(measured, steps)
    callbacks: list[transformers.TrainerCallback] = [measure]
    if cell.similarity is not None:
        run = out / "runs" / cell.name
        shutil.rmtree(run, ignore_errors=True)  # of an interrupted call
        callbacks.append(
            simsmoe.SimSMoECallback(cell.similarity, run=run, probe_every=50, seed=cell.seed)
        )
    model = started(cell, out)
    arguments = transformers.TrainingArguments(
        output_dir=str(out / "trainer" / cell.name),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        warmup_steps=50,
        max_grad_norm=1.0,
        logging_steps=20,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        seed=cell.seed,
    )
    data = Blocks(ids[:cut], seed=1000 * len(cell.start) + cell.seed, count=steps * BATCH)
    clock = time.process_time()
    transformers.Trainer(model, arguments, train_dataset=data, callbacks=callbacks).train()
    if cell.start == "dense":
        model.save_pretrained(out / cell.name)
        byte_tokenizer().save_pretrained(out / cell.name)
    seconds = time.process_time() - clock
    return {"scores": measure.found, "cpu_seconds": seconds, "steps": steps, **machine()}


def interval(values: Sequence[float]) -> str:
    """Mean and half the width of its 95% t-interval."""
    if len(values) < 2:
        return " ".join(f"{value:.4f}" for value in values)
    half = T_975[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.fmean(values):.4f} ± {half:.4f}"


def table(out: Path) -> None:
    """Print what the finished cells found, in Markdown."""
    found: dict[tuple[str, str | None], dict[int, dict[str, Any]]] = {}
    for cell in CELLS:
        path = out / "cells" / f"{cell.name}.json"
        if path.is_file():
            scores = json.loads(path.read_text("utf-8"))["scores"]
            found.setdefault((cell.start, cell.similarity), {})[cell.seed] = scores
    print("| start | similarity | step | " + " | ".join(SCORES.values()) + " |")
    print("|---" * (3 + len(SCORES)) + "|")
    for (start, similarity), seeds in found.items():
        for step in next(iter(seeds.values())):
            means = [
                interval(
                    [one[step][key] for one in seeds.values() if one[step].get(key) is not None]
                )
                for key in SCORES
            ]
            print(f"| {start} | {similarity or ''} | {step} | {' | '.join(means)} |")
    for start in ("upcycled", "copies", "scratch"):
        plain, learned = (found.get((start, kind), {}) for kind in ("none", "calibrated"))
        both = [seed for seed in plain if seed in learned]
        for step in plain[both[0]] if both else ():
            means = [
                interval(
                    [
                        learned[seed][step][key] - plain[seed][step][key]
                        for seed in both
                        if None not in (learned[seed][step][key], plain[seed][step][key])
                    ]
                )
                for key in SCORES
            ]
            print(f"| {start} | difference | {step} | {' | '.join(means)} |")


def main(words: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for results")
    parser.add_argument("--text", type=Path, metavar="FILE", help="a text file")
    parser.add_argument("--only", default="*", help="train only cells of this pattern")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--table", action="store_true", help="only print the table")
    given = parser.parse_args(words)
    if not given.table:
        if given.text is None:
            parser.error("--text is needed to train")
        (given.out / "cells").mkdir(parents=True, exist_ok=True)
        for cell in CELLS:
            done = given.out / "cells" / f"{cell.name}.json"
            if done.is_file() or not fnmatch.fnmatch(cell.name, given.only):
                continue
            result = train(cell, given.text, given.steps, given.out)
            done.with_suffix(".part").write_text(json.dumps(result, indent=1), "utf-8")
            done.with_suffix(".part").replace(done)
    table(given.out)


if __name__ == "__main__":
    main()
