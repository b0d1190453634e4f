"""What a report costs beyond measuring, and what it compares beside one checkpoint's layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from simsmoe_cli.collapse.build import Request, drawing_seconds, make_report
from simsmoe_cli.collapse.show.files import FORMATS
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import UserError
from tests.collapse.runs import write_run

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


class Silent:
    def say(self, words: str) -> None:
        pass

    def at(self, words: str, share: float) -> None:
        pass


def test_the_routing_is_compared_with_the_runs_earlier_checkpoints(
    tmp_path: Path, store: TokenStore
) -> None:
    """Every checkpoint of this run has weights of its own, so routings are unrelated."""
    write_run(tmp_path / "run", store, steps=(2, 3, 4, 6), best=4)
    request = replace(
        REQUEST,
        path=tmp_path / "run",
        tokens=512,
        data_dir=store.path.parent,
        formats=("json",),
        ablate_tokens=0,
    )
    for layer in make_report(request, Silent()).main.layers:
        assert [earlier.step for earlier in layer.saturation] == [2, 3]
        for earlier in layer.saturation:
            assert earlier.tokens == 512
            assert 0.2 < earlier.chance < 0.8  # two of four experts
            assert abs(earlier.share - earlier.chance) < 0.3
    first = make_report(replace(request, checkpoint="2"), Silent()).main.layers[0]
    assert first.saturation == []


def test_texts_of_a_run_are_domains_beside_its_corpus(tmp_path: Path, store: TokenStore) -> None:
    run = write_run(tmp_path / "run", store)
    (tmp_path / "prose.txt").write_text("Once upon a time there was a \u00fc. " * 20)
    request = replace(
        REQUEST,
        path=run.path,
        texts=[tmp_path / "prose.txt"],
        data_dir=store.path.parent,
        formats=("json",),
        ablate_tokens=0,
    )
    found = make_report(request, Silent()).main
    assert [domain.name for domain in found.domains] == ["sources", "prose.txt"]
    assert any("prose.txt: 20 of" in note for note in found.text.notes)
    for layer in found.layers:
        for domain in found.domains:
            assert sum(share or 0 for share in layer.domain_share[domain.name]) == pytest.approx(2)
    (tmp_path / "prose.txt").write_text("Short.")
    with pytest.raises(UserError, match="too short"):
        make_report(request, Silent())
    with pytest.raises(UserError, match="cannot read the text"):
        make_report(replace(request, texts=[tmp_path / "none.txt"]), Silent())
