"""The server of `simsmoe monitor --serve`: it needs no network, and obeys its own page only."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientSession, WSServerHandshakeError, web
from aiohttp.test_utils import TestServer
from textual_serve.server import Server

from simsmoe_cli.monitor.serve import MonitorServer


@pytest.fixture
def visit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a visitor of a server whose websocket says that it was opened, and nothing else."""

    async def opened(self: Server, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("opened")
        await socket.close()
        return socket

    monkeypatch.setattr(Server, "handle_websocket", opened)

    def run(visitor: Callable[[ClientSession, TestServer], Awaitable[Any]]) -> Any:
        async def visited() -> Any:
            made = MonitorServer("true", "127.0.0.1", 8000)
            monkeypatch.setattr(made, "on_startup", made.on_shutdown)
            async with TestServer(await made._make_app()) as server, ClientSession() as session:
                return await visitor(session, server)

        return asyncio.run(visited())

    return run


def test_the_page_is_whole_without_a_network(visit: Callable[..., Any]) -> None:
    async def visitor(session: ClientSession, server: TestServer) -> str:
        async with session.get(server.make_url("/")) as page:
            text = await page.text()
        for path in re.findall(r'(?:href|src)="(/[^"]+)"|url\("(/[^"]+)"\)', text):
            async with session.get(server.make_url("".join(path))) as found:
                assert found.status == 200, path
        return text

    text: str = visit(visitor)
    assert text.count("/static/") >= 4
    assert not re.search(r"https?://\w", text)
    assert "simsmoe monitor" in text


@pytest.mark.parametrize(
    ("host", "origin", "obeyed"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000", True),
        ("localhost:8000", "http://localhost:8000", True),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("127.0.0.1:8000", "http://evil.example", False),
        ("127.0.0.1:8000", "http://127.0.0.1:9000", False),
        ("127.0.0.1:8000", "null", False),
        ("127.0.0.1:8000", None, False),
        # A name that its owner points at this machine.
        ("evil.example:8000", "http://evil.example:8000", False),
    ],
)
def test_only_its_own_page_may_open_the_dashboard(
    visit: Callable[..., Any], host: str, origin: str | None, obeyed: bool
) -> None:
    async def visitor(session: ClientSession, server: TestServer) -> str:
        headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
        try:
            async with session.ws_connect(server.make_url("/ws"), headers=headers) as opened:
                return await opened.receive_str()
        except WSServerHandshakeError as error:
            return str(error.status)

    assert visit(visitor) == ("opened" if obeyed else "403")


def test_this_machine_may_be_called_by_its_name() -> None:
    assert MonitorServer("true", "0.0.0.0", 8000).is_own_name(socket.gethostname().upper())
    assert not MonitorServer("true", "0.0.0.0", 8000).is_own_name("0.0.0.0.example")
