"""What a report costs beyond measuring: its figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from simsmoe_cli.collapse.build import Request, drawing_seconds
from simsmoe_cli.collapse.show.files import FORMATS

REQUEST = Request(
    path=Path("run"),
    against=None,
    checkpoint=None,
    split=None,
    texts=(),
    tokens=64,
    layers=None,
    device=torch.device("cpu"),
    data_dir=Path("data"),
    formats=FORMATS,
)


def test_the_estimate_counts_the_figures_of_every_layer_and_run() -> None:
    two, many = drawing_seconds(REQUEST, 2), drawing_seconds(REQUEST, 30)
    assert 2 < two < many
    assert drawing_seconds(replace(REQUEST, against=Path("other")), 30) > many
    assert drawing_seconds(replace(REQUEST, formats=("html",)), 30) < many
    assert drawing_seconds(replace(REQUEST, formats=("json",)), 30) == 0
