"""`zpipe monitor --web`: the screen in a real browser."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import aiohttp
import pytest
from chromium import chromium
from ports import free_ports

CONFIG = """
[pipeline]
name = "watched"
[telemetry]
interval = "250ms"
[stages.make]
plugin = "generate"
options = { rate = 100 }
[stages.sink]
input = "make"
plugin = "discard"
"""


Serve = Callable[[], tuple[subprocess.Popen[bytes], str]]


@pytest.fixture
def config(home: Path) -> Path:
    path = home / "watched.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def serve(config: Path) -> Iterator[Serve]:
    """Starts to serve the screen, and says where."""
    with ExitStack() as stack:

        def serve() -> tuple[subprocess.Popen[bytes], str]:
            address = f"127.0.0.1:{free_ports(1)[0]}"
            command = [sys.executable, "-m", "zpipe", "monitor", str(config), "--web", address]
            server = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
            stack.callback(server.kill)
            deadline = time.monotonic() + 60.0
            while True:
                with suppress(OSError):
                    urllib.request.urlopen(f"http://{address}/", timeout=5.0).close()
                    return server, f"http://{address}/"
                assert server.poll() is None and time.monotonic() < deadline, "nothing is served"
                threading.Event().wait(0.05)

        yield serve


@pytest.fixture
def url(serve: Serve) -> Iterator[str]:
    """Where the screen is served."""
    server, url = serve()
    yield url
    server.send_signal(signal.SIGINT)
    assert server.wait(60.0) == 0


@pytest.mark.needs("chromium")
def test_the_screen_is_seen_and_operated_in_a_browser(config: Path, url: str, home: Path) -> None:
    async def look() -> None:
        async with chromium(home / "browser") as page:
            await page.open(url)
            seen = await page.wait(
                lambda text: "make is the limit" in text and text.count("●") == 2 and bool(re.search(r"\d\d/s", text)),
                "the pipeline runs, in figures",
            )
            assert max(map(len, seen.splitlines())) > 100, "it is as wide as the page"
            asked = await page.evaluate("JSON.stringify(performance.getEntriesByType('resource').map(one => one.name))")
            assert len(asked := json.loads(asked)) >= 3 and all(one.startswith(url) for one in asked), asked
            assert await page.evaluate("document.fonts.check('16px \"Roboto Mono\"')"), (
                "the font is served with the page"
            )
            await page.press("p")
            await page.wait(lambda text: "Pause make?" in text, "a key arrives, and it asks first")
            await page.press("y")
            await page.wait(lambda text: "make is paused" in text, "it is paused")

    with ExitStack() as stack:
        for stage in ("sink", "make"):
            command = [sys.executable, "-m", "zpipe", "stage", str(config), stage]
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(process.kill)
        asyncio.run(look())


def test_no_other_web_site_may_operate_it(url: str) -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    for path, headers in (
        ("ws", upgrade | {"Origin": "http://example.org"}),  # a site that is open in the same browser
        ("ws", upgrade | {"Origin": "http://example.org", "Host": "example.org"}),  # its name now means this machine
        ("", {"Host": "example.org"}),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(url + path, headers=headers), timeout=60.0)
        refused.value.close()
        assert refused.value.code == 403, headers


def test_it_ends_while_a_page_is_open_that_does_not_answer(config: Path, serve: Serve) -> None:
    server, url = serve()

    async def stay() -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(url + "ws") as page:
            assert await page.receive_bytes(timeout=60.0), "the screen has begun"
            server.send_signal(signal.SIGINT)
            assert server.wait(30.0) == 0, "it waits for the page"

    asyncio.run(stay())


def test_pages_refer_to_the_address_that_the_browser_came_by(url: str) -> None:
    named = url.replace("127.0.0.1", "localhost")
    request = urllib.request.Request(url, headers={"Host": named.split("/")[2]})
    with urllib.request.urlopen(request, timeout=60.0) as answer:
        page = answer.read().decode()
    assert "zpipe monitor watched" in page
    assert set(re.findall(r"https?://([^/\"]+)", page)) == {named.split("/")[2]}, "it asks nobody outside"
    assert named.replace("http", "ws") + "ws" in page and "127.0.0.1" not in page
