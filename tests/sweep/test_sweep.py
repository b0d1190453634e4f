"""Sweeps of tiny models through the command line: side by side, interrupted, and continued."""

from __future__ import annotations

import io
import json
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from simsmoe_cli.cli import sweeping
from simsmoe_cli.cli.main import run
from simsmoe_cli.collapse.measure.layers import measure
from simsmoe_cli.collapse.measure.options import Options
from simsmoe_cli.collapse.sources.open_run import open_run
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, EXIT_SIGINT, EXIT_USAGE
from simsmoe_cli.model import size as model_size
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.sweep import run as running
from simsmoe_cli.sweep.costs import cost_of
from simsmoe_cli.sweep.definition import Task, definition_of
from simsmoe_cli.sweep.folder import results_file, results_folder
from simsmoe_cli.sweep.measure import similarity_scores
from simsmoe_cli.sweep.results import Record, Results
from simsmoe_cli.sweep.reuse import take_over
from simsmoe_cli.sweep.side_by_side import Outcome
from simsmoe_cli.sweep.texts import is_prepared, prepare_text, texts_of, with_source
from simsmoe_cli.sweep.training import Machine, train_and_measure
from simsmoe_cli.sweep.watch import watch
from tests.forked import Forked
from tests.train.tiny import TINY, steps

PRESET = "similarity.preset"
DEFINITION = {
    "name": "tiny",
    "settings": {
        f"{section}.{name}": value
        for section, fields in TINY.items()
        for name, value in fields.items()
    }
    | {"train.checkpoint_every": 2, "train.warmup_steps": 0},
    "seeds": [0],
    "grids": [{"moe.router": ["smoe", "hash"], PRESET: ["none", "published"]}],
    "baseline": {PRESET: "none"},
}


@pytest.fixture(scope="module", autouse=True)
def few_rows() -> Any:
    """Similarity on fewer tokens than usual; processes are forked from one that has read this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "train_and_measure", measured_briefly)
        yield


def measured_briefly(job: Any, machine: Machine) -> Record:
    from simsmoe_cli.sweep import training

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            training, "similarity_scores", lambda source: similarity_scores(source, 2, 64)
        )
        return train_and_measure(job, machine)


@pytest.fixture(scope="module")
def sweep(
    corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[int, Path]]:
    """Runs the command line on the tiny sweep; gives its exit code and the sweep's folder."""
    file = tmp_path_factory.mktemp("sweep") / "tiny.yaml"
    file.write_text(json.dumps(DEFINITION))

    def start(folder: Path, *options: str) -> tuple[int, Path]:
        where = ("--data-dir", str(corpus_dir), "--runs-dir", str(folder), "--device", "cpu")
        return run(["sweep", str(file), *where, "--yes", *options]), folder / "tiny"

    return start


