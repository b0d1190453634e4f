"""`simsmoe collapse-report`: a report on a trained run, a guard for pipelines, or a refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from simsmoe_cli.cli import main
from simsmoe_cli.collapse import build as reporting
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.errors import EXIT_COLLAPSE, EXIT_DATA, EXIT_OUT_OF_MEMORY, EXIT_USAGE
from simsmoe_cli.model import available_memory as memory
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train import session
from simsmoe_cli.train.plan_pretraining import Plan
from tests.train.tiny import recipe

Capture = pytest.CaptureFixture[str]
FEW = ["--tokens", "128", "--format", "json", "--no-ablation"]


@pytest.fixture(scope="module")
def trained(corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs "plain" and "similar" of 8 steps, and "dense", which has no experts."""
    folder = tmp_path_factory.mktemp("reported") / "runs"
    for name, changes in (
        ("plain", {}),
        ("similar", {"similarity": {"preset": "calibrated", "tokens": 16, "min_tokens": 4}}),
        ("dense", {"model": {"pattern": "sf"}}),
    ):
        made = recipe(**changes)
        store = session.open_store(made, corpus_dir)
        session.train(Plan(made, RunDir(folder / name), None), store, torch.device("cpu"))
    return folder


@pytest.fixture(autouse=True)
def working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus_dir: Path, trained: Path
) -> None:
    """A folder with data/ and runs/, as a user has; reports go elsewhere by --out."""
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(corpus_dir)
    Path("runs").symlink_to(trained)


def command(*arguments: str) -> int:
    return main.run(["collapse-report", *arguments, "--out", "out"])


def reported(*arguments: str) -> Report:
    """The JSON a command writes."""
    assert command(*arguments, *FEW) == 0
    return Report.read(Path("out/report.json"))


