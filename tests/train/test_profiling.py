"""A profile says where steps went and changes nothing else."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import UserError
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train import profile_summary, profiling
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.objectives.language_modelling import LanguageModelling
from tests.train.test_resume import PAPER_MODEL
from tests.train.tiny import assert_equal, events, recipe, weights, without_times

Make = Callable[..., Trainer]


@pytest.fixture
def profiled(store: TokenStore, tmp_path: Path) -> Make:
    def make(name: str = "profiled", steps: int = 3, **changes: Any) -> Trainer:
        objective = LanguageModelling(recipe(**changes), store, torch.device("cpu"))
        return Trainer(objective, RunDir(tmp_path / name), profile=steps)

    return make


@pytest.fixture(scope="module")
def watched(store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A training of which three steps were recorded."""
    objective = LanguageModelling(recipe(), store, torch.device("cpu"))
    trainer = Trainer(objective, RunDir(tmp_path_factory.mktemp("watched") / "run"), profile=3)
    trainer.train()
    return trainer


def table(run: RunDir, first: str) -> dict[str, list[float]]:
    """Rows of one of the summary's tables: name to numbers, blanks left out."""
    lines = (run.profile / "summary.txt").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(first)) + 1
    stop = lines.index("", start)
    rows = (re.split(r" {2,}", line.strip()) for line in lines[start:stop])
    return {name: [float(re.sub(r"[^\d.-]", "", n)) for n in rest] for name, *rest in rows}


@pytest.mark.parametrize("model", [PAPER_MODEL, {}], ids=["paper", "modern"])
def test_every_part_of_the_model_has_its_share(profiled: Make, model: dict[str, Any]) -> None:
    trainer = profiled(
        steps=1,
        model={**model, "repeats": 1},
        similarity={
            "preset": "calibrated",
            "weight": 0.003,
            "tokens": 16,
            "min_tokens": 4,
            "budget": None,
        },
        train={"micro_batches": 2},
    )
    trainer.train()
    parts = table(trainer.run, "part")
    expected = {
        "embedding", "attention", "dispatch and combine", "router", "experts",
        "similarity learning", "norms and residuals", "output layer and loss",
        "gradients that are added up", "reading", "clipping and optimizer",
    }  # fmt: skip
    assert set(parts) - {"dense feed-forward"} == expected
    assert sum(row[0] for row in parts.values()) == pytest.approx(100, abs=1)
    assert all(number >= 0 for row in parts.values() for number in row[:3])
    for name in ("attention", "experts", "router", "dispatch and combine", "similarity learning"):
        _, forward, backward, kept = parts[name]
        assert min(forward, backward) > 0, name
        assert kept >= 0
    assert parts["reading"][2] == parts["clipping and optimizer"][2] == 0


