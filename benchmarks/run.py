"""Speed, side by side.

    python -m benchmarks.run [NAME ...] [--runs 5] [--json FILE]
    python -m benchmarks.run gpu [--minutes 7] [--json FILE] [--only REGEX]
    python -m benchmarks.run published --checkout DIR --fastmoe DIR [--runs 5] [--json FILE]

Each benchmark times its cases in turn in one process and prints medians, spreads, peak memory and
ratios. Absolute times depend on the machine; ratios are what to look at. `--list` names them all;
transformers' Mixtral needs the extra `bench`. `gpu` (docs/gpu.md) and `published`
(docs/benchmarks.md) are run only by name.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from benchmarks import attention, cross_entropy, gpu, machinery, published, similarity_budget
from benchmarks.parallel import parallel
from benchmarks.published_code import missing
from benchmarks.step import (
    Shape,
    Way,
    dense_peer,
    mixtral_case,
    model_flops,
    modern,
    product_case,
    step_case,
)
from benchmarks.timing import alternate, machine, report
from simsmoe_cli import registry
from simsmoe_cli.model.precision import cpu_bf16
from simsmoe_cli.train.allocator import keep_freed_memory

Tables = list[dict[str, Any]]


def peers(runs: int) -> Tables:
    """mistral-modern (4 layers, 8,192 tokens) against the fp32 peak, Mixtral, loop and dense."""
    recipe, shape = modern(), Shape()
    tables = []
    # Emulated bf16 takes minutes a step and says nothing.
    precisions = ["fp32", "bf16"] if cpu_bf16() else ["fp32"]
    if len(precisions) == 1:
        print("bf16 is left out: this CPU has no instructions for it")
    for train in (True, False):
        ways = {p: Way(p, train) for p in precisions}
        if train:
            ways["compiled"] = Way(compiled=True)
        cases = [step_case(f"simsmoe {name}", recipe, shape, way) for name, way in ways.items()]
        try:
            cases += [
                mixtral_case(f"transformers {name}", recipe, shape, way)
                for name, way in ways.items()
            ]
        except ImportError:
            print("transformers is not installed: pip install 'simsmoe[bench]'", file=sys.stderr)
        way = Way(train=train)
        cases.append(step_case("loop experts", modern("moe.backend=loop"), shape, way))
        cases.append(step_case("dense, equal FLOPs", dense_peer(recipe), shape, way))
        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
        cases += [product_case(f"matrix product {p}", recipe, shape, kinds[p]) for p in precisions]
        timed = alternate(cases, runs)
        kind = "training step" if train else "forward pass"
        table = report(f"mistral-modern, 4 layers, 8,192 tokens: {kind}", timed, "simsmoe fp32")
        rates = {one.name: one.rate for one in timed}
        table["utilisation"] = {}
        for precision in precisions:
            flops = rates[f"simsmoe {precision}"] * model_flops(recipe, shape, train=train)
            share = flops / shape.tokens / 1e9 / rates["matrix product fp32"]
            table["utilisation"][precision] = share
            print(f"model FLOPs of {precision} over the measured fp32 peak: {share:.0%}")
        tables.append(table)
    return tables


def relative(runs: int) -> Tables:
    """Relative attention of brainformer-tiny against a straightforward version."""
    tables = []
    for dropout in (0.1, 0.0):
        timed = alternate(attention.cases(dropout), runs)
        title = f"relative attention, span 2048, 4 x 512, dropout {dropout}: forward and backward"
        tables.append(report(title, timed, "straightforward"))
    return tables


def similarity(runs: int) -> Tables:
    """What similarity learning adds to a training step, N = 16 and N = 4 to 128."""
    shape = Shape()
    tables = []
    settings = {
        "none": [],
        "calibrated": ["similarity.preset=calibrated"],
        "published, f* = 16": ["similarity.preset=published"],
        "published, f* = 1": ["similarity.preset=published", "similarity.check_every=1"],
    }
    for experts in (4, 16, 64, 128):
        names = settings if experts == 16 else ("none", "calibrated")
        cases = [
            step_case(name, modern(f"moe.experts={experts}", *settings[name]), shape)
            for name in names
        ]
        title = f"similarity learning, mistral-modern, 4 layers, N = {experts}, 8,192 tokens"
        tables.append(report(title, alternate(cases, runs), "none"))
    return tables


def routers(runs: int) -> Tables:
    """A training step with each router."""
    needs = {"switch": ["moe.top_k=1"], "expert-choice": ["expert_choice.allow_leak=true"]}
    shape = Shape(8, 256)
    names = ["smoe", *(name for name in registry.ROUTERS if name != "smoe")]
    cases = [
        step_case(name, modern(f"moe.router={name}", "moe.z_weight=0", *needs.get(name, [])), shape)
        for name in names
    ]
    return [
        report("routers, mistral-modern, 4 layers, 2,048 tokens", alternate(cases, runs), "smoe")
    ]


def experts(runs: int) -> Tables:
    """The number of experts at fixed active FLOPs."""
    shape = Shape()
    counts = (4, 8, 16, 32, 64, 128)
    cases = [step_case(f"N = {n}", modern(f"moe.experts={n}"), shape) for n in counts]
    title = "number of experts, mistral-modern, 4 layers, 8,192 tokens"
    return [report(title, alternate(cases, runs), "N = 4")]


def blocks(runs: int) -> Tables:
    """Block length, span and micro-batch size, at an equal number of tokens."""
    shapes = [
        step_case(f"block {block}", modern(), Shape(8192 // block, block))
        for block in (256, 512, 1024, 2048)
    ]
    spans = [
        step_case(f"span {span}", modern(f"model.span={span}"), Shape())
        for span in (128, 256, 512, 1024)
    ]
    sizes = [
        step_case(f"{batch} x 512 tokens", modern(), Shape(batch, 512)) for batch in (1, 4, 16)
    ]
    return [
        report("block length, 8,192 tokens, span 512", alternate(shapes, runs), "block 1024"),
        report("span, 8 x 1,024 tokens", alternate(spans, runs), "span 512"),
        report("micro-batch", alternate(sizes, runs), "16 x 512 tokens"),
    ]


def vocabulary(runs: int) -> Tables:
    """The loss of 267,735 words, in chunks and with whole logits."""
    timed = alternate(cross_entropy.cases(), runs)
    return [report("output layer and loss of 267,735 words", timed, "whole logits")]


BENCHMARKS: dict[str, Callable[[int], Tables]] = {
    "peers": peers,
    "attention": relative,
    "similarity": similarity,
    "budget": similarity_budget.budget,
    "routers": routers,
    "experts": experts,
    "blocks": blocks,
    "vocabulary": vocabulary,
    "parallel": parallel,
    "prepare": machinery.prepare,
    "checking": machinery.checking,
    "startup": machinery.startup,
    "checkpoints": machinery.checkpoints,
    "reading": machinery.reading,
    "generating": machinery.generating,
    "reporting": machinery.reporting,
}
BY_NAME = (gpu, published)


def _name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="all, if left out")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    parser.add_argument(
        "--plain-allocator",
        action="store_true",
        help="give freed memory back to the system, as programs do that leave glibc's settings",
    )
    parser.add_argument("--minutes", type=float, default=7.0, help="gpu: begin no case after this")
    parser.add_argument("--only", default="", metavar="REGEX", help="gpu: cases of these names")
    parser.add_argument("--device", default="auto", help="gpu: auto, cpu or cuda")
    parser.add_argument("--tiny", action="store_true", help="gpu: everything in small")
    parser.add_argument("--checkout", type=Path, help="published: folder of SimSMoE's code")
    parser.add_argument("--fastmoe", type=Path, help="published: folder of fastmoe")
    parser.add_argument("--list", action="store_true", help="name the benchmarks")
    given = parser.parse_args()
    if given.list:
        for name, function in BENCHMARKS.items():
            print(f"{name:12} {(function.__doc__ or '').splitlines()[0]}")
        for module in BY_NAME:
            print(f"{_name(module):12} {(module.__doc__ or '').splitlines()[0]}")
        return
    known = [*BENCHMARKS, *map(_name, BY_NAME)]
    if unknown := [name for name in given.names if name not in known]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    if "published" in given.names and not (given.checkout and given.fastmoe):
        parser.error("published needs --checkout and --fastmoe (docs/benchmarks.md)")
    if "published" in given.names and (wrong := missing(given.checkout, given.fastmoe)):
        parser.error(wrong)
    if not given.plain_allocator:
        keep_freed_memory(torch.device("cpu"))  # as training does; peers gain by it too
    facts = machine()
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    results: dict[str, Tables] = {}

    def keep(name: str, tables: Tables) -> None:
        results[name] = tables
        if given.json:
            given.json.write_text(json.dumps({"machine": facts, "results": results}, indent=1))

    for name in given.names or BENCHMARKS:
        if name == "gpu":
            on_case = partial(keep, name)
            gpu.gpu(given.device, given.minutes, given.tiny, on_case, only=given.only)
        elif name == "published":
            setting = published.Setting(
                given.checkout, given.fastmoe, plain_allocator=given.plain_allocator
            )
            keep(name, published.published(setting, given.runs))
        else:
            keep(name, BENCHMARKS[name](given.runs))


if __name__ == "__main__":
    main()
