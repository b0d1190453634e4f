"""`simsmoe collapse-report` and `compare` on Hugging Face folders, as a user gives them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.cli import main
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE
from tests.compare.made_runs import made_run
from tests.huggingface.models import IDS, made, with_tokenizer

Capture = pytest.CaptureFixture[str]
FEW = ["--text", "text.txt", "--tokens", "64", "--ablate-tokens", "64"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models/mixtral, models/olmoe and text.txt."""
    place = tmp_path_factory.mktemp("place")
    for kind in ("Mixtral", "Olmoe"):
        with_tokenizer(made(kind, place / "models" / kind.lower()))
    (place / "text.txt").write_text(" ".join(f"w{number}" for number in IDS))
    return place


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for path in place.iterdir():
        Path(path.name).symlink_to(path)


def refusal(capsys: Capture, code: int, *arguments: str) -> str:
    """The one line on stderr of a command that fails."""
    assert main.run(list(arguments)) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_a_report(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [*FEW, "--format", "json", "--out", "out"]
    assert main.run(["collapse-report", "models/olmoe", *arguments]) == 0
    printed = capfd.readouterr()
    assert all(
        line.lstrip(" 0123456789%").startswith("olmoe: ") for line in printed.err.splitlines()
    )
    report = Report.read(Path("out/report.json"))
    assert report.main.subject.name == "olmoe"
    assert [layer.name for layer in report.main.layers] == [
        "model.layers.0.mlp",
        "model.layers.1.mlp",
    ]
    assert report.verdict.headline in printed.out


def test_no_path_of_the_machine_is_in_a_report(tmp_path: Path, place: Path) -> None:
    model = with_tokenizer(made("Mixtral", tmp_path / "secret" / "mixtral"))
    config = json.loads((model / "config.json").read_text())
    config |= {"_name_or_path": str(model), "trained_from": f"{tmp_path}/secret/start"}
    (model / "config.json").write_text(json.dumps(config))
    text = (tmp_path / "secret" / "text.txt").resolve()
    text.write_bytes((place / "text.txt").read_bytes() + b" \xff\xff w1" * 9)
    arguments = ["collapse-report", str(model), "--text", str(text), "--tokens", "64"]
    assert main.run([*arguments, "--out", "out", "--format", "json,html"]) == 0
    for path in (Path("out/report.json"), Path("out/report.html")):
        content = path.read_bytes()
        assert b"secret" not in content
        assert str(tmp_path).encode() not in content
        assert str(place).encode() not in content
    assert Report.read(Path("out/report.json")).main.subject.settings["trained_from"] == "start"


def test_the_name_of_a_repository_says_how_to_download_it(capsys: Capture) -> None:
    said = refusal(capsys, EXIT_DATA, "collapse-report", "mistralai/Mixtral-8x7B-v0.1", *FEW)
    assert "hf download mistralai/Mixtral-8x7B-v0.1 --local-dir Mixtral-8x7B-v0.1" in said


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"adapter_config.json": '{"base_model_name_or_path": "a/b"}'},
            "this is an adapter (LoRA) for a/b",
        ),
        (
            {"adapter_config.json": "", "config.json": "{}"},
            "this is an adapter (LoRA): it holds changes",
        ),
        ({"model_index.json": "{}"}, "this is a pipeline of several models"),
        ({"model.Q4_K_M.gguf": ""}, "the weights are in GGUF, the format of llama.cpp"),
        ({"model.safetensors": ""}, "weights, but no config.json"),
        ({"one/config.json": "{}", "two/config.json": "{}"}, "this folder holds 2 model folders"),
        ({"snapshots/0a1b/config.json": "{}"}, "Give the folder of a snapshot:"),
    ],
)
def test_another_kind_of_folder_is_named(capsys: Capture, files: dict[str, str], said: str) -> None:
    for name, content in files.items():
        path = Path("given") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert said in refusal(capsys, EXIT_DATA, "collapse-report", "given", *FEW)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.gguf", "the weights are in GGUF"),
        ("model.safetensors", "one file of a model, and a report needs a folder"),
        ("notes.txt", "this is a file, and a report needs a folder"),
    ],
)
def test_a_file_is_no_folder(capsys: Capture, name: str, said: str) -> None:
    Path(name).write_text("")
    assert said in refusal(capsys, EXIT_DATA, "collapse-report", name, *FEW)


