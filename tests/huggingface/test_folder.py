"""Folders that are no whole model are refused before transformers sees them, in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.huggingface.models import (
    IDS,
    configured,
    opened,
    refusal,
)


def test_a_whole_folder_opens(folder: Path, text: Path) -> None:
    assert opened(folder, text).tokens.tolist() == IDS.tolist()


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors", "new"])
def test_quantised_weights_that_are_not_read_are_named(folder: Path, method: str) -> None:
    configured(folder, quantization_config={"quant_method": method, "bits": 4})
    assert f"the weights are quantised ({method})" in refusal(folder)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def pickled(path: Path) -> None:
    path.rename(path.with_name("pytorch_model.bin"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut, "model.safetensors: damaged or cut short"),
        (lambda path: path.write_bytes(b""), "model.safetensors: damaged or cut short"),
        (lambda path: path.write_bytes(b"\xff" * 999), "model.safetensors: damaged or cut short"),
        (pointer, "a pointer of Git LFS, not weights. Fetch the file: git lfs pull"),
        (pickled, "the weights are pickled (pytorch_model.bin)"),
        (lambda path: path.unlink(), "no weights here"),
        (
            lambda path: path.rename(path.with_name("x.safetensors")),
            "(x.safetensors) are not named",
        ),
        (lambda path: path.rename(path.with_name("x.gguf")), "GGUF, the format of llama.cpp"),
    ],
)
def test_weights_that_cannot_be_read(
    folder: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(folder / "model.safetensors")
    assert said in refusal(folder)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("[]", "model.safetensors.index.json is not a JSON object"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {"lm_head.weight": "x.safetensors"}}', "no metadata"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "/etc/passwd is not a safetensors file"),
        ('{"weight_map": {"a": "/x/a.safetensors"}}', "/x/a.safetensors lies outside the folder"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "../a.safetensors lies outside the folder"),
        ('{"weight_map": {"a": 3}}', "3 is not a safetensors file"),
        (
            json.dumps(
                {"metadata": {}, "weight_map": {f"{n}": f"{n:02}.safetensors" for n in range(12)}}
            ),
            "12 files of the weights missing: 00.safetensors, 01.safetensors, 02.safetensors, "
            "03.safetensors, 04.safetensors, 05.safetensors, 06.safetensors, 07.safetensors, "
            "08.safetensors, 09.safetensors and 2 more. Download the folder again",
        ),
        (
            '{"metadata": {}, "weight_map": {"none": "x.safetensors"}}',
            "that x.safetensors does not hold: none",
        ),
    ],
)
def test_an_index_that_leads_astray(folder: Path, index: str, said: str) -> None:
    (folder / "model.safetensors").rename(folder / "x.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    assert said in refusal(folder)


def test_a_folder_in_several_files_opens(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"part-{place % 2}.safetensors" for place, name in enumerate(weights)}
    for part in set(places.values()):
        save_file({n: w for n, w in weights.items() if places[n] == part}, folder / part)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert len(opened(folder).layers) == 2
    (folder / "part-1.safetensors").unlink()
    assert "1 file of the weights missing: part-1.safetensors" in refusal(folder)


def test_a_pipe_is_not_waited_for(folder: Path, text: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    assert "tokenizer.json is not a regular file" in refusal(folder, text)
