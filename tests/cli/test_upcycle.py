"""`simsmoe upcycle`: the line it prints, the report of its result, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from safetensors.torch import load_file, save_file

from simsmoe_cli.cli import main
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE
from tests.huggingface.models import IDS, configured, made, with_tokenizer
from tests.upcycle.models import dense, logits

Capture = pytest.CaptureFixture[str]
SOME_SLIDE = {
    "use_sliding_window": True,
    "sliding_window": 8,
    "max_window_layers": 1,
    "layer_types": None,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dense models llama and qwen3 and the mixture of experts mixtral."""
    place = tmp_path_factory.mktemp("models")
    with_tokenizer(dense("Llama", place / "llama"))
    dense("Qwen3", place / "qwen3")
    made("Mixtral", place / "mixtral")
    return place


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for path in models.iterdir():
        shutil.copytree(path, tmp_path / path.name)


def refusal(capsys: Capture, code: int, *arguments: str) -> str:
    """The one line on stderr of a command that fails and leaves nothing behind."""
    before = sorted(Path().rglob("*"))
    assert main.run(["upcycle", *arguments]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
    return printed.err


def test_the_command_and_the_report_of_its_copies(capsys: Capture) -> None:
    capsys.readouterr()
    assert main.run(["upcycle", "llama", "new/moe", "--experts", "4", "--top-k", "1"]) == 0
    printed = capsys.readouterr()
    expert = 3 * 32 * 40
    attention = 2 * 32 * 12 * (4 + 2)
    whole = 2 * 61 * 32 + 32 + 2 * (attention + 2 * 32 + 4 * 32 + 4 * expert)
    assert printed.out == (
        f"new/moe: MixtralForCausalLM, {whole:,} parameters, {whole - 6 * expert:,} active, "
        "0.00 GB. Next: simsmoe collapse-report new/moe --text FILE; to train it: "
        "simsmoe pretrain --from new/moe, or simsmoe.attach (docs/api.md)\n"
    )
    assert printed.err == ""
    Path("text.txt").write_text(" ".join(f"w{number}" for number in IDS))
    report = ["collapse-report", "new/moe", "--text", "text.txt", "--tokens", "64"]
    assert main.run([*report, "--no-ablation", "--out", "report", "--format", "json"]) == 0
    assert "exact copies" in capsys.readouterr().out
    layers = Report.read(Path("report/report.json")).main.layers
    assert [layer.experts for layer in layers] == [4, 4]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--experts", "1"], "--experts: expected 2 to 1,024 experts, got 1"),
        (["--experts", "100000"], "--experts: expected 2 to 1,024 experts, got 100,000"),
        (["--top-k", "9"], "--top-k: expected 1 to 8 (the number of experts), got 9"),
        (["--top-k", "0"], "--top-k: expected 1 to 8 (the number of experts), got 0"),
        (["--drop-ratio", "0.5", "--noise", "0.1"], "give --drop-ratio or --noise, not both"),
        (["--drop-ratio", "1.5"], "--drop-ratio: expected 0 to 1, got 1.5"),
        (["--drop-ratio", "nan"], "--drop-ratio: expected a finite number, got nan"),
        (["--noise", "-1"], "--noise: expected 0 or more, got -1"),
        (["--noise", "inf"], "--noise: expected a finite number, got inf"),
    ],
)
def test_wrong_settings(arguments: list[str], said: str, capsys: Capture) -> None:
    assert said in refusal(capsys, EXIT_USAGE, "llama", "out", *arguments)


def test_wrong_places(capsys: Capture) -> None:
    said = refusal(capsys, EXIT_DATA, "meta-llama/Llama-3.2-1B", "out")
    assert "meta-llama/Llama-3.2-1B: no such folder" in said
    assert "hf download meta-llama/Llama-3.2-1B --local-dir Llama-3.2-1B" in said
    said = refusal(capsys, EXIT_DATA, "llama/config.json", "out")
    assert "llama/config.json: is not a folder" in said
    for taken in ("llama", "qwen3", "llama/config.json"):
        said = refusal(capsys, EXIT_USAGE, "llama", taken)
        assert f"{taken}: is not an empty folder. Choose a new or empty one." in said
    Path("nothing").mkdir()
    assert "no config.json" in refusal(capsys, EXIT_DATA, "nothing", "out")


