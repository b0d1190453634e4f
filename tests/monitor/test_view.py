"""A view knows which run, layer and probe are chosen."""

from __future__ import annotations

from pathlib import Path

from tests.monitor.views import view_of


def test_the_chosen_run_and_what_it_calls_its_layers(runs: Path) -> None:
    view = view_of(runs / "first", runs / "second", run=1, layer=2)
    assert view.several
    assert view.chosen.name == "second"
    assert view.layer_label == "5"
    assert view.color_of(0) != view.color_of(1)
    assert view.color_of(0) == view.color_of(len(view.palette.curves))


def test_the_probe_is_the_last_one_not_after_the_chosen_step(runs: Path) -> None:
    view = view_of(runs / "first")
    frames = view.chosen.similarities
    for step, expected in ((None, 2000), (0, 0), (749, 500), (750, 750), (9999, 2000)):
        found = view.choose(step=step).probe(frames)
        assert found is not None
        assert found.step == expected
    assert view.step_text(2000) == "step 2,000 newest"
    assert view.choose(step=2000).step_text(2000) == "step 2,000"


def test_a_run_without_probes_has_none(tmp_path: Path) -> None:
    view = view_of(tmp_path / "soon")
    assert view.probe(view.chosen.similarities) is None


def test_choosing_leaves_the_view_as_it_was(runs: Path) -> None:
    view = view_of(runs / "first")
    assert view.choose(layer=3, pair=(1, 2)).selection.layer == 3
    assert view.selection.layer == 0
