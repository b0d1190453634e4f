"""Planted models whose layers read what the layers before them gave, and a report made of them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from simsmoe_cli.collapse.fail_above import fail_above
from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.measure.layers import measure
from simsmoe_cli.collapse.report import Report, Verdict
from simsmoe_cli.collapse.show.files import write_report
from simsmoe_cli.collapse.show.html import page as made_page
from simsmoe_cli.collapse.show.terminal import show
from simsmoe_cli.collapse.sources.base import Batch, LayerSpec
from simsmoe_cli.collapse.verdict.judge import judge
from simsmoe_cli.errors import EXIT_COLLAPSE, UserError
from simsmoe_cli.moe.experts.loop import LoopExperts
from simsmoe_cli.similarity.routed import Routed
from tests.collapse.planted import HIDDEN, QUICK, WIDTH, Planted


class Chained(Planted):
    """Layers that read what the layers before them gave, as those of a model do.

    They are called 1, 3, 5 and so on, as in the pattern "sg".
    """

    def __init__(self, layers: int = 2, experts: int = 5, top_k: int = 2, nats: float = 1.0):
        super().__init__(layers)
        self.layers = [LayerSpec(f"layers.{2 * n + 1}.moe", experts) for n in range(layers)]
        if experts != len(self.bias_LN[0]):
            self.experts = [
                LoopExperts(experts, WIDTH, HIDDEN, activation="swiglu", bias=False)
                for _ in range(layers)
            ]
            self.bias_LN = torch.zeros(layers, experts)
        self.top_k, self.nats = top_k, nats
        self.choices: int | None = None
        self.token: int | None = None

    def read(self, tokens: int, rows: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(1)
        for start in range(0, tokens, 512):
            size = min(512, tokens - start)
            x_TD = torch.randn(size, WIDTH, generator=generator)
            routed = []
            for number, bias_N in enumerate(self.bias_LN):
                logits_TN = x_TD[:, : len(bias_N)] + bias_N
                index_TK = logits_TN.topk(self.top_k).indices
                routed.append(Routed(x_TD, index_TK, logits_TN))
                outputs_NTD = self.dense(number, x_TD)
                for chosen_T in index_TK.T:
                    x_TD = x_TD + 0.1 * outputs_NTD[chosen_T, torch.arange(size)]
            ids_T = torch.arange(start, start + size)
            if self.token is not None:
                ids_T = torch.full((size,), self.token)
            nats = self.nats * size
            yield Batch(ids_T, routed, start < rows, nats, size, choices=self.choices)


def told(
    source: Planted,
    tmp_path: Path,
    rows: int = 1024,
    *,
    tokens: int | None = None,
    figures: bool = False,
) -> tuple[Findings, Verdict]:
    """Findings and verdict; page, JSON, terminal and, if asked, figures are made on the way."""
    found = measure(source, replace(QUICK, rows=rows, tokens=tokens or rows))
    report = Report(findings=[found, found], against=found, verdict=judge(found, found))
    assert Report.from_json(report.to_json()) == report
    page = made_page(report, [])
    if figures:
        (written,) = write_report(report, tmp_path / "report", ("html",))
        page = written.read_text()
    assert ">nan<" not in page
    shown = io.StringIO()
    show(report, Console(file=shown, width=200), [])
    assert "nan" not in shown.getvalue().replace("NaN", "").split()
    return found, judge(found)


def gate(found: Findings) -> str:
    """What --fail-above 1 says: no mean is above it, so only what is not known."""
    with pytest.raises(UserError) as caught:
        fail_above(found, 1.0)
    assert caught.value.code == EXIT_COLLAPSE
    return str(caught.value)
