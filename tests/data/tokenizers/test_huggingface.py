"""Tokenizer huggingface: the ids of the library, in blocks too, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from simsmoe_cli.data.tokenizers import huggingface
from simsmoe_cli.data.tokenizers.huggingface import HuggingFaceTokenizer, open_given
from simsmoe_cli.data.tokenizers.incremental_decode import TextStream
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE, UserError
from tests.data.tokenizers.huggingface_files import STYLES, model_folder, trained
from tests.data.tokenizers.texts import PROSE, chunks_of

AWKWARD = "  Caf\u00e9 \U0001f642 12345678\n\n\n   x\t\t<s> <|user|> \u5b57\u7b26 e\u0301 \ufb01\n"


@pytest.fixture(scope="module")
def library_and_ours() -> dict[str, tuple[tokenizers.Tokenizer, HuggingFaceTokenizer]]:
    made = {style: trained(style, PROSE) for style in STYLES}
    return {
        style: (fast, HuggingFaceTokenizer.load(fast.to_str().encode()))
        for style, fast in made.items()
    }


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "WINDOW", 3000)
    monkeypatch.setattr(huggingface, "OVERLAP", 800)
    monkeypatch.setattr(huggingface, "MOST_WINDOW", 50_000)


def whole(fast: tokenizers.Tokenizer, text: str) -> list[int]:
    """The ids that the library itself gives the whole text, without special tokens."""
    plain = tokenizers.Tokenizer.from_str(fast.to_str())
    plain.no_truncation()
    ids: list[int] = plain.encode(text, add_special_tokens=False).ids
    return ids


def in_blocks(tokenizer: HuggingFaceTokenizer, text: str, size: int) -> list[int]:
    parts = list(tokenizer.encode_blocks(chunks_of(text.encode(), size)))
    assert len(parts) > 1
    return [int(token) for token in np.concatenate(parts)]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.usefixtures("small_windows")
def test_blocks_have_the_ids_of_the_whole(
    library_and_ours: dict[str, tuple[tokenizers.Tokenizer, HuggingFaceTokenizer]], style: str
) -> None:
    fast, ours = library_and_ours[style]
    lines = PROSE[:40_000].splitlines(keepends=True)
    awkward = "".join(line + AWKWARD * (number % 3 == 0) for number, line in enumerate(lines))
    runs = PROSE[:5000] + "\n" * 3001 + " " * 1999 + "7" * 4001 + "a" * 2500 + PROSE[:5000]
    for text in (PROSE[:40_000], PROSE[:40_000].replace("\n", " "), awkward, runs):
        expected = whole(fast, text)
        assert ours.encode(text).tolist() == expected
        for size in (700, 9001):
            assert in_blocks(ours, text, size) == expected


@pytest.mark.parametrize("style", STYLES)
def test_blocks_of_real_text_have_the_ids_of_the_whole(style: str, shared: Path) -> None:
    for name in ("tinyshakespeare/input.txt", "enwik8/enwik8_prefix"):
        path = shared / "data" / name
        text = path.read_bytes()[:700_000].decode("utf-8", errors="ignore")
        fast = trained(style, text[:150_000], 1500)
        ours = HuggingFaceTokenizer.load(fast.to_str().encode())
        assert in_blocks(ours, text, 1 << 20) == whole(fast, text)


@pytest.mark.parametrize("style", STYLES)
def test_the_vocabulary_has_the_added_tokens(
    library_and_ours: dict[str, tuple[tokenizers.Tokenizer, HuggingFaceTokenizer]], style: str
) -> None:
    fast, ours = library_and_ours[style]
    assert ours.vocab_size == fast.get_vocab_size(with_added_tokens=True)
    last = ours.vocab_size - 1
    assert ours.token_bytes(last) == b"<|user|>"
    assert ours.encode("<|user|>").tolist()[-1] == last
    assert HuggingFaceTokenizer.load(ours.dump()).vocab_size == ours.vocab_size
    with pytest.raises(ValueError, match="ids must lie in"):
        ours.decode([ours.vocab_size])


def test_ids_with_gaps_count_up_to_the_largest() -> None:
    fast = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 262_143}, unk_token="a"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    ours = HuggingFaceTokenizer.load(fast.to_str().encode())
    assert (ours.vocab_size, ours.dtype.str) == (262_144, "<u4")
    assert ours.encode("a b").tolist() == [0, 262_143]
    assert ours.token_bytes(5) == b""


@pytest.mark.parametrize("style", STYLES)
def test_text_is_streamed_as_it_is_decoded(
    library_and_ours: dict[str, tuple[tokenizers.Tokenizer, HuggingFaceTokenizer]], style: str
) -> None:
    _, ours = library_and_ours[style]
    ids = ours.encode(AWKWARD + PROSE[:300]).tolist()
    stream = TextStream(ours)
    pieces = [*(stream.feed(token) for token in ids), stream.finish()]
    assert "".join(pieces) == ours.decode(ids)
    assert "\ufffd" not in "".join(pieces)
    if style in ("gpt2", "llama3"):
        assert "".join(pieces) == AWKWARD + PROSE[:300]
        assert b"".join(map(ours.token_bytes, ids)) == (AWKWARD + PROSE[:300]).encode()
    if style in ("mistral", "llama2"):
        content = b"".join(map(ours.token_bytes, ids)).decode()
        assert content.lstrip() == (AWKWARD + PROSE[:300]).lstrip()


def test_an_unfinished_character_is_given_out_at_the_end(
    library_and_ours: dict[str, tuple[tokenizers.Tokenizer, HuggingFaceTokenizer]],
) -> None:
    _, ours = library_and_ours["gpt2"]
    stream = TextStream(ours)
    first, *_ = ours.encode("\U0001f642").tolist()
    assert (stream.feed(first), stream.finish()) == ("", "\ufffd")


def test_text_without_a_token_is_an_error_where_there_is_no_unknown_token() -> None:
    fast = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="<unk>"))
    ours = HuggingFaceTokenizer.load(fast.to_str().encode())
    assert ours.encode("a").tolist() == [0]
    with pytest.raises(UserError, match="cannot encode the text: ") as caught:
        ours.encode("b")
    assert caught.value.code == EXIT_DATA


@pytest.mark.usefixtures("small_windows")
def test_text_without_a_place_to_divide_it_is_an_error() -> None:
    fast = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    ours = HuggingFaceTokenizer.load(fast.to_str().encode())
    with pytest.raises(UserError, match="no place to divide 50,000 characters") as caught:
        list(ours.encode_blocks([b"x" * 60_000]))
    assert caught.value.code == EXIT_DATA


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b"\xff",
        b'{"model": null}',
        b'{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}',
        b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}}',
        b'{"version": "1.0", "model": {"type": "Unigram", "vocab": [], "unk_id": 7}}',
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        open_given(str(tmp_path))
    assert caught.value.code == EXIT_DATA
    assert caught.value.where == str(tmp_path / "tokenizer.json")
    assert "damaged tokenizer: " in caught.value.what
    assert str(caught.value).isprintable()


def test_changed_files_load_or_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    """Every part of a file replaced in turn: never anything but a UserError, nothing printed."""
    content = json.loads(trained("mistral", PROSE[:20_000]).to_str())
    content["model"]["vocab"] = dict(list(content["model"]["vocab"].items())[:300])
    content["model"]["merges"] = []
    refused: list[UserError] = []
    for key in content:
        for value in (None, {}, [], 7, "x", {"type": "BPE"}, {"type": "Sequence"}):
            changed = json.dumps({**content, key: value}).encode()
            try:
                HuggingFaceTokenizer.load(changed)
            except UserError as error:
                refused.append(error)
    assert all(error.code == EXIT_DATA and str(error).isprintable() for error in refused)
    assert len(refused) > 10
    assert capfd.readouterr() == ("", "")


def test_a_panic_of_the_library_is_one_line() -> None:
    class PanicException(BaseException):
        pass

    fast = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    ours = HuggingFaceTokenizer.load(fast.to_str().encode())

    class Panics:
        def encode(self, text: str, add_special_tokens: bool) -> None:
            raise PanicException("index out\nof bounds")

    ours._fast = Panics()
    with pytest.raises(UserError, match="cannot encode the text: index out of bounds"):
        ours.encode("a")


def test_a_path_is_a_folder_or_a_file(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", "gpt2", PROSE[:20_000])
    one, two = open_given(str(folder)), open_given(str(folder / "tokenizer.json"))
    assert one is not None
    assert two is not None
    assert one.dump() == two.dump() == (folder / "tokenizer.json").read_bytes()
    assert open_given("wordz") is None


@pytest.mark.parametrize(
    ("files", "given", "code", "said"),
    [
        (["config.json"], ".", EXIT_DATA, "no tokenizer.json in it. Give the folder"),
        (["tokenizer.model"], ".", EXIT_DATA, r"only tokenizer.model. Write one with transformers"),
        ([], "some/model", EXIT_DATA, "there is no 'some/model'.*nothing is downloaded"),
        ([], "huggingface", EXIT_USAGE, "does not say which tokenizer.*--tokenizer FOLDER"),
        (["weights.bin"], "weights.bin", EXIT_DATA, "Give the model's folder"),
    ],
)
def test_a_place_without_a_tokenizer_says_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: list[str],
    given: str,
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in files:
        (tmp_path / name).write_bytes(b"\0")
    with pytest.raises(UserError, match=said) as caught:
        open_given(given)
    assert caught.value.code == code


def test_a_missing_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder(tmp_path / "model", "gpt2", PROSE[:20_000])
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"needs the package tokenizers.*simsmoe\[hf\]") as caught:
        open_given(str(folder))
    assert caught.value.code == EXIT_USAGE