@pytest.fixture(scope="module")
def finished(
    sweep: Callable[..., tuple[int, Path]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a sweep carried out two side by side."""
    code, folder = sweep(tmp_path_factory.mktemp("finished"), "--jobs", "2")
    assert code == 0
    return folder


def scores(folder: Path) -> dict[str, dict[str, Any]]:
    """What was measured, without what depends on the clock."""
    return {
        record.name: record.model_dump(exclude={"cost": {"seconds"}})
        for _, record in Results.read(folder / "results.json").records
    }


@pytest.fixture(scope="module")
def alone(corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """The folder and the record of one of the trainings, carried out in this process."""
    folder = tmp_path_factory.mktemp("alone")
    definition = definition_of(DEFINITION, "test")
    sweep = running.open_sweep(definition, folder, corpus_dir, folder / "r.json", print)
    training = next(one for one in sweep.trainings if one.job.name == "smoe-published-seed0")
    return training.job.run.path, measured_briefly(training.job, Machine("cpu", 1))


def test_two_side_by_side_give_what_one_gives(finished: Path, alone: tuple[Path, Record]) -> None:
    _, record = alone
    expected = scores(finished)[record.name] | {"changes": {}}
    assert record.model_dump(exclude={"cost": {"seconds"}}) == expected


def test_runs_are_ordinary_and_weights_are_dropped(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = sorted(
        path.name for path in finished.iterdir() if path.is_dir() and path.name != "logs"
    )
    assert folders == [
        "hash-none-seed0",
        "hash-published-seed0",
        "smoe-none-seed0",
        "smoe-published-seed0",
    ]
    for name in folders:
        assert (finished / name / "events.jsonl").is_file()
        assert not (finished / name / "best").exists()
        assert not (finished / name / "checkpoints").exists()
    assert run(["eval", str(finished / folders[0])]) == EXIT_DATA
    said = capsys.readouterr().err
    assert "the sweep deleted them when it had measured this run; with --keep-weights" in said
    assert (finished / "results.csv").read_text().count(",test_bpc,") == 4
    assert "Δ test BPC" in (finished / "results.html").read_text()


def test_stopped_and_continued_gives_the_same_table(
    sweep: Callable[..., tuple[int, Path]],
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(self: Any, training: Any, record: Any, outcome: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sweeping._Progress, "ended", stop)
        code, folder = sweep(tmp_path, "--jobs", "2")
    assert code == EXIT_SIGINT
    assert len(scores(folder)) == 1
    # Another machine, which has the results and none of the runs.
    results = tmp_path / "kept"
    results.mkdir()
    shutil.copy(folder / "results.json", results)
    shutil.rmtree(folder)
    code, folder = sweep(tmp_path, "--results", str(results))
    assert code == 0
    assert len([path for path in folder.iterdir() if (path / "events.jsonl").is_file()]) == 3
    assert scores(results) == scores(finished)
    assert _table(results) == _table(finished)


def test_killed_and_continued_gives_the_same_table(tmp_path: Path, corpus_dir: Path) -> None:
    """Killed with SIGKILL while two trainings run: both save, and go on where they were."""
    file = tmp_path / "long.yaml"
    changed = {"train.steps": 200, "train.checkpoint_every": 10, "train.validate_every": 100}
    longer = DEFINITION | {"grids": [{PRESET: ["none", "published"]}]}
    file.write_text(json.dumps(longer | {"settings": DEFINITION["settings"] | changed}))
    where = ("--data-dir", str(corpus_dir), "--device", "cpu", "--yes", "--jobs", "2")
    command = ["sweep", str(file), *where, "--runs-dir"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = Forked([*command, str(killed)], tmp_path / "printed")
    runs = [RunDir(killed / "tiny" / f"{preset}-seed0") for preset in ("none", "published")]
    until = time.monotonic() + 120
    while not all(map(steps, runs)):
        process.printed()
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.ended().code == -signal.SIGKILL
    assert run([*command, str(killed)]) == 0
    for folder in runs:
        sessions = json.loads(folder.environment.read_text())["sessions"]
        assert len(sessions) == 2, "this training had ended before the kill"
    assert run([*command, str(whole)]) == 0
    assert scores(killed / "tiny") == scores(whole / "tiny")
    assert _table(killed / "tiny") == _table(whole / "tiny")


def _table(folder: Path) -> list[str]:
    """The lines of the CSV without their last column, seconds."""
    return [line.rpartition(",")[0] for line in (folder / "results.csv").read_text().splitlines()]


def test_nothing_is_trained_twice(
    sweep: Callable[..., tuple[int, Path]], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "results.json").read_bytes()
    capsys.readouterr()
    code, _ = sweep(finished.parent)
    shown = capsys.readouterr().out
    assert code == 0
    assert "due        0" in shown
    assert "no difference" not in shown.split("Means over")[0]
    assert (finished / "results.json").read_bytes() == before


def test_the_monitor_shows_the_table(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["monitor", "tiny", "--once", "--runs-dir", str(finished.parent)]) == 0
    shown = capsys.readouterr().out
    assert "tiny: 4 of 4 trainings have finished" in shown
    assert "Δ test BPC [95%]" in shown
    assert shown.count("baseline") >= 4
    assert run(["monitor", str(finished), "--json"]) == EXIT_USAGE
    assert run(["monitor", str(finished), "table1-small"]) == EXIT_USAGE
    assert f"simsmoe monitor {finished}" in capsys.readouterr().err
    # A folder or file of results alone.
    kept = shutil.copy(finished / "results.json", tmp_path)
    for given in (tmp_path, kept):
        assert run(["monitor", str(given)]) == 0
        assert "Δ test BPC [95%]" in capsys.readouterr().out


def test_trainings_of_another_sweep_are_reused(
    finished: Path, corpus_dir: Path, tmp_path: Path
) -> None:
    grid = {"moe.router": ["smoe", "xmoe"], PRESET: ["none", "published"]}
    definition = definition_of(DEFINITION | {"name": "other", "grids": [grid]}, "test")
    results = tmp_path / "results.json"
    reuse, said = [finished / "results.json"], list[str]()
    sweep = running.open_sweep(definition, tmp_path, corpus_dir, results, said.append, reuse)
    assert len(sweep.trainings) == 4
    assert said == [f"{reuse[0]}: 2 of its 4 trainings fit"]
    assert {one.recipe.moe.router for one in sweep.due} == {"xmoe"}
    # Of another text none are taken.
    content = reuse[0].read_text().replace('"fingerprint": "', '"fingerprint": "0')
    (tmp_path / "other.json").write_text(content)
    reuse = [tmp_path / "other.json"]
    sweep = running.open_sweep(definition, tmp_path, corpus_dir, results, said.append, reuse)
    assert len(sweep.due) == 4
    assert said[1].startswith(f"{reuse[0]}: none of its 4 trainings fits; its corpus ")
    assert said[1].endswith(" is another text")
    # With other settings neither.
    others = Results.read(finished / "results.json")
    others.records = [(settings | {"train.batch": 2}, one) for settings, one in others.records]
    assert take_over(sweep, others).endswith(
        "none of its 4 trainings fits; the nearest differs in train.batch (2, here 4)"
    )
    assert len(sweep.due) == 4


def test_a_failure_does_not_stop_the_rest(
    sweep: Callable[..., tuple[int, Path]],
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    content = json.loads((finished / "results.json").read_text())
    removed, content["records"] = content["records"][:2], content["records"][2:]
    (folder / "results.json").write_text(json.dumps(content))
    broken = str(removed[0]["name"])
    (folder / broken).write_text("a file where a run should be")
    code, _ = sweep(tmp_path)
    shown = capsys.readouterr().out
    assert code == 1
    assert f"{broken}  failed: " in shown
    assert "1 did not finish" in shown
    assert len(scores(folder)) == 3
    assert broken in (folder / "results.html").read_text()
    # The monitor shows it as well, and waits for nothing.
    seen = io.StringIO()
    assert watch(folder, Console(file=seen, width=200, force_terminal=True), 0.1, once=False)
    assert "3 of 4 trainings have finished" in seen.getvalue()
    reason = shown.partition(f"{broken}  failed: ")[2].splitlines()[0].partition(",")[0]
    assert f"{broken}  failed: {reason}" in seen.getvalue()


@pytest.mark.parametrize("router", ["smoe", "smoe-dropout"])
def test_flops_are_those_of_the_comparisons_that_are_made(router: str) -> None:
    """Under the budget in every m-th step, and in none while the weight is 0."""
    given = ["train.steps=100", "similarity.preset=calibrated", f"moe.router={router}"]
    recipe = load_recipe("quickstart", given)
    size = model_size.measure(recipe, 256)
    similarity = size.similarity
    assert similarity is not None
    assert similarity.every > 1
    cost = cost_of(recipe, 256)
    assert cost.flops == pytest.approx(
        cost.tokens * size.training_flops_per_token + cost.similarity_flops
    )
    comparisons = [step for step in range(21, 100) if step % similarity.every == 0]
    of_all = len(comparisons) * similarity.comparison_flops * recipe.train.micro_batches
    assert cost.similarity_flops == pytest.approx(of_all)


def test_an_interrupted_training_is_due_in_part(
    alone: tuple[Path, Record], corpus_dir: Path, tmp_path: Path
) -> None:
    name, steps = alone[0].name, alone[1].cost.steps
    shutil.copytree(alone[0] / "checkpoints", tmp_path / name / "checkpoints")
    shutil.rmtree(max((tmp_path / name / "checkpoints").iterdir()))
    last = int(max((tmp_path / name / "checkpoints").iterdir()).name.rpartition("-")[2])
    assert 0 < last < steps
    definition = definition_of(DEFINITION, "test")
    sweep = running.open_sweep(definition, tmp_path, corpus_dir, tmp_path / "r.json", print)
    left = {one.job.name: one.flops_due / one.cost.flops for one in sweep.due}
    assert left.pop(name) == pytest.approx(1 - last / steps)
    assert set(left.values()) == {1.0}


def test_the_time_left_is_that_of_trainings_which_finished(
    finished: Path, corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = definition_of(DEFINITION | {"grids": [{PRESET: ["none"]}], "seeds": "0-3"}, "test")
    sweep = running.open_sweep(definition, tmp_path, corpus_dir, tmp_path / "r.json", print)
    first = sweep.trainings[0]
    half = running.Part(first.cost, first.cost.steps // 2)
    sweep.trainings[0] = replace(first, parts=(half,))
    record = Results.read(finished / "results.json").records[0][1]
    clock = [100.0]
    monkeypatch.setattr(sweeping.time, "monotonic", lambda: clock[0])
    shown = io.StringIO()
    progress = sweeping._Progress(sweep, 2, Console(file=shown, width=200))

    def end(number: int, at: float, seconds: float, found: Record | None = record) -> str:
        clock[0] = 100 + at
        shown.truncate(shown.seek(0))
        progress.ended(sweep.trainings[number], found, Outcome(number, found, "broken", seconds))
        return shown.getvalue().strip()

    # Half a training took 10 s, so that 3.5 trainings take 70 s: 35 s of two at a time.
    assert end(0, 10, 10).endswith(", 25 s left")
    assert end(1, 22, 22).endswith(", 15 s left")
    assert end(2, 23, 13, None) == "[3/4] none-seed2  failed: broken, 4 s left"
    assert "left" not in end(3, 32, 10)


def test_a_run_with_other_settings_is_not_gone_on_with(
    alone: tuple[Path, Record], corpus_dir: Path
) -> None:
    definition = definition_of(DEFINITION, "test")
    folder, results = alone[0].parent, alone[0].parent / "new/results.json"

    def opened(**settings: Any) -> dict[str, int]:
        changed = {name.replace("_", ".", 1): value for name, value in settings.items()}
        other = definition.model_copy(update={"settings": definition.settings | changed})
        sweep = running.open_sweep(other, folder, corpus_dir, results, print)
        return {one.job.name: one.parts[0].trained for one in sweep.trainings}

    name, steps = alone[0].name, alone[1].cost.steps
    assert opened()[name] == opened(train_probe_every=3)[name] == steps
    assert opened(train_lr=0.5)[f"{name}-run2"] == 0


def test_a_training_without_its_fine_tuning_is_due(
    finished: Path, corpus_dir: Path, tmp_path: Path
) -> None:
    definition = definition_of(DEFINITION, "test")
    sweep = running.open_sweep(definition, tmp_path, corpus_dir, tmp_path / "r.json", print)
    recipe, results = sweep.trainings[0].recipe, Results.read(finished / "results.json")
    record = sweep.measured(results, recipe)
    assert record is not None
    task = Task(task="letters", recipe="finetune-sst2")
    sweep.definition = definition.model_copy(update={"finetune": [task]})
    assert sweep.measured(results, recipe) is None
    scores = record.scores | {"accuracy_letters": 0.5}
    before = len(results.records)
    results.add(recipe, record.model_copy(update={"scores": scores}))
    assert len(results.records) == before
    again = sweep.measured(results, recipe)
    assert again is not None
    assert again.scores == scores


def test_a_file_of_results_is_gone_on_with(
    finished: Path, corpus_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    for name in ("results.json", "of-another-name.json"):
        shutil.copy(finished / "results.json", tmp_path / "there" / name)
        where = ["--data-dir", str(corpus_dir), "--runs-dir", str(tmp_path / "runs")]
        capsys.readouterr()
        assert run(["sweep", str(tmp_path / "there" / name), *where]) == 0
        assert "due        0" in capsys.readouterr().out
    # Of the folder alone it says how; options that take results take both.
    assert run(["sweep", str(finished)]) == EXIT_USAGE
    assert f"simsmoe sweep {finished}/results.json --runs-dir" in capsys.readouterr().err
    assert results_file(finished) == results_file(finished / "results.json")
    assert results_folder(finished / "results.json") == results_folder(finished) == finished
    # Nothing was due, and it can be watched all the same.
    assert run(["monitor", "tiny", "--once", "--runs-dir", str(tmp_path / "runs")]) == 0
    assert "4 of 4 trainings have finished" in capsys.readouterr().out


def test_a_sweep_that_was_renamed_is_watched(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "renamed")
    content = (tmp_path / "renamed/results.json").read_text()
    (tmp_path / "renamed/results.json").write_text(content.replace('"tiny"', '"mine"'))
    capsys.readouterr()
    assert run(["monitor", str(tmp_path / "renamed"), "--once"]) == 0
    assert "mine: 4 of 4" in capsys.readouterr().out


def test_a_source_is_read_though_it_has_the_name_of_a_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("enwik8").write_text("a text of one's own, and not a long one " * 100)
    definition = definition_of(DEFINITION, "test")
    found = with_source(definition, Path("enwik8"))
    (text,) = texts_of(found, Path("enwik8"))
    assert not is_prepared(text, tmp_path / "data")
    prepare_text(text, tmp_path / "data", lambda *given: None)
    assert is_prepared(text, tmp_path / "data")
    assert found.settings["data.corpus"] == "enwik8"
    assert found.changes == {"text": "enwik8"}
    store = TokenStore.open(tmp_path / "data/enwik8")
    assert sum(split.tokens for split in store.manifest.splits.values()) == 4000


def test_reproduce_says_what_it_downloads_before_it_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data-dir", str(tmp_path / "data"), "--runs-dir", str(tmp_path / "runs")]
    paper = ["reproduce", "table2", "--scale", "paper", "--seeds", "2", *where]
    assert run([*paper, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "first      download and prepare the corpus enwik8" in plan
    assert "first      download and prepare the task banking77" in plan
    assert run(paper) == EXIT_USAGE
    out, err = capsys.readouterr()
    assert out == plan
    assert "Start it with --yes" in err
    assert run(["reproduce", "table1", *where, "--dry-run"]) == 0
    assert "first      prepare the corpus pystdlib in" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_results_of_another_text_are_refused(
    sweep: Callable[..., tuple[int, Path]],
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    content = (finished / "results.json").read_text()
    changed = content.replace('"fingerprint": "', '"fingerprint": "0')
    (folder / "results.json").write_text(changed)
    code, _ = sweep(tmp_path)
    assert code == EXIT_DATA
    assert "is not the text that the finished trainings read" in capsys.readouterr().err
    assert (folder / "results.json").read_text() == changed


TWO_ROUTERS = ["--grid", "moe.router=smoe,xmoe"]
RANGE = ["--grid", "similarity.weight=0.001..0.1"]


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (["sweep"], EXIT_USAGE, "--grid"),
        (["sweep", "--grid", "moe.router=smoe,smeo"], EXIT_USAGE, "Did you mean 'smoe'"),
        (["sweep", *TWO_ROUTERS, "--seeds", "x"], EXIT_USAGE, "--seeds: expected seeds"),
        (["sweep", *TWO_ROUTERS, "--seeds", "3-1"], EXIT_USAGE, "expected the lower seed first"),
        (["sweep", *TWO_ROUTERS, "-g", "moe.router=hash"], EXIT_USAGE, "in one --grid"),
        (["sweep", "--search", "2", *RANGE, *RANGE], EXIT_USAGE, "in one --grid"),
        (["sweep", "weight", *TWO_ROUTERS], EXIT_USAGE, "--grid: the sweep's file has it"),
        (["sweep", "weight", "--set", "train.steps"], EXIT_USAGE, "--set train.steps: expected"),
        (
            ["sweep", *TWO_ROUTERS, "--set", "moe.router=hash"],
            EXIT_USAGE,
            "the sweep's grid varies",
        ),
        (
            ["reproduce", "table1", "--set", "moe.router=hash"],
            EXIT_USAGE,
            "the sweep's grid varies",
        ),
        (["sweep", "table2-small"], EXIT_DATA, "prepare-data pystdlib-packages"),
        (["sweep", "missing.json"], EXIT_DATA, "no such file of results"),
        (["sweep", *TWO_ROUTERS, "--reuse", "missing.json"], EXIT_DATA, "no such file of results"),
        (["reproduce", "table9"], EXIT_USAGE, "table1"),
        (["sweep", *TWO_ROUTERS, "--device", "gpu"], EXIT_USAGE, "unknown device 'gpu'"),
        (["sweep", *TWO_ROUTERS, "--results", "/proc/x"], EXIT_DATA, "/proc/x: cannot write"),
        (["sweep", *TWO_ROUTERS, "--results", "x.json"], EXIT_USAGE, "Give the folder: --results"),
        (["sweep", *TWO_ROUTERS, "--baseline", "moe.router=smeo"], EXIT_USAGE, "mean 'smoe'? Av"),
        (["sweep", "--grid", "lr=1,2"], EXIT_USAGE, "Did you mean 'train.lr'? All are in"),
        (["sweep", RANGE[0], "train.lr=1e-4..1e-2"], EXIT_USAGE, "--grid train.lr=1e-4..1e-2: a r"),
        (["sweep", "docs"], EXIT_USAGE, "this is a folder"),
        (
            ["reproduce", "table3", "--scale", "paper", "--source", "my.txt"],
            EXIT_USAGE,
            "--source: the paper's protocol has its own texts",
        ),
    ],
)
def test_what_cannot_begin_is_one_line_and_leaves_nothing(
    given: list[str],
    code: int,
    said: str,
    corpus_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs_dir = tmp_path / "new/runs"
    assert run([*given, "--data-dir", str(corpus_dir), "--runs-dir", str(runs_dir)]) == code
    shown = capsys.readouterr().err
    assert said in shown
    assert len(shown.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_new_folder_stays_where_others_wrote_into_it(tmp_path: Path) -> None:
    with running.locked(tmp_path / "new/runs/sweep"):
        (tmp_path / "new/of another").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["of another"]


def test_two_processes_do_not_work_on_one_sweep(
    sweep: Callable[..., tuple[int, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running.locked(tmp_path / "tiny"):
        code, folder = sweep(tmp_path)
        assert code == EXIT_USAGE
        assert "another process works on this sweep" in capsys.readouterr().err
        assert folder.is_dir()


def test_similarity_is_that_of_a_report(alone: tuple[Path, Record], corpus_dir: Path) -> None:
    source = open_run(RunDir(alone[0]), data_dir=corpus_dir, device=torch.device("cpu"))
    ours, layers = similarity_scores(source, batches=1, rows=1024)
    report = measure(source, Options(rows=1024, tokens=2048)).overall
    assert ours["cka"] == pytest.approx(report.cka_mean, abs=1e-6)
    assert len(layers) == 2
    assert ours["cka_shared"] == pytest.approx(report.cka_shared.value, abs=1e-6)
    # A report counts shared tokens in all that it reads, here twice as many.
    assert ours["pearson"] == pytest.approx(report.pearson.value, abs=0.2)
    assert ours["spearman"] == pytest.approx(report.spearman.value, abs=0.2)
    assert ours["cka_deviation"] is None
