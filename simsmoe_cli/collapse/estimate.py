"""Estimates the time and memory of a report before it starts, and decides how much is measured.

Multiplications are counted from the sizes of the model; a timed matrix product gives the time they
take on this machine. The estimated memory is that of this process now, plus the memory that is
added at the peak. If it does not fit, fewer tokens are measured, with a note; if even few tokens do
not fit, the report is refused.

Shapes: T tokens, R rows, D model width, N experts, K experts per token.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from simsmoe_cli.collapse.ablation import FEWEST_WINDOWS
from simsmoe_cli.collapse.measure.ablation.ablate import runs_of_layer
from simsmoe_cli.collapse.measure.options import DENSE_BYTES, NULL_EXPERTS, OF_RUNNING, Options
from simsmoe_cli.collapse.sources.base import Size, Source
from simsmoe_cli.collapse.sources.evaluation_windows import tokens_per_batch
from simsmoe_cli.collapse.sources.huggingface.layer_by_layer import LAYER_BATCH_TOKENS
from simsmoe_cli.errors import EXIT_OUT_OF_MEMORY, UserError
from simsmoe_cli.model import available_memory as memory
from simsmoe_cli.run.duration import duration
from simsmoe_cli.run.machine import resident_bytes

LARGE = 1e13  # multiplications: if all experts on all rows cost more, fewer rows are the default
FEWEST_DEFAULT_ROWS = 1024
FEWEST_ROWS = 256  # if memory is short
READING_BYTES = 4.0  # per number of a layer: its tensors in the mapped file, and while they stack
READ_PER_S = 1e9  # bytes of weights, read from a disk and converted
PROBE = 768  # rows and columns of the matrices timed
OF_PROBE = 0.6  # the share of that speed which a whole model reaches
STATISTICS = 8  # all statistics of a layer cost this many times `Options.products`
ABLATE_TOKENS = 16384  # for leaving out and merging experts, unless that costs more than
ABLATE_BUDGET = 4e12  # so many multiplications; then fewer, down to
FEWEST_ABLATE_TOKENS = 2048
MOST_ABLATE_PRODUCTS = 4e13  # more are only spent if asked for
OF_ABLATION = 0.5  # the speed of replaying a model, relative to `speed`
PASSES = 60  # multiplications per output of a layer, for statistics that pass over all of them


@dataclass(frozen=True)
class Plan:
    """The layers and options of a report, and its estimated cost.

    Attributes:
        options: what is measured; its `ablate_tokens` is decided.
        layers: numbers of the layers to measure, from 0 among those with experts.
        seconds: how long it takes, about, without leaving out and merging experts.
        size: bytes of memory at the peak, about.
        forward: share of these seconds that the forward pass takes.
        ablation_seconds: how long leaving out and merging experts takes, about.
        ablation_refused: why that is not done; empty if it is, or was not asked for.
    """

    options: Options
    layers: list[int]
    seconds: float
    size: float
    forward: float
    ablation_seconds: float = 0.0
    ablation_refused: str = ""

    @property
    def share_before_ablation(self) -> float:
        """The share of the time after which leaving out and merging experts begins."""
        return self.seconds / max(self.seconds + self.ablation_seconds, 1e-9)

    @property
    def words(self) -> str:
        """Time and memory: "about 12 min, 4.1 GB"."""
        return f"about {duration(max(1.0, self.seconds))}, {memory.gigabytes(self.size)}"


def plan(
    source: Source,
    options: Options,
    layers: Sequence[int],
    device: torch.device,
    *,
    asked: bool = True,
) -> Plan:
    """Decide how much is measured, and estimate what it costs.

    Args:
        source: the model and text; gets a note if less is measured than `options` say.
        options: as requested.
        layers: numbers of the layers to measure, from 0 among those with experts.
        device: where to compute.
        asked: whether the user chose the rows; if not, a large model is measured on fewer.

    Raises:
        UserError: it does not fit into memory even on the fewest rows.
    """
    size = source.size
    if not asked:
        options = _default(size, options, layers)
    free = memory.available(device)
    here = resident_bytes() if device.type == "cpu" else 0
    wanted = options
    while free is not None and bytes_needed(size, options) > free * (1 - memory.RESERVE):
        if options.rows <= FEWEST_ROWS:
            raise UserError(
                f"a report needs about {memory.gigabytes(bytes_needed(size, options))} more of "
                f"memory even on {options.rows:,} tokens, and {memory.gigabytes(free)} are free",
                where=source.subject.name,
                hint="Close other programs, or use a machine with more memory.",
                code=EXIT_OUT_OF_MEMORY,
            )
        rows = max(FEWEST_ROWS, options.rows // 2)
        options = replace(options, rows=rows, tokens=max(rows, options.all_tokens // 2))
    if options.rows < wanted.rows:
        source.notes = [
            *source.notes,
            f"{options.rows:,} tokens were measured instead of {wanted.rows:,}, which do not fit "
            f"into {memory.gigabytes(free or 0)} of memory",
        ]
    dtype = size.dtype if device.type == "cpu" else torch.float32
    forward = size.products_per_token * options.all_tokens / speed(device, dtype)
    forward += size.stored / READ_PER_S
    tokens, refused = _ablate_tokens(source, options, layers, device)
    options = replace(options, ablate_tokens=tokens)
    ablation = ablation_products(size, layers, tokens) / (OF_ABLATION * speed(device, dtype))
    dense = sum(size.in_experts[layer] for layer in layers) * options.rows / speed(device, dtype)
    statistics = sum(_statistics(size, layer, options) for layer in layers)
    rest = dense + statistics / speed(device, torch.float32)
    return Plan(
        options,
        list(layers),
        forward + rest,
        here + bytes_needed(size, options),
        forward / max(forward + rest, 1e-9),
        ablation,
        refused,
    )


def ablation_products(size: Size, layers: Sequence[int], tokens: int) -> float:
    """Multiplications of leaving out and merging experts, about.

    A run of a layer computes that layer and those above it; only the last layers' runs are short.
    """
    depth = len(size.in_experts)
    runs = sum(runs_of_layer(size.experts) * (depth - layer) / depth for layer in layers)
    return runs * tokens * size.products_per_token


def _ablate_tokens(
    source: Source, options: Options, layers: Sequence[int], device: torch.device
) -> tuple[int, str]:
    """How many tokens are read for leaving out and merging experts, and why none are if so."""
    size, asked = source.size, options.ablate_tokens
    if asked == 0 or source.cannot_replay:
        return 0, "" if asked == 0 else source.cannot_replay
    if asked is not None:
        return asked, ""
    tokens = ABLATE_TOKENS
    fewest = max(FEWEST_ABLATE_TOKENS, FEWEST_WINDOWS * source.block)
    while tokens // 2 >= fewest and ablation_products(size, layers, tokens) > ABLATE_BUDGET:
        tokens //= 2
    products = ablation_products(size, layers, tokens)
    if products <= MOST_ABLATE_PRODUCTS:
        return tokens, ""
    seconds = products / (OF_ABLATION * speed(device, size.dtype))
    return 0, (
        f"it would take about {duration(seconds)} on {tokens:,} tokens; --ablate-tokens "
        f"{tokens} asks for it"
    )


def bytes_needed(size: Size, options: Options) -> float:
    """Bytes that measuring adds at its peak to the memory that this process takes now."""
    rows, tokens = options.rows, options.all_tokens
    vector = size.width * size.dtype.itemsize
    outputs = 4.0 * rows * size.experts * size.width
    shuffled = outputs * min(1.0, NULL_EXPERTS / size.experts)
    part = min(outputs, DENSE_BYTES)
    running_all = _expert_call(size, part / (4.0 * size.width))
    if size.dtype != torch.float32:
        running_all += part  # what they give is copied to fp32
    comparing = outputs + shuffled + 2 * part
    batch = min(tokens, tokens_per_batch(size.vocab_size))
    # The logits, a copy of them in fp32 unless they are, and their softmax.
    logits = (8.0 + size.dtype.itemsize % 4) * batch * size.vocab_size
    if not size.layer:  # all in memory: the measured rows of all layers are kept
        layers = len(size.in_experts)
        kept = layers * rows * vector
        batch_inputs = 2.0 * layers * batch * vector
        forward = batch_inputs + max(_expert_call(size, batch * size.top_k), logits)
        return kept + max(forward, outputs + running_all, comparing)
    hidden = 3.0 * tokens * vector + 2.0 * rows * vector
    forward = _expert_call(size, min(tokens, LAYER_BATCH_TOKENS) * size.top_k)
    reading = READING_BYTES * size.layer / size.dtype.itemsize
    while_at_hand = max(reading, forward, outputs + running_all)
    return hidden + max(size.layer + while_at_hand, comparing, logits)


def _expert_call(size: Size, rows: float) -> float:
    """Bytes of memory for running some rows through one expert each."""
    hidden = max(size.in_experts) / (3.0 * size.experts * size.width)
    return rows * size.dtype.itemsize * (6.0 * size.width + 3.0 * hidden)


@functools.cache
def speed(device: torch.device, dtype: torch.dtype) -> float:
    """Multiplications per second of a whole model, estimated from a few products of matrices."""
    left = torch.ones(PROBE, PROBE, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        torch.mm(left, left)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return OF_PROBE * PROBE**3 / best


def _default(size: Size, options: Options, layers: Sequence[int]) -> Options:
    """Fewer rows for a large model: all experts on them cost about as much as the forward pass."""
    if sum(size.in_experts[layer] for layer in layers) * options.rows < LARGE:
        return options
    share = size.top_k / size.experts
    rows = min(options.rows, max(FEWEST_DEFAULT_ROWS, int(options.all_tokens * share)))
    return replace(options, rows=rows, tokens=options.all_tokens)


def _statistics(size: Size, layer: int, options: Options) -> float:
    """Multiplications that the statistics of a layer cost, about."""
    bound = max(options.products, options.rows * size.in_experts[layer] / OF_RUNNING)
    numbers = options.rows * size.experts * size.width
    whole = size.experts * size.width * options.rows**2
    matching = min(options.matching, size.experts * size.in_experts[layer])
    return STATISTICS * min(bound, whole) + 2 * matching + PASSES * numbers
