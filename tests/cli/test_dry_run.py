"""`simsmoe pretrain --dry-run`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from simsmoe_cli.cli import main
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.objectives.language_modelling import LanguageModelling
from tests.train.tiny import recipe

Command = Callable[..., "Done"]


@dataclass
class Done:
    """Exit code and output of a command."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def simsmoe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run `simsmoe ARGUMENTS` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        code = main.run(arguments)
        return Done(code, *capsys.readouterr())

    return run


def test_brainformer_large_has_the_published_count(simsmoe: Command, tmp_path: Path) -> None:
    done = simsmoe("pretrain", "--recipe", "brainformer-large", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "vocabulary 205 all of enwik8 with tokenizer bytes" in lines
    assert "parameters 134,417,581" in lines
    assert "tokens to train 1,228,800,000 50,000 steps" in lines
    assert "name: brainformer-large" in lines
    assert list(tmp_path.iterdir()) == []


def test_json_holds_sizes_costs_and_their_basis(simsmoe: Command) -> None:
    done = simsmoe(
        "pretrain", "--recipe", "mistral-medium", "--dry-run", "--json",
        "--similarity", "published", "--set", "data.corpus=text8",
    )  # fmt: skip
    assert done.returncode == 0
    shown = json.loads(done.stdout)
    assert shown["vocabulary"] == 27
    # 178 rows fewer in the embedding and in the output layer, and as many biases.
    assert shown["parameters"] == 62_812_077 - 178 * (2 * 256 + 1)
    # 14 heads from 256 to 16 features.
    assert shown["head_parameters"] == 14 * (256 * 16 + 16)
    assert shown["active_parameters"] < shown["parameters"] / 4
    assert shown["flops_per_token_training"] == 3 * shown["flops_per_token_forward"]
    assert shown["tokens_to_train"] == 50_000 * 48 * 512
    assert shown["training_flops"] == shown["tokens_to_train"] * shown["flops_per_token_training"]
    parts = shown["memory_bytes"]
    total = parts.pop("total")
    assert set(parts) == {"weights", "gradients", "optimizer", "carried memory", "activations"}
    assert total == sum(parts.values())
    assert shown["recipe"]["similarity"]["preset"] == "published"
    assert set(shown["basis"]) == {"active_parameters", "flops", "memory"}


def test_experts_per_token_that_grow_are_named(simsmoe: Command) -> None:
    done = simsmoe("pretrain", "--dry-run", "--router", "smoe-dropout")
    assert "forward, with 2 experts per token; " in done.stdout
    assert "to train, with 3 on average" in done.stdout


def test_processes_are_planned(simsmoe: Command) -> None:
    command = [
        "pretrain", "--recipe", "mistral-modern", "--dry-run", "--world-size", "64",
        "--set", "parallel.expert=8", "--set", "train.batch=128",
        "--gpu-tflops", "400", "--link-gbs", "50",
    ]  # fmt: skip
    shown = json.loads(simsmoe(*command, "--json").stdout)
    each, time = shown["each_process"], shown["each_process"]["time"]
    assert each["layout"] == {"replicate": 1, "shard": 64, "expert": 8}
    # Norms, routers and tables of 205 symbols do not divide evenly among 64.
    assert shown["parameters"] / 64 <= each["parameters"] < 1.02 * shown["parameters"] / 64
    parts = dict(each["memory_bytes"])
    assert parts.pop("total") == sum(parts.values())
    sent = each["sent_bytes_per_step"]
    assert time["all_to_all_s"] == sent["all-to-all"] / 50e9
    assert time["step_s"] == max(time["compute_s"], time["fsdp_s"]) + time["all_to_all_s"]
    assert time["tokens_per_s"] == 128 * 1024 / time["step_s"]
    text = simsmoe(*command).stdout
    assert "1 x 64 (replicate x shard), 8 divide the experts" in text
    assert "time per step" in text
    assert "time per step" not in simsmoe(*command[:-4]).stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--world-size", "3"], "--world-size: only plans, and needs --dry-run"),
        (["--dry-run", "--gpu-tflops", "1"], "--gpu-tflops: has no effect without --world-size"),
        (["--dry-run", "--world-size", "2", "--link-gbs", "1"], "needs --gpu-tflops as well"),
        (
            ["--dry-run", "--world-size", "2", "--link-gbs", "0", "--gpu-tflops", "1"],
            "--link-gbs: must be a positive number, got 0",
        ),
        (["--dry-run", "--world-size", "2", "--set", "parallel.expert=4"], "parallel.expert: 4"),
        (["--dry-run", "--world-size", "64"], "a micro-batch of"),
    ],
)
def test_plans_that_make_no_sense_are_refused(
    simsmoe: Command, options: list[str], said: str
) -> None:
    done = simsmoe("pretrain", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unprepared_corpus_is_said_to_be_assumed(simsmoe: Command) -> None:
    done = simsmoe("pretrain", "--dry-run", "--set", "data.corpus=mine", "--json")
    assert done.returncode == 0
    shown = json.loads(done.stdout)
    assert shown["vocabulary"] == 205
    assert shown["vocabulary_basis"] == "assumed, as 'mine' is not prepared"


def test_a_name_that_a_training_would_refuse(simsmoe: Command) -> None:
    for name in ("a/b", "\x1b[31mx", ".."):
        done = simsmoe("pretrain", "--dry-run", "--name", name)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("simsmoe: error: --name: '")
    assert simsmoe("pretrain", "--dry-run", "--name", "mine").returncode == 0


def test_a_recipe_error_comes_before_anything_else(simsmoe: Command) -> None:
    done = simsmoe("pretrain", "--dry-run", "--recipe", "quickstart", "--set", "model.heads=5")
    assert (done.returncode, done.stdout) == (2, "")
    assert "5 heads do not divide the width 128" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("preset", ["none", "published"])
def test_a_prepared_corpus_gives_the_vocabulary_and_the_epochs(
    simsmoe: Command, store: TokenStore, preset: str
) -> None:
    """What is shown is what a training would have."""
    made = recipe(similarity={"preset": preset})
    Path("tiny.yaml").write_text(dump_recipe(made))
    command = ["pretrain", "--recipe", "tiny.yaml", "--dry-run"]
    command += ["--data-dir", str(store.path.parent)]
    shown = json.loads(simsmoe(*command, "--json").stdout)
    assert shown["vocabulary"] == store.manifest.vocab_size
    assert shown["vocabulary_basis"] == f"prepared in {store.path}"
    model = LanguageModel(made, store.manifest.vocab_size)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert shown["parameters"] + shown["head_parameters"] == parameters
    assert (shown["head_parameters"] > 0) == (preset == "published")
    assert shown["memory_bytes"]["weights"] == 4 * parameters
    assert shown["tokens_to_train"] == 8 * 4 * 32
    assert shown["epochs"] == 8 * 4 * 32 / store.manifest.splits["train"].tokens
    assert f"prepared in {store.path}" in simsmoe(*command).stdout
    assert [path.name for path in Path().iterdir()] == ["tiny.yaml"]


def test_a_resumed_run_is_shown_with_its_own_recipe(
    simsmoe: Command, store: TokenStore, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "mine")
    made = recipe()
    Trainer(LanguageModelling(made, store, torch.device("cpu")), run).train()
    run.recipe.write_text(dump_recipe(made))
    command = ["pretrain", "--dry-run", "--json", "--data-dir", str(store.path.parent)]
    shown = json.loads(simsmoe(*command, "--resume", str(run.path)).stdout)
    assert shown["tokens_to_train"] == 8 * 4 * 32
    more = ["--resume", "mine", "--runs-dir", str(tmp_path), "--set", "train.steps=16"]
    shown = json.loads(simsmoe(*command, *more).stdout)
    assert shown["tokens_to_train"] == 16 * 4 * 32
    assert simsmoe(*command, "--resume", "nothing").returncode == EXIT_DATA


def test_a_prepared_corpus_of_another_tokenizer_is_refused(
    simsmoe: Command, corpus_dir: Path
) -> None:
    command = ["pretrain", "--dry-run", "--data-dir", str(corpus_dir)]
    done = simsmoe(*command, "--set", "data.corpus=words")
    assert (done.returncode, done.stdout) == (3, "")
    assert "prepared with the tokenizer 'words'" in done.stderr


def test_a_device_there_is_none_of(simsmoe: Command) -> None:
    done = simsmoe("pretrain", "--dry-run", "--device", "nonsense")
    assert (done.returncode, done.stdout) == (EXIT_USAGE, "")
    assert "--device: unknown device 'nonsense'" in done.stderr