def refusal(capsys: Capture, code: int, *arguments: str) -> str:
    """The error on stderr, one line, of a command that fails; nothing is written."""
    assert command(*arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    *before, error = printed.err.splitlines()
    assert error.startswith("simsmoe: error: ")
    assert not any("error" in line for line in before)
    assert not Path("out").exists()
    assert not list(Path().glob(".report-*"))
    return printed.err


def test_page_json_and_figures(
    capsys: Capture, tmp_path: Path, trained: Path, corpus_dir: Path
) -> None:
    assert command("plain", "--tokens", "128", "--ablate-tokens", "256") == 0
    found = {str(path.relative_to("out")) for path in Path("out").rglob("*.*")}
    names = {"report.html", "report.json"}
    for stem in (
        "by-layer", "shared-tokens", "training", "loss", "difference", "load", "entropy",
        "effective-rank", "cka-layer-1", "cka-layer-3", "cka-all-layers", "co-activation",
        "left-out", "merging", "saturation",
    ):  # fmt: skip
        names |= {f"figures/{stem}.{form}" for form in ("pdf", "png", "svg")}
    assert found == names
    printed = capsys.readouterr()
    cost, *progress = printed.err.splitlines()
    told = re.fullmatch(
        r"plain, step 8: about (\d+) s, \d+\.\d [GM]B; about \d+ s more to leave out and merge "
        r"experts \(--no-ablation skips it\)",
        cost,
    )
    assert told is not None
    assert int(told[1]) >= 5  # fifteen figures in four formats, and what draws them is imported
    drawing = progress.index("drawing figures")
    for lines in (progress[:drawing], progress[drawing + 1 :]):
        tenths = [int(line.split(" %")[0]) for line in lines]
        assert tenths == sorted(set(tenths))
        assert 1 <= len(tenths) <= 10
        assert tenths[-1] == 100
    assert "leaving out and merging experts, " in printed.err
    report = Report.read(Path("out/report.json"))
    ablation = report.main.ablation
    assert ablation is not None
    assert (ablation.tokens, ablation.windows, ablation.unit) == (256, 8, "bpc")
    assert len(ablation.left_out) == 8
    assert len(ablation.pairs) == 8
    assert report.main.text.rows == 128
    assert report.verdict.headline in printed.out
    assert [(layer.layer, layer.label) for layer in report.main.layers] == [(0, "1"), (1, "3")]
    for layer in report.main.layers:
        mean = layer.cka_mean.value
        assert re.search(rf"\n +{layer.label} +{mean:.3f} ", printed.out)
        assert f"<h3>layer {layer.label}</h3>" in Path("out/report.html").read_text()
    assert "out/report.html\nout/report.json\nout/figures (45 files)\n" in printed.out
    for place in (tmp_path, trained, corpus_dir):  # no path of this machine goes to others
        assert str(place) not in Path("out/report.json").read_text()
        assert str(place) not in Path("out/report.html").read_text()


def test_a_report_lies_in_its_run_unless_told_otherwise(tmp_path: Path, trained: Path) -> None:
    Path("runs").unlink()
    (tmp_path / "runs" / "plain").mkdir(parents=True)
    for path in (trained / "plain").iterdir():
        (tmp_path / "runs" / "plain" / path.name).symlink_to(path)
    assert main.run(["collapse-report", "plain", *FEW]) == 0
    assert [p.name for p in Path("runs/plain/report").iterdir()] == ["report.json"]


def test_nothing_is_left_out_without_being_asked(capsys: Capture) -> None:
    assert "nothing is left out" in refusal(
        capsys, 2, "plain", "--no-ablation", "--ablate-tokens", "64"
    )
    report = reported("plain")
    assert (report.main.ablation, report.main.ablation_refused) == (None, "")
    assert "leave out" not in capsys.readouterr().err


def test_against_another_run(capsys: Capture) -> None:
    report = reported("plain", "--against", "runs/similar")
    assert report.against is not None
    assert (report.main.subject.name, report.against.subject.name) == ("plain", "similar")
    assert report.against.subject.similarity == "calibrated"
    assert report.main.layers[0].cka != report.against.layers[0].cka
    assert "mean CKA, similar" in capsys.readouterr().out


@pytest.mark.parametrize("names", [("plain", "similar"), ("similar", "plain")])
def test_both_runs_show_the_pair_that_is_most_alike_in_one(names: tuple[str, str]) -> None:
    report = reported(names[0], "--against", names[1])
    assert report.against is not None
    here, there = report.main.difference, report.against.difference
    assert here is not None
    assert there is not None
    assert (here.layer, here.experts) == (there.layer, there.experts)
    first, second = here.experts
    for found, shown in ((report.main, here), (report.against, there)):
        assert shown.cka == found.layers[shown.layer].cka[first][second]
    values = [
        value
        for found in (report.main, report.against)
        for layer in found.layers
        for i, j in layer.pairs()
        if (value := layer.cka[i][j]) is not None and not {i, j} & set(layer.dead or ())
    ]
    assert max(here.cka, there.cka) == max(values)


def test_all_checkpoints() -> None:
    report = reported("plain", "--checkpoint", "all", "--against", "similar")
    assert [found.subject.step for found in report.findings] == [4, 8]
    assert report.against is not None
    assert report.against.subject.checkpoint == "best"


def test_the_checkpoint_and_the_split_asked_for() -> None:
    report = reported("plain", "--checkpoint", "4", "--split", "test")
    assert (report.main.subject.step, report.main.text.split) == (4, "test")
    assert reported("plain").main.text.split == "valid"


def test_json_on_stdout_is_the_file(capsys: Capture) -> None:
    assert command("plain", *FEW, "--json") == 0
    printed = capsys.readouterr().out
    assert printed == Path("out/report.json").read_text()
    assert json.loads(printed)["schema_version"] == 1


def test_a_guard_for_pipelines(capsys: Capture) -> None:
    """The report is written whether it passes or not."""
    assert command("plain", *FEW, "--fail-above", "1") == 0
    layers = Report.read(Path("out/report.json")).main.layers
    highest, label = max((layer.cka_mean.value or 0, layer.label) for layer in layers)
    capsys.readouterr()
    assert command("plain", *FEW, "--fail-above", "0.01") == EXIT_COLLAPSE
    assert (
        f"simsmoe: error: plain: the mean debiased CKA of layer {label} is "
        f"{highest:.3f}, above 0.01" in capsys.readouterr().err
    )


def test_the_page_is_opened_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(typer, "launch", opened.append)
    assert command("plain", "--tokens", "64", "--format", "html", "--no-ablation", "--open") == 0
    assert opened == ["out/report.html"]
    assert Path(opened[0]).is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--fail-above", "80"],
            "--fail-above: 80 is not a limit for a CKA. Use 0 to 1, like 0.8.",
        ),
        (["--fail-above", "nan"], "--fail-above: expected a finite number, got nan"),
        (["--format", "htm"], "--format: unknown format 'htm'. Did you mean 'html'?"),
        (["--format", ""], "--format: no format given"),
        (["--format", "json", "--open"], "--open: there is no page to open"),
        (["--split", "train"], "--split: no held-out split 'train'"),
        (["--split", "tset"], "Did you mean 'test'?"),
        (["--against", "plain"], "--against: a run cannot be compared with itself"),
        (["--device", "gpu"], "--device: unknown device 'gpu'"),
        (["--tokens", "0"], "'--tokens'"),
    ],
)
def test_contradictions_and_unknown_settings(
    capsys: Capture, arguments: list[str], said: str
) -> None:
    assert said in refusal(capsys, EXIT_USAGE, "plain", *arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plian"], "runs: no run 'plian'. Did you mean 'plain'?"),
        (["plain", "--against", "similr"], "Did you mean 'similar'?"),
        (["plain", "--checkpoint", "7"], "no checkpoint '7' in this run. Available: 4, 8"),
        (["dense"], "this model has no experts"),
    ],
)
def test_what_cannot_be_measured(capsys: Capture, arguments: list[str], said: str) -> None:
    assert said in refusal(capsys, EXIT_DATA, *arguments)


