"""Commands on a device, as a user gives them: train, score, report, generate, fine-tune."""

from __future__ import annotations

import gc
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from simsmoe_cli.cli import main
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.sources.open_run import open_run
from simsmoe_cli.errors import EXIT_OUT_OF_MEMORY
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.sweep.measure import similarity_scores
from tests.gpu.devices import BOTH, CUDA
from tests.train import transfer
from tests.train.test_resume import PAPER_MODEL
from tests.train.tiny import events, recipe

Capture = pytest.CaptureFixture[str]
KINDS: dict[str, dict[str, Any]] = {
    "modern": {
        "similarity": {"preset": "calibrated", "weight": 0.003, "tokens": 16, "min_tokens": 4}
    },
    "paper": {"model": PAPER_MODEL},
}
EXPECTED_PRECISION = {"cpu": "fp32", "cuda": "bf16"}


def pretrain(device: str, *arguments: str) -> int:
    return main.run(["pretrain", "--device", device, *arguments])


@pytest.fixture(scope="module")
def folder(corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ with a corpus and a task, and recipes NAME.yaml."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "data").mkdir()
    (folder / "data/sources").symlink_to(corpus_dir / "sources")
    transfer.prepare(folder / "data", "letters")
    for name, changes in KINDS.items():
        (folder / f"{name}.yaml").write_text(dump_recipe(recipe(**changes)))
    return folder


@pytest.fixture(scope="module", params=BOTH)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def runs(device: str, folder: Path) -> Path:
    """runs-DEVICE/ with a run of each kind, trained there with one command."""
    runs = folder / f"runs-{device}"
    for name in KINDS:
        words = ["--recipe", str(folder / f"{name}.yaml"), "--name", name]
        places = ["--data-dir", str(folder / "data"), "--runs-dir", str(runs)]
        assert pretrain(device, *words, *places, "--set", "train.compile=off") == 0
    return runs


@pytest.fixture(autouse=True)
def working_directory(monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(folder / "data")
    for recipe_file in folder.glob("*.yaml"):
        Path(recipe_file.name).symlink_to(recipe_file)


def of(run: Path, *kinds: str) -> list[dict[str, Any]]:
    return events(RunDir(run), *kinds)


def values(tree: Any) -> Iterator[float]:
    """All numbers in what JSON holds."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from values(part)
    elif isinstance(tree, float):
        yield tree


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_training_writes(device: str, runs: Path, kind: str) -> None:
    """Losses fall, probes and validations are there, and every number is finite."""
    run = runs / kind
    started = of(run, "run_started")[0]
    assert (started["device"], started["precision"]) == (device, EXPECTED_PRECISION[device])
    losses = [event["loss_nats"] for event in of(run, "train")]
    assert losses[-1] < losses[0]
    assert [event["step"] for event in of(run, "router")] == [0, 4, 8]
    assert all(map(math.isfinite, values(of(run, "train", "eval", "router"))))
    for event in of(run, "similarity"):
        for layer in event["layers"]:
            assert layer["mean"] == pytest.approx(0, abs=1)
    assert of(run)[-1]["status"] == "finished"


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_a_cpu(device: str, runs: Path, kind: str, capsys: Capture) -> None:
    found = []
    for where in (device, "cpu"):
        capsys.readouterr()
        assert main.run(["eval", str(runs / kind), "--device", where, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["bpc"])
    assert found[0] == pytest.approx(found[1], rel=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_that_of_a_cpu(device: str, runs: Path, kind: str, capsys: Capture) -> None:
    """The most likely token after the other, and tokens drawn from a seed, which are drawn on the
    host."""
    for drawn in (["--temperature", "0"], ["--seed", "3"]):
        found = []
        for where in (device, "cpu"):
            capsys.readouterr()
            words = ["--prompt", "def parse(", "--tokens", "30", *drawn, "--device", where]
            assert main.run(["generate", str(runs / kind), *words]) == 0
            found.append(capsys.readouterr().out)
        assert found[0] == found[1]


def reported(device: str, path: Path, formats: str, *arguments: str) -> Report:
    out = Path("report", formats)
    words = ["--device", device, "--tokens", "256", "--format", formats, "--out", str(out)]
    words += ["--ablate-tokens", "256"]
    assert main.run(["collapse-report", str(path), *words, *arguments]) == 0
    assert "html" not in formats or (out / "report.html").stat().st_size > 10_000
    return Report.read(out / "report.json")


def assert_alike(device: str, path: Path, *arguments: str) -> None:
    """A report of a device says what that of a CPU does."""
    here = reported("cpu", path, "json", *arguments).main
    there = reported(device, path, "json,html", *arguments).main
    assert len(here.layers) == len(there.layers) > 0
    for one, other in zip(here.layers, there.layers, strict=True):
        assert other.load == pytest.approx(one.load, abs=0.02)
        theirs = [value for row in one.cka for value in row]
        ours = [value for row in other.cka for value in row]
        assert ours == pytest.approx(theirs, abs=0.02)


def test_a_report_says_what_that_of_a_cpu_does(device: str, runs: Path) -> None:
    assert_alike(device, runs / "modern")


def test_a_sweep_measures_what_a_cpu_does(device: str, runs: Path, folder: Path) -> None:
    found = []
    for where in (device, "cpu"):
        run = RunDir(runs / "modern")
        source = open_run(run, data_dir=folder / "data", device=torch.device(where))
        found.append(similarity_scores(source, batches=2, rows=128)[0])
    for name in ("cka", "cka_shared", "load_cv", "pearson", "spearman"):
        assert found[0][name] == pytest.approx(found[1][name], abs=0.05)


def test_a_report_of_a_hugging_face_model(device: str, tmp_path: Path) -> None:
    import transformers

    from tests.huggingface.families import tiny

    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = tiny(transformers.MixtralConfig, vocab_size=256)
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path / "mixtral")
    Path("text.txt").write_text("The text that a model of bytes reads, again and again. " * 60)
    save_byte_tokenizer(tmp_path / "mixtral")
    assert_alike(device, tmp_path / "mixtral", "--text", "text.txt")


@pytest.mark.parametrize("kind", ["Olmoe", "DeepseekV3", "GptOss"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_a_model_read_layer_by_layer_computes_what_a_cpu_does(
    device: str, kind: str, stored: str, tmp_path: Path
) -> None:
    """One decoder layer at a time on the device: its masks, positions and buffers too. In bf16 a
    near tie may send a token elsewhere, and what follows differs in the last digits."""
    from simsmoe_cli.collapse.sources.huggingface.layer_by_layer import LayerwiseSource
    from simsmoe_cli.collapse.sources.open_huggingface import open_huggingface
    from tests.huggingface.models import IDS, made

    folder = made(kind, tmp_path / kind, lambda model: model.to(getattr(torch, stored)))
    readings, routed = [], []
    for where in ("cpu", device):
        source = open_huggingface(folder, None, device=torch.device(where), token_ids=IDS)
        assert isinstance(source, LayerwiseSource)
        kept = KeptRouting()
        readings.append(source.walk(512, 256, kept, range(len(source.layers))))
        routed.append(kept)
        held = [weight for weight in source.model.parameters() if not weight.is_meta]
        assert {weight.device.type for weight in held} == {where}
    within = 1e-4 if stored == "float32" else 2e-2
    assert readings[1].ids == readings[0].ids
    assert readings[1].nats == pytest.approx(readings[0].nats, rel=within)
    for place, parts in routed[0].parts.items():
        ours, theirs = parts, routed[1].parts[place]
        index_TK, other_TK = (torch.cat([r.index_TK.cpu() for r in one]) for one in (ours, theirs))
        same = (index_TK.sort(1).values == other_TK.sort(1).values).float().mean()
        assert same >= (0.99 if stored == "float32" else 0.9)
        x_TD, other_TD = (
            torch.cat([r.input_TD.float().cpu() for r in one]) for one in (ours, theirs)
        )
        assert (x_TD - other_TD).norm() <= 10 * within * x_TD.norm()


class KeptRouting:
    """Keeps what the layers did with the text."""

    def __init__(self) -> None:
        self.parts: dict[int, list[Any]] = {}

    def routed(self, layer: int, routed: Any, rows: bool) -> None:
        self.parts.setdefault(layer, []).append(routed)

    def seen(self, layer: int) -> None:
        pass

    def progress(self, share: float) -> None:
        pass


def save_byte_tokenizer(path: Path) -> None:
    """A tokenizer of single characters, as a Hugging Face folder has it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {chr(code): code for code in range(32, 127)} | {"?": ord("?")}
    words = {letter: place for place, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(path)


def test_fine_tuning(device: str, runs: Path, capsys: Capture) -> None:
    """With padding, so that batches have changing shapes."""
    settings = [word for setting in transfer.QUICK for word in ("--set", setting)]
    words = ["--from", str(runs / "modern"), "--task", "letters", "--name", "tuned"]
    words += ["--set", "finetune.epochs=4", "--device", device, *settings]
    assert main.run(["finetune", *words]) == 0
    assert all(map(math.isfinite, values(of(Path("runs/tuned"), "train", "eval"))))
    scores = []
    for where in (device, "cpu"):
        capsys.readouterr()
        assert main.run(["eval", "runs/tuned", "--device", where, "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out)["accuracy"])
    assert scores[0] == pytest.approx(scores[1], abs=0.12)


def test_a_profile(device: str) -> None:
    words = ["--recipe", "modern.yaml", "--name", "mine", "--profile", "1"]
    assert pretrain(device, *words, "--set", "train.compile=off") == 0
    summary = Path("runs/mine/profile/summary.txt").read_text()
    where = "on the GPU" if device == "cuda" else "on the CPU"
    assert f" each {where}" in summary
    assert "\nexperts " in summary


@pytest.mark.parametrize("where", [CUDA])
def test_a_training_with_every_default_is_compiled(where: str) -> None:
    """As a user gives it, --deterministic and all; the weights of two trainings are the same."""
    found = []
    try:
        for name in ("one", "two"):
            torch._dynamo.reset()
            words = ["--recipe", "modern.yaml", "--name", name, "--deterministic"]
            assert pretrain("auto", *words) == 0
            assert of(Path("runs") / name, "run_started")[0]["device"] == where
            found.append(next(Path("runs", name, "best").glob("weights-*.safetensors")))
    finally:
        torch.use_deterministic_algorithms(False)
    assert found[0].read_bytes() == found[1].read_bytes()


@pytest.fixture
def little_memory() -> Iterator[int]:
    """CUDA gives this process 2 GiB."""
    limit = 2 * 2**30
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(limit / total)
    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    gc.collect()
    torch.cuda.empty_cache()


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("where", [CUDA])
def test_out_of_memory_names_settings_that_fit(where: str, capsys: Capture) -> None:
    """Exit code 5; the training with what it names goes through."""
    large = ["model.width=512", "model.heads=8", "moe.hidden=1024", "model.repeats=4"]
    large += ["train.batch=64", "train.block=1024", "train.compile=off", "train.steps=3"]
    large += ["train.validate_every=0", "train.checkpoint_every=0", "train.probe_every=0"]
    words = ["--recipe", "modern.yaml", "--name", "mine"]
    words += [word for change in large for word in ("--set", change)]
    assert pretrain(where, *words) == EXIT_OUT_OF_MEMORY
    said = capsys.readouterr().err
    assert f"out of memory on {where}" in said
    named = re.search(r"train\.micro_batches=(\d+)", said)
    assert named, f"no setting that fits in: {said}"
    assert of(Path("runs/mine"))[-1]["status"] == "failed"
    gc.collect()
    torch.cuda.empty_cache()
    again = ["--name", "again", "--set", f"train.micro_batches={named[1]}"]
    assert pretrain(where, *words, *again) == 0, capsys.readouterr().err
