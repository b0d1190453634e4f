"""Models read one decoder layer at a time: the report of the whole model, in less memory."""

from __future__ import annotations

import gc
import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.measure.layers import measure, with_pair_of
from simsmoe_cli.collapse.sources.base import Reading
from simsmoe_cli.collapse.sources.huggingface import layer_weights
from simsmoe_cli.collapse.sources.huggingface.layer_by_layer import LayerwiseSource
from simsmoe_cli.collapse.sources.huggingface.source import HuggingFaceSource
from simsmoe_cli.model import precision
from simsmoe_cli.similarity.routed import Routed
from tests.collapse.sources.huggingface.test_families import saved
from tests.huggingface.models import (
    MORE,
    QUICK,
    VOCABULARY,
    made,
    opened,
)

CPU = torch.device("cpu")


KINDS = [kind for kind in MORE if kind != "Llama"]


def numbers(found: Findings) -> dict[str, Any]:
    """All there is in findings, flat: name and value."""

    def flat(value: Any, name: str) -> dict[str, Any]:
        if isinstance(value, dict):
            pairs = value.items()
        elif isinstance(value, list):
            pairs = enumerate(value)
        else:
            return {name: value}
        return {k: v for key, item in pairs for k, v in flat(item, f"{name}.{key}").items()}

    return flat(json.loads(found.model_dump_json()), "")


def require_same(first: Findings, second: Findings, within: float = 1e-5) -> None:
    one, other = numbers(first), numbers(second)
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, float) and other[name] is not None:
            assert other[name] == pytest.approx(value, abs=within, rel=within), name
        else:
            assert other[name] == value, name


class Keeper:
    """Keeps what a walk tells, and how many decoder layers were in memory each time."""

    def __init__(self, source: HuggingFaceSource):
        self.source = source
        self.told: list[tuple[str, int]] = []
        self.parts: dict[int, list[Routed]] = {}
        self.in_memory: list[set[str]] = []
        self.shares: list[float] = []

    def look(self) -> None:
        assert isinstance(self.source, LayerwiseSource)
        self.in_memory.append(
            {
                layer
                for layer in self.source.layer_weights.layers
                for weight in self.source.model.get_submodule(layer).parameters()
                if not weight.is_meta
            }
        )

    def routed(self, layer: int, routed: Routed, rows: bool) -> None:
        self.told.append(("routed", layer))
        self.parts.setdefault(layer, []).append(routed)
        if isinstance(self.source, LayerwiseSource):
            self.look()

    def seen(self, layer: int) -> None:
        self.told.append(("seen", layer))
        if isinstance(self.source, LayerwiseSource):
            self.look()

    def progress(self, share: float) -> None:
        self.shares.append(share)


