"""The dashboard in a browser, by textual-serve, with two departures from its own server.

The page of textual-serve loads a font from the network; our page loads everything from this server.
And textual-serve lets any web page open its websocket, so a foreign page in the same browser could
see the runs and press keys. Here the page must come from this server, under a name that no foreign
domain can have: an address, or this machine's own name.
"""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from textual_serve.server import Server

TEMPLATES = Path(__file__).parent / "templates"


class MonitorServer(Server):
    """Serves the dashboard.

    Args:
        command: a shell command that runs it.
        host: the address to listen at.
        port: the port to listen at.
    """

    def __init__(self, command: str, host: str, port: int):
        everywhere = host in ("0.0.0.0", "::")
        seen_as = socket.gethostname() if everywhere else f"[{host}]" if ":" in host else host
        super().__init__(
            command,
            host=host,
            port=port,
            title="simsmoe monitor",
            public_url=f"http://{seen_as}:{port}",
            templates_path=TEMPLATES,
        )

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        origin = urlsplit(request.headers.get("Origin", ""))
        if origin.netloc != request.host or not self.is_own_name(origin.hostname or ""):
            raise web.HTTPForbidden(text="This monitor is shown on its own page only.")
        return await super().handle_websocket(request)

    def is_own_name(self, name: str) -> bool:
        """Whether a host name is an address or a name of this machine."""
        try:
            ipaddress.ip_address(name)
        except ValueError:
            own = {"localhost", socket.gethostname(), socket.getfqdn(), self.host}
            return name.lower() in {known.lower() for known in own}
        return True
