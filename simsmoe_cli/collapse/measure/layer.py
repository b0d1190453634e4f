"""One layer while it is measured: the data that measures read, and the run of all measures.

A measure is a file of this folder with a function

    measure_layer(layer: Layer) -> dict         fields of `findings.LayerFindings` by name

It is found by its name; there is no list of measures. A new field needs a default, so that earlier
reports can still be read. A function `measure_weights` works the same way, and is called before
`measure_layer`, while the layer's weights are still in memory.

Shapes: T rows, D model width, H hidden units, F weights of a unit in one matrix, N experts,
K experts per token.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from simsmoe_cli.collapse.findings import LayerFindings, Matrix, defined
from simsmoe_cli.collapse.measure.block_sums import Standardised
from simsmoe_cli.collapse.measure.options import DENSE_BYTES, Bounds, Options
from simsmoe_cli.collapse.sources.base import Source

if TYPE_CHECKING:
    from simsmoe_cli.collapse.measure.routing import Counts


class Layer:
    """One layer with experts, and the rows that similarity is measured on.

    Attributes:
        source, index: the model, and the layer's index among those with experts.
        spec: the layer's name and number of experts.
        options, bounds: the amount that is measured.
        counts: of the routing of all tokens.
        rows: T.
        finite_T: which rows have a finite input.
        index_TK: which experts each row was sent to.
        weight_TK: their weights; None: not known.
        input_TD, parts_NHF: the inputs of the experts, and their weights by hidden unit, one part
            per matrix; both empty once the weights are released.
        outputs_NTD: of every expert on every row, fp32; after `measure_weights` all NaN if any
            input is not finite.
    """

    def __init__(
        self,
        source: Source,
        index: int,
        counts: Counts,
        input_TD: Tensor,
        index_TK: Tensor,
        options: Options,
        weight_TK: Tensor | None = None,
    ):
        self.weight_TK = weight_TK
        self.source, self.index, self.spec = source, index, source.layers[index]
        self.options, self.counts, self.index_TK = options, counts, index_TK
        self.input_TD, self.rows = input_TD, len(input_TD)
        self.finite_T = input_TD.isfinite().all(-1)
        self.parts_NHF = source.weights(index)
        weights = sum(part.numel() for part in self.parts_NHF)
        self.outputs_NTD = all_outputs(source, index, input_TD)
        width = self.outputs_NTD.shape[2]
        self.bounds = Bounds.of(options, weights, self.spec.experts, self.rows, width)

    @functools.cached_property
    def standardised(self) -> Standardised:
        """The outputs centred and scaled."""
        return Standardised(self.outputs_NTD)

    def generator(self, stream: int = 0) -> torch.Generator:
        """A new random generator for this layer; the same `stream` gives the same numbers."""
        seed = self.options.seed * 1_000_003 + self.index
        return torch.Generator().manual_seed(seed + stream)

    def release_weights(self) -> None:
        """Release the weights. If any input is not finite, all outputs become undefined."""
        self.parts_NHF, self.input_TD = [], self.input_TD.new_empty(0)
        self.source.release(self.index)
        if not self.finite_T.all():
            self.outputs_NTD = torch.full_like(self.outputs_NTD, torch.nan)


def measure_all(layer: Layer, label: str) -> LayerFindings:
    """Run all measures on one layer.

    Args:
        layer: the layer; its weights are released.
        label: the layer's label.
    """
    found: dict[str, Any] = {}
    for measure in measures("measure_weights"):
        found |= measure(layer)
    layer.release_weights()
    for measure in measures("measure_layer"):
        found |= measure(layer)
    return LayerFindings(
        layer=layer.index, label=label, name=layer.spec.name, experts=layer.spec.experts, **found
    )


@functools.cache
def measures(function: str) -> list[Callable[[Layer], dict[str, Any]]]:
    """The functions of this name of all files of this folder, by the files' names."""
    return [getattr(module, function) for module in _files() if hasattr(module, function)]


def _files() -> Iterator[Any]:
    package = __name__.rpartition(".")[0]
    for file in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if f"{package}.{file.name}" != __name__:
            yield importlib.import_module(f"{package}.{file.name}")


def all_outputs(source: Source, index: int, input_TD: Tensor) -> Tensor:
    """The outputs of all experts of a layer on all rows, [N, T, D] fp32, some rows at a time."""
    rows, width = input_TD.shape
    experts = source.layers[index].experts
    outputs_NTD: Tensor | None = None
    step = max(1, DENSE_BYTES // (4 * experts * width))
    for start in range(0, rows, step):
        part_NRD = source.dense(index, input_TD[start : start + step])
        if outputs_NTD is None:
            outputs_NTD = part_NRD.new_empty(experts, rows, part_NRD.shape[2])
        outputs_NTD[:, start : start + step] = part_NRD
    assert outputs_NTD is not None
    return outputs_NTD


def spread(rows: int, wanted: int) -> Tensor:
    """Indices of at most `wanted` of the rows, evenly spread."""
    return torch.linspace(0, rows - 1, min(rows, wanted)).round().long()


def matrix(values_NN: Tensor) -> Matrix:
    """Rows of plain floats; None where they are not finite."""
    return [[defined(value) for value in row] for row in values_NN.double().tolist()]
