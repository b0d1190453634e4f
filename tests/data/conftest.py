"""A web server on this machine to fetch corpora from, and a folder of texts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.data.store import TokenStore
from tests.data.stores import TEXT


class Host:
    """A web server: what it serves, and what it was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.announce = 0  # bytes promised beyond those sent
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked.append(self.path)
                content = host.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content) + host.announce))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    host = Host()
    thread = threading.Thread(target=host.server.serve_forever, args=(0.01,))
    thread.start()
    yield host
    host.server.shutdown()
    thread.join()
    host.server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two texts, one of them deep, and much that is none."""
    base = tmp_path / "texts"
    (base / "deep" / "er").mkdir(parents=True)
    (base / ".hidden").mkdir()
    (base / "b.txt").write_text("b")
    (base / "deep" / "er" / "a.md").write_text("é" * 5000)  # 8 KiB end inside a character
    (base / "empty.txt").write_text("")
    (base / "picture.png").write_bytes(b"\x89PNG\0\0")
    (base / "latin1.txt").write_bytes(b"caf\xe9 au lait")
    (base / ".hidden" / "c.txt").write_text("c")
    (base / ".d.txt").write_text("d")
    return base


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    source = tmp_path / "own.txt"
    source.write_text(TEXT)
    return prepare(str(source), tmp_path / "data" / "own")
