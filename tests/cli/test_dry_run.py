"""`simsmoe pretrain --dry-run`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Command = Callable[..., "subprocess.CompletedProcess[str]"]


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


def test_an_unprepared_corpus_is_said_to_be_assumed(simsmoe: Command) -> None:
    done = simsmoe("pretrain", "--dry-run", "--set", "data.corpus=mine", "--json")
    assert done.returncode == 0
    shown = json.loads(done.stdout)
    assert shown["vocabulary"] == 205
    assert shown["vocabulary_basis"] == "assumed, as 'mine' is not prepared"


def test_a_recipe_error_comes_before_anything_else(simsmoe: Command) -> None:
    done = simsmoe("pretrain", "--dry-run", "--recipe", "quickstart", "--set", "model.heads=5")
    assert (done.returncode, done.stdout) == (2, "")
    assert "5 heads do not divide the width 128" in done.stderr
    assert done.stderr.count("\n") == 1
