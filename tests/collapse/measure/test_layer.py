"""The measures of a layer: found by their files, and together they fill every field."""

from __future__ import annotations

from pathlib import Path

import torch

from simsmoe_cli.collapse.findings import LayerFindings
from simsmoe_cli.collapse.measure import layer as module
from simsmoe_cli.collapse.measure.layer import Layer, measure_all, measures
from simsmoe_cli.collapse.measure.routing import Counts
from tests.collapse.planted import EXPERTS, QUICK, Planted

OF_THE_MODEL = {"layer", "label", "name", "experts"}


def planted_layer() -> Layer:
    planted = Planted()
    counts = Counts.of(EXPERTS)
    (routed,) = next(planted.read(512, 512)).layers
    counts.add(routed)
    return Layer(planted, 0, counts, routed.input_TD, routed.index_TK, QUICK)


def test_every_file_with_a_measure_is_found() -> None:
    files = {
        path.stem
        for path in Path(module.__file__).parent.glob("*.py")
        if "\ndef measure_layer(" in (text := path.read_text(encoding="utf-8"))
        or "\ndef measure_weights(" in text
    }
    found = [*measures("measure_weights"), *measures("measure_layer")]
    assert {function.__module__.rpartition(".")[2] for function in found} == files
    assert {"cka", "routing", "effective_rank", "exact_copies"} <= files


def test_all_measures_together_fill_every_field() -> None:
    layer = planted_layer()
    found = measure_all(layer, "7")
    later = {"domain_share", "saturation"}  # need more than this text
    later |= {"favourites", "vocabulary"}
    assert found.model_fields_set == set(LayerFindings.model_fields) - later
    assert (found.label, found.name, found.top_k) == ("7", "layers.0", 2)


def test_weights_are_released_before_outputs_are_compared() -> None:
    layer = planted_layer()
    assert layer.parts_NHF
    layer.release_weights()
    assert not layer.parts_NHF
    assert layer.outputs_NTD.isfinite().all()


def test_an_input_that_is_not_finite_makes_all_outputs_undefined() -> None:
    planted = Planted()
    (routed,) = next(planted.read(512, 512)).layers
    input_TD = routed.input_TD.clone()
    input_TD[3, 4] = torch.nan
    layer = Layer(planted, 0, Counts.of(EXPERTS), input_TD, routed.index_TK, QUICK)
    assert layer.finite_T.sum() == 511
    layer.release_weights()
    assert layer.outputs_NTD.isnan().all()
