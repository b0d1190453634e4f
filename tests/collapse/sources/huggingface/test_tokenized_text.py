"""A text is read with the folder's tokenizer, or it is said why it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from simsmoe_cli.collapse.sources.open_huggingface import open_huggingface
from simsmoe_cli.errors import UserError
from tests.huggingface.models import (
    IDS,
    VOCABULARY,
    opened,
    refusal,
    with_tokenizer,
)


def test_a_text_is_read_with_the_folders_tokenizer(folder: Path, text: Path) -> None:
    source = opened(folder, text)
    assert source.tokens.tolist() == IDS.tolist()
    assert source.corpus == "text.txt"
    assert source.text_of([5, 9]) == ["w5", "w9"]


def test_several_texts_are_read_alike_and_are_domains(folder: Path, tmp_path: Path) -> None:
    short, long, same = (tmp_path / name for name in ("short.txt", "long.txt", "more/short.txt"))
    same.parent.mkdir()
    short.write_text("w3 " * 200)
    long.write_text("w4 " * 900)
    same.write_text("w5 " * 300)
    source = open_huggingface(folder, [short, long, same], device=torch.device("cpu"))
    assert source.corpus == "short.txt, long.txt, short.txt (2)"
    assert source.tokens.tolist() == [3] * 200 + [4] * 200 + [5] * 200
    for (name, part), token in zip(source.domains(), (3, 4, 5), strict=True):
        assert name in source.corpus
        batch = next(iter(part.read(64, 64)))  # type: ignore[attr-defined]
        assert set(batch.ids_T.tolist()) == {token}


def test_a_text_that_cannot_be_read_is_refused(folder: Path, text: Path) -> None:
    text.write_text("")
    assert "text is empty" in refusal(folder, text)
    assert "cannot read the text" in refusal(folder, text.with_name("none.txt"))
    with pytest.raises(UserError, match="--text"):
        open_huggingface(folder, None, device=torch.device("cpu"))


def write(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: [p.unlink() for p in path.glob("tokenizer*")], "no tokenizer in this folder"),
        (write("tokenizer.json", "{"), "tokenizer.json is not JSON"),
        (write("tokenizer.json", "[" * 9999), "tokenizer.json is nested too deep"),
        (write("tokenizer.json", "{}"), "transformers cannot open the tokenizer: KeyError"),
        (write("tokenizer_config.json", "3"), "tokenizer_config.json is not a JSON object"),
        (write("tokenizer_config.json", '{"tokenizer_class": 7}'), "because of tokenizer_config."),
        (write("special_tokens_map.json", '{"unk_token": 3}'), "because of special_tokens_map."),
        (
            lambda path: with_tokenizer(path, words=100),
            f"gives the id 99, but the model knows only 0 to {VOCABULARY - 1}",
        ),
    ],
)
def test_a_tokenizer_that_does_not_fit(
    folder: Path, text: Path, spoil: Callable[[Path], object], said: str
) -> None:
    text.write_text(" ".join(f"w{number}" for number in range(100)))
    spoil(folder)
    found = refusal(folder, text)
    assert said in found
    assert ". Copy the " in found or ": download the folder again" in found


def test_a_text_the_tokenizer_does_not_know_is_noted(folder: Path, text: Path) -> None:
    text.write_bytes(b"w1 w2 \xff w3 \xff\xff other words and more of them " * 20)
    notes = opened(folder, text).notes
    assert "the text is not UTF-8: 60 places of it were replaced" in notes
    assert "73% of the text's tokens are unknown to the tokenizer" in notes
