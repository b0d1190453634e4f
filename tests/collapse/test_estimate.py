"""What a report costs, estimated before it starts."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from simsmoe_cli.collapse.estimate import Plan, bytes_needed, plan
from simsmoe_cli.collapse.measure.options import Options
from simsmoe_cli.collapse.sources.base import Size
from simsmoe_cli.errors import EXIT_OUT_OF_MEMORY, UserError
from simsmoe_cli.model import available_memory as memory
from simsmoe_cli.run.machine import resident_bytes
from tests.collapse.planted import Planted
from tests.collapse.sources.huggingface.test_families import opened, saved
from tests.huggingface.models import made

CPU = torch.device("cpu")


OLMOE = Size(
    width=2048,
    experts=64,
    top_k=8,
    in_experts=[64 * 3 * 2048 * 1024] * 16,
    products_per_token=1.2e9,
    vocab_size=50304,
    stored=13_000_000_000,
    layer=840_000_000,
    dtype=torch.bfloat16,
)


class Sized(Planted):
    """A source that says it is of some size."""

    own = OLMOE

    @property
    def size(self) -> Size:
        return self.own


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets how much memory there is."""

    def make(size: float) -> None:
        monkeypatch.setattr(memory, "available", lambda device: int(size))

    make(1e12)
    return make


def planned(rows: int = 4096, layers: int = 16, asked: bool = True) -> tuple[Plan, Sized]:
    source = Sized()
    return plan(source, Options(rows=rows), range(layers), CPU, asked=asked), source


def test_a_large_model_is_measured_on_fewer_rows_unless_they_are_asked_for(free: Any) -> None:
    chosen, source = planned(asked=False)
    assert (chosen.options.rows, chosen.options.all_tokens) == (2048, 16384)
    assert source.notes == []
    assert planned()[0].options.rows == 4096
    assert planned(layers=2, asked=False)[0].options.rows == 4096


def test_time_and_memory_grow_with_what_is_measured(
    free: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simsmoe_cli.collapse.estimate.speed", lambda device, dtype: 1e11)
    few, many, one = planned(1024)[0], planned(4096)[0], planned(4096, layers=1)[0]
    assert few.seconds < many.seconds
    assert one.seconds < many.seconds
    assert few.size < many.size == pytest.approx(one.size, rel=1e-3)
    assert one.forward > many.forward
    assert 0 < many.forward < 1


def test_a_layer_at_a_time_needs_no_memory_for_the_others() -> None:
    deeper = Size(**{**vars(OLMOE), "in_experts": OLMOE.in_experts * 4, "stored": 52 * 10**9})
    assert bytes_needed(deeper, Options()) == bytes_needed(OLMOE, Options()) < 5e9
    outputs = 4 * 4096 * 64 * 2048
    assert bytes_needed(OLMOE, Options()) > OLMOE.layer + outputs


def test_fewer_tokens_are_measured_where_memory_is_short_and_it_is_said(free: Any) -> None:
    needed = bytes_needed(OLMOE, Options(rows=1024, tokens=4096))
    free(needed / 0.95 + 1e6)
    chosen, source = planned()
    assert (chosen.options.rows, chosen.options.all_tokens) == (1024, 4096)
    (note,) = source.notes
    assert note.startswith("1,024 tokens were measured instead of 4,096, which do not fit into ")


def test_what_never_fits_is_refused(free: Any) -> None:
    free(5e8)
    with pytest.raises(UserError, match=r"about \d\.\d GB more .* 0\.5 GB are free") as caught:
        planned()
    assert caught.value.code == EXIT_OUT_OF_MEMORY
    assert caught.value.where == "planted"


def test_costs_in_words(free: Any) -> None:
    assert Plan(Options(), [0], 700.0, 4.06e9, 0.5).words == "about 12 min, 4.1 GB"
    assert Plan(Options(), [0], 0.2, 4.06e9, 0.5).words == "about 1 s, 4.1 GB"


def test_an_encoder_and_decoder_are_counted_together(tmp_path: Path) -> None:
    """They are held whole: every layer's rows are kept, of both stacks."""
    source = opened(saved("switch_transformers", tmp_path / "model"))
    assert source.both_stacks
    encoder = replace(source.size, in_experts=source.size.in_experts[:1])
    options = Options(rows=4096)
    assert len(source.size.in_experts) == len(source.layers) > 1
    assert bytes_needed(source.size, options) > bytes_needed(encoder, options)
    chosen = plan(source, options, range(len(source.layers)), CPU)
    assert chosen.size > resident_bytes()


MEASURED = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from simsmoe_cli.run.machine import resident_bytes
from simsmoe_cli.collapse.estimate import bytes_needed
from simsmoe_cli.collapse.measure.layers import measure
from simsmoe_cli.collapse.measure.options import Options
from simsmoe_cli.collapse.sources.huggingface import loading
from simsmoe_cli.collapse.sources.open_huggingface import open_huggingface
from simsmoe_cli.model.precision import Precision

folder, dtype, layerwise = sys.argv[1:]
loading.choose_precision = lambda device: Precision(dtype, "")
ids = np.random.default_rng(0).integers(0, 16384, 9000)
source = open_huggingface(
    Path(folder), None, device=torch.device("cpu"), token_ids=ids, layerwise=layerwise == "layers"
)
options = Options(rows=1024, tokens=8192, products=1e8, matching=1e8, resamples=10)
expected = resident_bytes() + bytes_needed(source.size, options)
measure(source, options)
print(expected / (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
"""


@pytest.mark.parametrize(("layerwise", "dtype"), [("layers", "bf16")])
def test_the_memory_is_what_is_said(dtype: str, layerwise: str, tmp_path: Path) -> None:
    """Within 15 %, of a process that does nothing else."""
    sizes = {"vocab_size": 16384, "hidden_size": 512, "intermediate_size": 256, "num_experts": 16}
    folder = made("Olmoe", tmp_path / "model", lambda model: model.bfloat16(), **sizes)
    arguments = [sys.executable, "-c", MEASURED, str(folder), dtype, layerwise]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    assert float(done.stdout) == pytest.approx(1, abs=0.15)