def walked(
    source: HuggingFaceSource, layers: list[int] | None = None, **options: Any
) -> tuple[Keeper, Reading]:
    keeper = Keeper(source)
    chosen = list(range(len(source.layers))) if layers is None else layers
    return keeper, source.walk(256, 128, keeper, chosen, **options)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each tensor of files was read."""
    times: Counter[str] = Counter()
    own = layer_weights.open_tensors

    def counted(stored: Any, names: list[str]) -> Any:
        times.update(names)
        return own(stored, names)

    monkeypatch.setattr(layer_weights, "open_tensors", counted)
    return times


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_is_that_of_the_whole_model(kind: str, tmp_path: Path) -> None:
    folder = made(kind, tmp_path / kind)
    whole, layerwise = opened(folder, layerwise=False), opened(folder)
    assert not isinstance(whole, LayerwiseSource)
    assert isinstance(layerwise, LayerwiseSource)
    assert layerwise.layers == whole.layers
    assert layerwise.subject == whole.subject
    require_same(measure(whole, QUICK), measure(layerwise, QUICK))


# Of every kind of structure one: windows and linear attention, positions of several kinds, states
# that go from layer to layer, a text part of a larger model, experts in a list or in pairs.
@pytest.mark.parametrize(
    "model_type",
    [
        "deepseek_v4", "gemma4", "granitemoehybrid", "jamba", "jetmoe", "lfm2_moe", "llama4",
        "longcat_flash", "minimax", "openai_privacy_filter", "qwen3_next", "qwen3_vl_moe",
    ],
)  # fmt: skip
def test_text_goes_through_as_through_the_whole_model(model_type: str, tmp_path: Path) -> None:
    folder = saved(model_type, tmp_path / "model")
    source, peer = opened(folder), opened(folder, layerwise=False)
    assert isinstance(source, LayerwiseSource)
    (keeper, reading), (expected, whole) = walked(source), walked(peer)
    assert (reading.ids, reading.tokens, reading.scored) == (whole.ids, whole.tokens, whole.scored)
    assert reading.nats == pytest.approx(whole.nats, rel=1e-5)
    for place, parts in expected.parts.items():
        for name in ("input_TD", "index_TK", "logits_TN"):
            one, other = (
                [getattr(part, name) for part in found] for found in (parts, keeper.parts[place])
            )
            assert (one[0] is None) == (other[0] is None)
            if one[0] is not None:
                assert torch.allclose(
                    torch.cat(one).float(), torch.cat(other).float(), atol=1e-4, rtol=1e-4
                )


def test_one_decoder_layer_is_in_memory_at_a_time(tmp_path: Path, read: Counter[str]) -> None:
    source = opened(made("Mixtral", tmp_path / "model", num_hidden_layers=4))
    assert isinstance(source, LayerwiseSource)
    keeper, _ = walked(source)
    assert {len(layers) for layers in keeper.in_memory} == {1}
    assert set.union(*keeper.in_memory) == set(source.layer_weights.layers)
    source_layers = source.model.get_submodule(source.layer_weights.stack)
    assert all(weight.is_meta for weight in source_layers.parameters())
    assert set(read.values()) == {1}
    assert len(read) == len(source.layer_weights.stored)
    assert [told for told in keeper.told if told[0] == "seen"] == [("seen", n) for n in range(4)]
    assert keeper.shares == sorted(keeper.shares)
    assert keeper.shares[-1] == 1


def test_nothing_of_a_layer_stays_in_memory_when_it_was_measured(tmp_path: Path) -> None:
    """So the memory does not grow with the number of layers, as the estimate says."""

    class Weighing(Keeper):
        def __init__(self, source: HuggingFaceSource):
            super().__init__(source)
            self.bytes: list[int] = []

        def routed(self, layer: int, routed: Routed, rows: bool) -> None:
            pass

        def seen(self, layer: int) -> None:
            gc.collect()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                plain = (torch.Tensor, torch.nn.Parameter)  # other tests may leave fake tensors
                tensors = [found for found in gc.get_objects() if type(found) in plain]
            memory = [tensor.untyped_storage() for tensor in tensors if not tensor.is_meta]
            self.bytes.append(sum({part.data_ptr(): part.nbytes() for part in memory}.values()))

    source = opened(made("Olmoe", tmp_path / "model", num_hidden_layers=5))
    listener = Weighing(source)
    source.walk(1024, 512, listener, range(5))
    assert len(listener.bytes) == 5
    assert listener.bytes[-1] == pytest.approx(listener.bytes[1], rel=0.01)


def test_measuring_reads_each_weight_once(tmp_path: Path, read: Counter[str]) -> None:
    source = opened(made("Olmoe", tmp_path / "model", num_hidden_layers=3))
    measure(source, QUICK)
    assert set(read.values()) == {1}


def test_a_walk_without_loss_ends_with_the_last_layer_asked_for(
    tmp_path: Path, read: Counter[str]
) -> None:
    source = opened(made("Mixtral", tmp_path / "model", num_hidden_layers=4))
    read.clear()
    keeper, reading = walked(source, [1], loss=False)
    assert reading.scored == 0
    assert {place for _, place in keeper.told} == {1}
    assert {name.split(".")[2] for name in read} == {"0", "1"}
    expected, whole = walked(source)
    assert reading.ids == whole.ids
    assert torch.equal(keeper.parts[1][0].input_TD, expected.parts[1][0].input_TD)


def test_a_pair_is_shown_as_in_the_whole_model(tmp_path: Path) -> None:
    folder, other = made("Mixtral", tmp_path / "a"), made("Mixtral", tmp_path / "b", head_dim=8)
    theirs = measure(opened(other), QUICK)
    found = [
        with_pair_of(measure(source, QUICK), source, QUICK, theirs)
        for source in (opened(folder), opened(folder, layerwise=False))
    ]
    assert theirs.difference is not None
    assert found[0].difference is not None
    assert found[0].difference.experts == theirs.difference.experts
    require_same(*found)


def test_as_many_windows_as_places_in_one_are_told_apart(tmp_path: Path) -> None:
    folder = made("Mixtral", tmp_path / "model", max_position_embeddings=16)
    (keeper, reading), (expected, whole) = (
        walked(opened(folder)),
        walked(opened(folder, layerwise=False)),
    )
    assert reading.tokens == 16 * 16
    assert (reading.ids, reading.scored) == (whole.ids, whole.scored)
    assert reading.nats == pytest.approx(whole.nats, rel=1e-6)
    for place, parts in expected.parts.items():
        one = torch.cat([part.input_TD for part in parts])
        other = torch.cat([part.input_TD for part in keeper.parts[place]])
        assert torch.allclose(one, other, atol=1e-5)


def test_any_layer_can_be_asked_at_any_time(tmp_path: Path) -> None:
    folder = made("Mixtral", tmp_path / "model")
    source, whole = opened(folder), opened(folder, layerwise=False)
    x = torch.randn(7, 32)
    for place in (1, 0, 1):
        assert torch.allclose(source.dense(place, x), whole.dense(place, x), atol=1e-6)
        for one, other in zip(source.weights(place), whole.weights(place), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("stored", "fast", "expected"),
    [
        ("float32", True, torch.float32),
        ("bfloat16", True, torch.bfloat16),
        ("bfloat16", False, torch.float32),
        ("float16", True, torch.float32),
    ],
)
def test_bf16_is_computed_where_that_is_faster(
    stored: str, fast: bool, expected: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(precision, "bf16_gain", lambda: 3.0 if fast else 0.4)
    folder = made("Mixtral", tmp_path / "model", lambda model: model.to(getattr(torch, stored)))
    for layerwise in (True, False):
        source = opened(folder, layerwise=layerwise)
        assert source.size.dtype == expected
        keeper, reading = walked(source)
        assert keeper.parts[0][0].input_TD.dtype == expected
        assert source.weights(0)[0].dtype == expected
        assert reading.nats / reading.scored == pytest.approx(np.log(VOCABULARY), abs=0.5)


def test_an_error_of_the_listener_is_its_own(tmp_path: Path) -> None:
    class Broken(Keeper):
        def seen(self, layer: int) -> None:
            raise ZeroDivisionError("mine")

    source = opened(made("Mixtral", tmp_path / "model"))
    with pytest.raises(ZeroDivisionError, match="mine"):
        source.walk(256, 128, Broken(source), [0])
    walked(source)
