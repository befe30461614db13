"""A real browser: headless Chromium, told what to do over its DevTools protocol. Its tests need "chromium"."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import needs

DEADLINE_S = 60.0
SIZE = (1200, 800)
SHIFT = 8
"""Has a terminal that reports the mouse to its program select text instead."""


class Page:
    """The one page of a browser."""

    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self._connection, self._calls = connection, 0

    async def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._calls += 1
        await self._connection.send_json({"id": self._calls, "method": method, "params": parameters})
        while True:
            answer = await self._connection.receive_json()
            if answer.get("id") == self._calls:
                found: dict[str, Any] = answer["result"]
                return found

    async def open(self, url: str) -> None:
        await self._call("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> Any:
        found = await self._call("Runtime.evaluate", expression=expression, awaitPromise=True)
        return found["result"].get("value")

    async def press(self, key: str) -> None:
        await self._call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        await self._call("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def terminal(self) -> str:
        """What is on the screen. It is painted on a canvas, so it is selected with the mouse, as a user does who copies it."""
        right, bottom = SIZE[0] - 1, SIZE[1] - 1
        for kind, x, y in (("mousePressed", 1, 1), ("mouseMoved", right, bottom), ("mouseReleased", right, bottom)):
            await self._call(
                "Input.dispatchMouseEvent",
                **{"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1, "modifiers": SHIFT},
            )
        return str(await self.evaluate("document.querySelector('.xterm-helper-textarea')?.value ?? ''"))

    async def wait(self, condition: Callable[[str], bool], what: str) -> str:
        """The first screen of which the condition holds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + DEADLINE_S
        while not condition(text := await self.terminal()):
            assert loop.time() < end, f"not within {DEADLINE_S:g} s: {what}\n{text}"
            await asyncio.sleep(0.1)
        return text


@asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Page]:
    """Starts a browser that keeps its files in `folder`."""
    found = next(filter(None, map(shutil.which, needs.CHROMIUM)))
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={folder}")
    process = await asyncio.create_subprocess_exec(
        found,
        *flags,
        f"--window-size={SIZE[0]},{SIZE[1]}",
        "about:blank",
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port = await _port(folder / "DevToolsActivePort", process)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                url = next(page["webSocketDebuggerUrl"] for page in await answer.json() if page["type"] == "page")
            async with session.ws_connect(url, max_msg_size=0) as connection:
                yield Page(connection)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what is installed may be a script that starts the browser
        await process.wait()


async def _port(file: Path, process: asyncio.subprocess.Process) -> str:
    """Where the browser listens, once it has said so in that file."""
    loop = asyncio.get_running_loop()
    end = loop.time() + DEADLINE_S
    while not (file.exists() and "\n" in (text := file.read_text())):
        assert process.returncode is None and loop.time() < end, "the browser does not start"
        await asyncio.sleep(0.05)
    return text.splitlines()[0]