def test_a_model_needs_a_text(capsys: Capture) -> None:
    said = refusal(capsys, EXIT_USAGE, "collapse-report", "models/olmoe")
    assert "--text: a Hugging Face model comes without text" in said


def compared(capsys: Capture, *folders: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main.run(["compare", *folders, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_models_are_compared_by_their_reports(capsys: Capture) -> None:
    said = refusal(capsys, EXIT_DATA, "compare", "models/mixtral", "models/olmoe")
    assert "this model has no report" in said
    assert "simsmoe collapse-report" in said
    reports = {}
    for name in ("mixtral", "olmoe"):
        arguments = [*FEW, "--format", "json", "--out", f"of-{name}"]
        assert main.run(["collapse-report", f"models/{name}", *arguments]) == 0
        reports[name] = Report.read(Path(f"of-{name}/report.json")).main
    found = compared(capsys, "of-mixtral", "of-olmoe")
    assert [run["name"] for run in found["runs"]] == ["of-mixtral", "of-olmoe"]
    assert {"model_type", "num_experts_per_tok"} <= set(found["differing_settings"])
    for run, report in zip(found["runs"], reports.values(), strict=True):
        assert run["measures"]["cka"] == report.overall.cka_mean
        assert run["measures"]["text_perplexity"] == report.text.perplexity
        assert run["measures"]["test_bpc"] is None
    assert main.run(["compare", "of-mixtral", "of-olmoe", "--out", "both.html"]) == 0
    assert "perplexity of the report" in Path("both.html").read_text()


def test_a_model_beside_a_run(capsys: Capture, tmp_path: Path) -> None:
    model = with_tokenizer(made("Mixtral", tmp_path / "mixtral"))
    assert main.run(["collapse-report", str(model), *FEW, "--format", "json"]) == 0
    made_run(tmp_path / "runs" / "own")
    found = compared(capsys, "own", str(model))
    assert [run["status"] for run in found["runs"]] == ["finished", "report"]
    assert found["runs"][1]["measures"]["cka"] is not None
    assert any("a run was measured on its probe's tokens" in note for note in found["notes"])
    assert str(tmp_path) not in json.dumps(found)


@pytest.mark.parametrize("chosen", [0, -1, 5])
def test_a_token_is_given_one_of_the_experts_to_all(
    capsys: Capture, tmp_path: Path, chosen: int
) -> None:
    folder = Path(shutil.copytree("models/mixtral", tmp_path / "changed"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_experts_per_tok": chosen}))
    said = refusal(capsys, EXIT_DATA, "collapse-report", str(folder), *FEW, "--out", "out")
    assert f"num_experts_per_tok = {chosen}, but a layer has 4 experts" in said
    assert not Path("out").exists()


@pytest.mark.parametrize("command", ["eval", "export", "generate"])
def test_a_model_is_not_taken_for_a_run(capsys: Capture, command: str) -> None:
    more = {"export": ["out"], "generate": ["--prompt", "x"]}
    said = refusal(capsys, EXIT_DATA, command, "models/mixtral", *more.get(command, []))
    assert "models/mixtral: this folder holds a model, not a run" in said


def test_a_folder_that_is_neither_a_run_nor_a_model(capsys: Capture) -> None:
    Path("notes").mkdir()
    for arguments in ([], FEW):
        said = refusal(capsys, EXIT_DATA, "collapse-report", "notes", *arguments)
        assert "notes: no run in this folder: it has no recipe.yaml" in said