def test_time_goes_to_the_part_that_spends_it(
    profiled: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = profiled(steps=1, model={"repeats": 1}, train={"steps": 6})
    experts = [m for m in trainer.model.modules() if type(m).__name__ == "GroupedExperts"]
    experts = experts or [m for m in trainer.model.modules() if type(m).__name__ == "LoopExperts"]
    assert experts
    square = torch.randn(400, 400, requires_grad=True)
    for one in experts:
        forward = one.forward

        def slow(*arguments: Any, forward: Any = forward, **options: Any) -> Any:
            out = forward(*arguments, **options)
            burnt = square
            for _ in range(6):
                burnt = torch.tanh(burnt @ square)
            return out + 0 * burnt.sum()

        monkeypatch.setattr(one, "forward", slow)
    trainer.train()
    parts = table(trainer.run, "part")
    assert max(parts, key=lambda name: parts[name][1]) == "experts"
    assert max(parts, key=lambda name: parts[name][2]) == "experts"


def test_operations_are_ranked_by_their_own_time(watched: Trainer) -> None:
    operations = table(watched.run, "operation")
    shares = [row[0] for row in operations.values()]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 100.5
    assert len(operations) == profile_summary.SHOWN
    assert "aten::mm" in operations
    assert not any("simsmoe" in name for name in operations)
    text = (watched.run.profile / "summary.txt").read_text()
    assert text.startswith("3 training steps of 128 tokens: ")
    assert re.search(r"^Peak memory: [\d,]+\.\d MiB", text, re.MULTILINE)
    # Steps 4 to 6 hold the validation and the probe of step 4.
    assert re.search(r"^Between them \d+\.\d\d s of validation, probes", text, re.MULTILINE)


def test_long_names_of_operations_stay_different() -> None:
    names = [f"a_pass_over_all_of_the_keys_in_the_window_of_the_layer_{end}" for end in ("a", "b")]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        for name in names:
            with torch.profiler.record_function(name):
                pass
    text = profile_summary.summary(recorded, 1, 0, compiled=False)
    assert sorted(line.split()[0] for line in text.splitlines() if "a_pass" in line) == names


def test_what_validation_and_probes_cost_is_counted_with_no_part(profiled: Make) -> None:
    tables = []
    for every in (1, 0):
        settings = {"steps": 8, "validate_every": every, "probe_every": every}
        train = {**settings, "checkpoint_every": 0}
        trainer = profiled(f"every-{every}", steps=2, model={"repeats": 1}, train=train)
        trainer.train()
        tables.append([table(trainer.run, first) for first in ("part", "operation")])
    (parts, operations), (plain_parts, plain_operations) = tables
    for name in ("experts", "attention", "router"):
        assert parts[name][3] == pytest.approx(plain_parts[name][3], abs=0.1)
    assert operations["aten::mm"][2] == plain_operations["aten::mm"][2]


def test_the_trace_opens_as_one_and_holds_only_the_recorded_steps(watched: Trainer) -> None:
    with gzip.open(watched.run.profile / "trace.json.gz") as file:
        trace = json.load(file)
    names = [event.get("name") for event in trace["traceEvents"]]
    assert names.count("simsmoe: clipping and optimizer") == 3
    assert "simsmoe: experts" in names


def test_a_profiled_run_learns_the_same(trainer: Make, watched: Trainer) -> None:
    plain = trainer("run")
    plain.train()
    assert_equal(weights(plain), weights(watched))
    ours = [without_times(e) for e in events(plain.run)]
    theirs = [without_times(e) for e in events(watched.run)]
    (profile,) = (e for e in theirs if e["kind"] == "profile")
    assert profile["step"] == profiling.SKIPPED + 3
    folder = watched.run.path / profile["path"]
    assert (folder / profile["trace"]).is_file()
    assert (folder / profile["summary"]).is_file()
    assert [e for e in theirs if e["kind"] != "profile"] == ours


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_nothing_is_watched_before_and_after(profiled: Make) -> None:
    trainer = profiled(steps=1)
    before = hooks(trainer.model)
    seen = []
    trainer.on_step = lambda step: seen.append(hooks(trainer.model) - before)
    trainer.train()
    recorded = profiling.SKIPPED + 1
    assert all(seen[profiling.SKIPPED : recorded])
    assert not any(seen[: profiling.SKIPPED - 1] + seen[recorded:])
    assert hooks(trainer.model) == before
    assert "encode" not in vars(trainer.model)


def test_a_training_that_fails_while_recorded_leaves_no_half_profile(profiled: Make) -> None:
    trainer = profiled(steps=4)

    def fail(step: int) -> None:
        if step == 5:
            raise RuntimeError("the machine room is on fire")

    trainer.on_step = fail
    with pytest.raises(RuntimeError, match="on fire"):
        trainer.train()
    assert not trainer.run.profile.exists()
    assert "encode" not in vars(trainer.model)
    # The next profile of this process records.
    again = profiled("again", steps=1)
    again.train()
    assert (again.run.profile / "summary.txt").is_file()


@pytest.mark.parametrize(
    ("left", "hint"), [(4, "Use --profile 1."), (3, "Train longer."), (1, "Train longer.")]
)
def test_more_steps_than_are_left_are_refused(profiled: Make, left: int, hint: str) -> None:
    with pytest.raises(UserError, match=f"{left} steps are left, and a profile of 2") as error:
        profiled(steps=2, train={"steps": left})
    assert error.value.where == "--profile"
    assert error.value.hint == hint