class Change(NamedTuple):
    model: str
    settings: dict[str, Any]
    said: str


@pytest.mark.parametrize(
    "change",
    [
        Change("mixtral", {}, "the model (mixtral) already is a mixture of experts"),
        Change("llama", {"model_type": "gpt2"}, "Supported types: llama, mistral, qwen2, qwen3."),
        Change("llama", {"model_type": "no\x1bsuch"}, "models of type no\\x1bsuch are not"),
        Change("llama", {"attention_bias": True}, "attention_bias is true, and MixtralForCausalLM"),
        Change("llama", {"mlp_bias": True}, "mlp_bias is true"),
        Change(
            "qwen3",
            SOME_SLIDE,
            "some layers use a sliding window",
        ),
        Change(
            "qwen3",
            {"layer_types": ["full_attention", "sliding_attention"]},
            "some layers use a sliding window",
        ),
        Change(
            "llama",
            {"quantization_config": {"quant_method": "gptq"}},
            "quantised (gptq). Give a folder",
        ),
        Change(
            "llama",
            {"quantization_config": {"quant_method": "fp8"}},
            "quantised (fp8). Give a folder",
        ),
        Change("llama", {"num_hidden_layers": 3}, "missing: model.layers.2."),
        Change("llama", {"num_hidden_layers": 1}, "unknown to the model: model.layers.1."),
        Change("llama", {"num_hidden_layers": 10**9}, "says 1,000,000,000 layers"),
        Change("llama", {"hidden_size": 64}, "of another shape: "),
        Change("llama", {"hidden_size": "wide"}, "transformers cannot read config.json"),
        Change("llama", {"hidden_act": "none such"}, "transformers cannot build the model"),
    ],
)
def test_wrong_models(change: Change, capsys: Capture) -> None:
    configured(Path(change.model), **change.settings)
    assert change.said in refusal(capsys, EXIT_DATA, change.model, "out")


def test_a_window_that_no_layer_uses_is_ignored() -> None:
    settings = {"use_sliding_window": True, "sliding_window": 8}  # layer_types says full attention
    configured(Path("qwen3"), **settings)
    assert main.run(["upcycle", "qwen3", "out"]) == 0
    assert (logits(Path("out")) - logits(Path("qwen3"))).abs().max() < 1e-5


def test_damaged_files(capsys: Capture) -> None:
    weights = load_file("llama/model.safetensors")
    save_file({name: tensor.char() for name, tensor in weights.items()}, "llama/model.safetensors")
    assert "the weights are quantised (I8: " in refusal(capsys, EXIT_DATA, "llama", "out")
    Path("llama/config.json").write_text("{")
    assert "config.json is not JSON" in refusal(capsys, EXIT_DATA, "llama", "out")


def test_a_disk_that_is_too_small(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    small = shutil._ntuple_diskusage(10**9, 10**9, 1000)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: small)
    said = refusal(capsys, EXIT_DATA, "llama", "somewhere/out")
    assert "the disk has 0.0 GB free" in said
    assert "fewer --experts" in said


def test_nothing_is_left_of_a_write_that_fails(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("simsmoe_cli.upcycle.write.save_file", full)
    said = refusal(capsys, EXIT_DATA, "llama", "out")
    assert "out: cannot write the model: No space left on device" in said
    assert json.loads(Path("llama/config.json").read_text())["model_type"] == "llama"


def test_a_run_whose_checkpoint_is_missing(capsys: Capture) -> None:
    Path("run").mkdir()
    Path("run/recipe.yaml").write_text("name: mine\n")
    assert "no checkpoint 'best' in this run" in refusal(capsys, EXIT_DATA, "run", "new")


def test_a_misspelt_run_names_the_nearest(capsys: Capture) -> None:
    Path("runs/dense").mkdir(parents=True)
    Path("runs/dense/recipe.yaml").write_text("name: mine\n")
    assert "Did you mean 'dense'?" in refusal(capsys, EXIT_DATA, "dens", "new")
