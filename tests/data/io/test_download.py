"""Downloads from a server on this machine: hashes, mirrors, and what is kept."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.data.io.download import fetch, url_name
from simsmoe_cli.errors import EXIT_DATA, UserError

CONTENT = bytes(range(256)) * 1000
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


def quiet(stage: str, done: int, total: int | None) -> None:
    """Progress nobody looks at."""


def failure(urls: list[str], into: Path, known_hash: str = "") -> str:
    with pytest.raises(UserError) as caught:
        fetch(urls, into, quiet, known_hash=known_hash, hint="Use --source PATH.")
    assert (caught.value.code, caught.value.hint) == (EXIT_DATA, "Use --source PATH.")
    assert list(into.iterdir()) == []
    return caught.value.what


def test_a_file_is_fetched_and_progress_told(host: Any, tmp_path: Path) -> None:
    host.files["/some%20dir/a%20file.zip"] = CONTENT
    seen: list[tuple[str, int, int | None]] = []
    path = fetch(
        [f"{host.url}/some%20dir/a%20file.zip"],
        tmp_path,
        lambda *told: seen.append(told),
        known_hash=SHA256,
        hint="",
    )
    assert path == tmp_path / "a file.zip"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == ("download", len(CONTENT), len(CONTENT))
    assert len(seen) > 2


@pytest.mark.parametrize("first", ["missing", "wrong content", "nobody there"])
def test_the_next_mirror_is_tried(host: Any, tmp_path: Path, first: str) -> None:
    host.files = {"/good": CONTENT, "/wrong": CONTENT[:-1]}
    urls = {
        "missing": f"{host.url}/none",
        "wrong content": f"{host.url}/wrong",
        "nobody there": "http://127.0.0.1:9/file",
    }
    path = fetch([urls[first], f"{host.url}/good"], tmp_path, quiet, known_hash=SHA256, hint="")
    assert path.read_bytes() == CONTENT


def test_the_error_says_what_every_mirror_answered(host: Any, tmp_path: Path) -> None:
    host.files["/wrong"] = CONTENT[:-1]
    urls = [f"{host.url}/none", f"{host.url}/wrong", "http://127.0.0.1:9/file"]
    what = failure(urls, tmp_path, SHA256)
    assert f"{host.url}/none: 404" in what
    assert f"{host.url}/wrong: wrong sha256" in what
    assert "127.0.0.1:9/file: no connection" in what
    assert "\n" not in what


def test_a_connection_that_breaks_off_is_an_error(host: Any, tmp_path: Path) -> None:
    host.files["/file"] = CONTENT
    host.announce = 1000
    assert f"{host.url}/file: " in failure([f"{host.url}/file"], tmp_path)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://host/%2e%2e", "download"),
        ("http://host/a/%2e%2e%2f%2e%2e%2fevil.zip", "evil.zip"),
        ("http://host/a%00b%0a.txt", "a-b-.txt"),
        ("http://host/" + "x" * 5000 + ".tar.gz", "x" * 93 + ".tar.gz"),
        ("http://[", "download"),
        ("http://host/.hidden", "hidden"),
    ],
)
def test_a_download_is_given_a_plain_name(url: str, name: str) -> None:
    assert url_name(url) == name