def test_options_of_runs_are_none_of_a_hugging_face_model(capsys: Capture) -> None:
    Path("model").mkdir()
    Path("model/config.json").write_text("{}")
    for option in (["--checkpoint", "best"], ["--split", "test"]):
        assert f"{option[0]}: a Hugging Face model has none" in refusal(
            capsys, EXIT_USAGE, "model", *option
        )


@pytest.mark.parametrize("out", ["a file", "a file/below", "x" * 300])
def test_a_place_that_cannot_be_written_is_said_before_any_work(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    def too_late(*args: Any, **settings: Any) -> None:
        raise AssertionError("it was measured first")

    Path("a file").write_text("")
    monkeypatch.setattr(reporting, "measure", too_late)
    assert main.run(["collapse-report", "plain", "--out", out]) == EXIT_USAGE
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Choose another --out." in error


def test_out_of_memory(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*args: Any, **settings: Any) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(reporting, "measure", greedy)
    assert "out of memory on cpu. Use fewer --tokens" in refusal(
        capsys, EXIT_OUT_OF_MEMORY, "plain"
    )


def test_only_the_layers_asked_for() -> None:
    whole, some = reported("plain"), reported("plain", "--layers", "3")
    assert [layer.layer for layer in whole.main.layers] == [0, 1]
    assert some.main.layers == whole.main.layers[1:]
    assert some.main.text == whole.main.text
    assert reported("plain", "--layers", "0-3").main.layers == whole.main.layers
    both = reported("plain", "--layers", "1", "--against", "similar")
    assert both.against is not None
    assert [layer.layer for layer in both.against.layers] == [0]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("2", "no layer with experts is called '2'"),
        ("1,x", "no layer with experts is called 'x'"),
        ("4-9", "no layer with experts is in '4-9'"),
        (",", "no layer given"),
    ],
)
def test_layers_that_are_not_there(capsys: Capture, asked: str, said: str) -> None:
    line = refusal(capsys, EXIT_USAGE, "plain", "--layers", asked)
    assert f"--layers: {said}" in line
    assert "Layers with experts: 1, 3" in line


def test_what_does_not_fit_into_memory(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 300_000)
    line = refusal(capsys, EXIT_OUT_OF_MEMORY, "plain", "--tokens", "512")
    assert re.search(r"needs about \d\.\d MB more of memory even on 256 tokens, and 0\.3 MB", line)


def test_fewer_tokens_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 9_000_000)
    assert command("plain", "--tokens", "4096", "--format", "json", "--no-ablation") == 0
    found = Report.read(Path("out/report.json")).main
    assert 256 <= found.text.rows < 4096
    assert any(
        f"{found.text.rows:,} tokens were measured instead of 4,096" in note
        for note in found.text.notes
    )


def test_help_says_all_that_does_not_pass_a_guard(capsys: Capture) -> None:
    assert main.run(["collapse-report", "--help"]) == 0
    words = " ".join(re.sub(r"[^\w.-]", " ", capsys.readouterr().out).split())
    assert "above this or undefined if any value is not finite or if fewer than 64 tokens" in words
