"""Hugging Face folders with something wrong: a file damaged, a setting changed, a weight lost.

A report is made of each with a few tokens. It succeeds, or is refused in one line; what is reported
is measured on weights that are all the folder's own.
"""

from __future__ import annotations

import functools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from simsmoe_cli.collapse import build as reporting
from simsmoe_cli.collapse.measure.options import Options
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.errors import EXIT_DATA
from tests.fuzz.driving import (
    cases,
    damaged,
    disturbed,
    require_clear,
    require_nothing_half_written,
    simsmoe,
)
from tests.huggingface.models import IDS, made, with_tokenizer

KINDS = ("Mixtral", "Olmoe", "DeepseekV3")
CONFIGURED = (*KINDS, "Qwen3Moe")
WRONG = (None, -1, 0, "x", [], {}, float("inf"))
JSON = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny model of each kind, one of them in several files, and text.txt."""
    place = tmp_path_factory.mktemp("fuzz")
    for kind in CONFIGURED:
        with_tokenizer(made(kind, place / kind, tie_word_embeddings=kind == "Olmoe"))
    in_files(place / "DeepseekV3")
    (place / "text.txt").write_text(" ".join(f"w{number}" for number in IDS[:60]))
    return place


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few resamples, on one thread: what is tried here is how folders are opened."""
    monkeypatch.setattr(reporting, "Options", functools.partial(Options, blocks=4, resamples=5))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def in_files(folder: Path) -> None:
    """Divide a folder's weights among three files and an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{place % 3}.safetensors" for place, name in enumerate(weights)}
    for file in set(places.values()):
        some = {name: weight for name, weight in weights.items() if places[name] == file}
        save_file(some, folder / file, {"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def spoil(folder: Path, rng: random.Random) -> str:
    """Do something to a folder; says what."""
    kind = rng.random()
    names = sorted(path.name for path in folder.iterdir())
    if kind < 0.45:
        name = rng.choice([name for name in JSON if name in names])
        content = json.loads((folder / name).read_text())
        for _ in range(rng.choice((1, 1, 1, 3))):
            content = disturbed(content, rng)
        (folder / name).write_text(json.dumps(content))
        return f"{name} disturbed"
    if kind < 0.65:
        path = folder / rng.choice(names)
        path.write_bytes(damaged(path.read_bytes(), rng))
        return f"{path.name} damaged"
    if kind < 0.75:
        path = folder / rng.choice(names)
        path.unlink()
        if rng.random() < 0.3:
            path.mkdir()
        return f"{path.name} gone"
    path = folder / rng.choice([name for name in names if name.endswith(".safetensors")])
    weights = load_file(path)
    name = rng.choice(sorted(weights))
    if kind < 0.88:
        for lost in [name, *rng.sample(sorted(weights), rng.choice((0, 1, 5)))]:
            weights.pop(lost, None)
        weights.setdefault("strange", load_file(path)[name])
    elif kind < 0.95:
        weights[name] = weights[name].flatten()[: rng.randrange(1, 40)].clone()
    else:
        weights[name].view(-1)[0] = rng.choice((float("nan"), float("inf"), 1e30))
    save_file(weights, path, {"format": "pt"})
    return f"{path.name}: {name} changed"


def report(folder: Path, place: Path, out: Path) -> Any:
    return simsmoe(
        *("collapse-report", str(folder), "--text", str(place / "text.txt"), "--tokens", "16"),
        *("--format", "json", "--no-ablation", "--out", str(out)),
    )


def test_spoiled_folders(place: Path, tmp_path: Path) -> None:
    succeeded = 0
    for number, rng in enumerate(cases(60, seed=15)):
        kind = rng.choice(KINDS)
        folder = Path(shutil.copytree(place / kind, tmp_path / f"{kind}-{number}"))
        what = spoil(folder, rng) if number % 20 else "nothing"
        out = tmp_path / f"out-{number}"
        outcome = report(folder, place, out)
        try:
            require_clear(outcome, (0, EXIT_DATA) if number % 20 else (0,))
        except AssertionError as error:
            raise AssertionError(f"case {number}, {what}: {error}") from None
        if outcome.code == 0:
            succeeded += 1
            assert str(tmp_path) not in (out / "report.json").read_text()
            assert Report.read(out / "report.json").main.subject.name == folder.name
        else:
            assert not out.exists()
        require_nothing_half_written(tmp_path)
        shutil.rmtree(folder)
        shutil.rmtree(out, ignore_errors=True)
    assert succeeded


def test_a_field_of_config_that_is_wrong_is_named(place: Path, tmp_path: Path) -> None:
    """Any field with any of these values: a report, or one line that names the field, or weights
    that do not fit the configuration."""
    for number, rng in enumerate(cases(30, seed=17)):
        kind = rng.choice(CONFIGURED)
        folder = Path(shutil.copytree(place / kind, tmp_path / f"{kind}-{number}"))
        config = json.loads((folder / "config.json").read_text())
        field, value = rng.choice(sorted(config)), rng.choice(WRONG)
        (folder / "config.json").write_text(json.dumps({**config, field: value}))
        outcome = report(folder, place, tmp_path / "out")
        require_clear(outcome, (0, EXIT_DATA))
        named = (f"config.json says {field}", f"{field} = ", "weights and config.json do not agree")
        if outcome.code and field != "model_type":
            assert any(words in outcome.err for words in named), f"{field} {value}: {outcome.err}"
            assert "Error: " not in outcome.err or f"{field} = " in outcome.err
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_a_lost_or_reshaped_weight_is_never_reported(place: Path, tmp_path: Path) -> None:
    """Any one tensor of a model that is taken away, renamed or cut is noticed."""
    for number, rng in enumerate(cases(30, seed=16)):
        kind = rng.choice(("Mixtral", "Olmoe"))
        folder = Path(shutil.copytree(place / kind, tmp_path / f"lost-{number}"))
        weights = load_file(folder / "model.safetensors")
        name = rng.choice(sorted(weights))
        match rng.randrange(3):
            case 0:
                del weights[name]
            case 1:
                weights[f"{name}x"] = weights.pop(name)
            case _:
                weights[name] = weights[name][:-1].clone()
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        outcome = report(folder, place, tmp_path / "out")
        require_clear(outcome, (EXIT_DATA,))
        assert not (tmp_path / "out").exists()
        shutil.rmtree(folder)
