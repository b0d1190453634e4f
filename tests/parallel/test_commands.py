"""Commands on two ranks, as torchrun starts them: models of transformers, experts that ranks share,
and settings that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from simsmoe_cli.cli import main
from simsmoe_cli.errors import EXIT_USAGE
from simsmoe_cli.run.folder import RunDir
from tests.gloo_ranks import command_on_ranks
from tests.parallel.cases import TOLERANCE
from tests.train.huggingface_folders import SETTINGS, SIMILARITY, chosen_by, corpus, model_folder
from tests.train.tiny import TINY, events
from tests.train.transfer import prepare

RANKS = 2


def said_first(folder: Path, *arguments: str) -> str:
    """What the first rank prints; the other one prints nothing."""
    first, second = command_on_ranks(RANKS, folder, [*arguments, "--device", "cpu"])
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert second.out == second.err == ""
    return first.out


def test_a_model_of_transformers_trains_as_in_one_process(tmp_path: Path) -> None:
    import transformers

    model = model_folder("Mixtral", tmp_path / "model")
    corpus(model, tmp_path / "data")
    places = ["--runs-dir", str(tmp_path / "runs"), "--data-dir", str(tmp_path / "data")]
    chosen = chosen_by(*SETTINGS, "train.eps=1e-4", "moe.z_weight=0.01")
    words = ["pretrain", "--from", str(model), *chosen, *places, "--name"]
    said_first(tmp_path / "a", *words, "ranks", "--similarity", "none")
    assert main.run([*words, "alone", "--device", "cpu", "--similarity", "none"]) == 0
    runs = [RunDir(tmp_path / "runs" / name) for name in ("ranks", "alone")]
    for kind, key in (("train", "loss_nats"), ("train", "grad_norm"), ("eval", "loss_nats")):
        ours, theirs = ([event[key] for event in events(run, kind)] for run in runs)
        assert ours == pytest.approx(theirs, rel=TOLERANCE)
    saved, whole = (
        transformers.AutoModelForCausalLM.from_pretrained(run.path / "huggingface").state_dict()
        for run in runs
    )
    assert saved.keys() == whole.keys()
    gaps = [(saved[name] - tensor).abs().max().item() for name, tensor in whole.items()]
    assert max(gaps) < TOLERANCE
    more = ["--similarity", "calibrated", *chosen_by(*SIMILARITY)]
    said_first(tmp_path / "b", *words, "similar", *more)
    found = events(RunDir(tmp_path / "runs" / "similar"), "train")
    assert any(event["losses"]["similarity"] > 0 for event in found)


def test_a_model_of_transformers_is_fine_tuned(tmp_path: Path) -> None:
    import transformers

    model = model_folder("Mixtral", tmp_path / "model")
    prepare(tmp_path / "data", "letters")
    places = ["--data-dir", str(tmp_path / "data"), "--runs-dir", str(tmp_path / "runs")]
    chosen = chosen_by("train.batch=8", "train.block=32", "finetune.epochs=1")
    words = ["finetune", "--from", str(model), "--task", "letters", *chosen, *places]
    said_first(tmp_path / "a", *words, "--name", "ranks")
    report = said_first(tmp_path / "b", "eval", "ranks", "--json", *places)
    assert json.loads(report)["examples"] == 18
    folder = tmp_path / "runs/ranks/huggingface"
    assert transformers.AutoModelForSequenceClassification.from_pretrained(folder)


@pytest.fixture
def words(tmp_path: Path, corpus_dir: Path) -> list[str]:
    """Of a short training."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"name": "tiny"}))
    return [
        "pretrain", "--recipe", str(tmp_path / "tiny.yaml"), "--data-dir", str(corpus_dir),
        "--runs-dir", str(tmp_path / "runs"), "--name", "run",
    ]  # fmt: skip


def test_ranks_share_experts(words: list[str], tmp_path: Path, corpus_dir: Path) -> None:
    said_first(tmp_path / "a", *words, "--set", "parallel.expert=2")
    places = ["--data-dir", str(corpus_dir), "--runs-dir", str(tmp_path / "runs")]
    assert json.loads(said_first(tmp_path / "b", "eval", "run", "--json", *places))["step"] == 8


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["parallel.expert=2", "moe.experts=3"], "2 ranks do not divide the 3 experts"),
        (["parallel.expert=4"], "4 ranks that share the experts do not divide the 2"),
        (["train.batch=1"], "a micro-batch of 1 sequences cannot be divided among 2 processes"),
        (["parallel.expert=2", "moe.backend=fastmoe"], "fastmoe has no expert parallelism"),
        (["parallel.shard=3"], "are not the 2 processes that train"),
        (
            [
                "similarity.preset=calibrated",
                "similarity.measure=cka-rbf",
                "similarity.sigma=median",
            ],
            "the median of each of 2 processes",
        ),
    ],
)
def test_settings_that_do_not_fit_are_said_once(
    words: list[str], tmp_path: Path, settings: list[str], said: str
) -> None:
    found = command_on_ranks(RANKS, tmp_path / "a", [*words, *chosen_by(*settings)])
    assert [rank.code for rank in found] == [EXIT_USAGE, EXIT_USAGE]
    assert found[0].out == found[1].out == ""
    (line,) = (found[0].err + found[1].err).splitlines()
    assert said in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        (["generate", "run", "--prompt", "a"], "simsmoe generate"),
        (["export", "run", "out"], "simsmoe export"),
        (["collapse-report", "run"], "simsmoe collapse-report"),
        (["prepare-data", "text.txt"], "simsmoe prepare-data"),
        (["runs", "rename", "run", "other"], "simsmoe runs rename"),
        (["pretrain", "--dry-run"], "--dry-run"),
    ],
)
def test_what_one_process_does_is_refused_once_in_several(
    tmp_path: Path, arguments: list[str], refused: str
) -> None:
    found = command_on_ranks(RANKS, tmp_path / "said", arguments)
    assert [(rank.code, rank.out) for rank in found] == [(EXIT_USAGE, "")] * RANKS
    (line,) = (found[0].err + found[1].err).splitlines()
    assert f"{refused}: runs in one process, and 2 were started. Start it without" in line
