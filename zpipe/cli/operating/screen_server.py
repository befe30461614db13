"""The screen served to browsers: each page that is opened has a process of its own. Does not belong here: the screen.

A page can do all that a terminal can, so nobody but its own pages may open a connection: any web site that the user visits could
otherwise have the browser connect to the loopback address, and drain the pipeline.
"""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import web
from textual_serve.server import Server

PAGE = Path(__file__).parent / "screen_page"
"""The folder of the page, which textual-serve wants to be named app_index.html."""


class ScreenServer(Server):
    """`host` and `port`: where it listens. Pages refer to the address that the browser came by, which may be another name."""

    def __init__(self, command: str, host: str, port: int, title: str) -> None:
        super().__init__(command, host, port, title, templates_path=PAGE)
        self._pages: set[asyncio.Transport] = set()

    def initialize_logging(self) -> None:
        """None: it would tell of each request, and of each browser at length."""

    async def handle_index(self, request: web.Request) -> Any:
        self._check(request)
        self.public_url = f"{request.scheme}://{request.host}"
        return await super().handle_index(request)

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        self._check(request)
        page = request.transport
        assert page is not None
        self._pages.add(page)
        try:
            return await super().handle_websocket(request)
        finally:
            self._pages.discard(page)

    async def on_shutdown(self, app: web.Application) -> None:
        """Ends the screens of open pages: it would be waited for them, and for a browser that does not answer."""
        for page in self._pages:
            page.close()

    def _check(self, request: web.Request) -> None:
        """Raises HTTPForbidden for a page of another site, also for one whose name was made to mean this machine."""
        name = request.url.host or ""
        if _is_loopback(self.host) and not _is_loopback(name):
            raise web.HTTPForbidden(text=f"served to this machine alone, not as {name}\n")
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"{request.scheme}://{request.host}":
            raise web.HTTPForbidden(text=f"a page of {origin} may not operate this screen\n")


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
