"""`http_listen` with a real client and a real server, in this process; the rows of a pipeline are in tests/services."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from ports import free_ports

from zpipe import Message, Secret
from zpipe.config import load
from zpipe.errors import ConfigError, OperatorError
from zpipe.testing import make_context
from zpipe_plugins.web.http_listen import HttpListen, Options


class Listening:
    """The plugin as the daemon has it, and what it has given so far. `finish` is what the pipeline does with each message."""

    def __init__(self, **options: Any) -> None:
        self.url = f"http://127.0.0.1:{(port := free_ports(1)[0])}"
        self.context = make_context(Options(f"127.0.0.1:{port}", **options))
        self.plugin = HttpListen()
        self.given: asyncio.Queue[Message] = asyncio.Queue()
        self.client = httpx.AsyncClient(base_url=self.url, timeout=60)

    async def read(self) -> None:
        async for message in self.plugin.source(self.context):
            self.given.put_nowait(message)

    async def finish(self, *messages: Message) -> None:
        await self.plugin.ack([message.id for message in messages], self.context)

    def post(self, content: str | bytes, kind: str = "application/json", **headers: str) -> Awaitable[httpx.Response]:
        given = {"Content-Type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return asyncio.ensure_future(self.client.post("/", content=content, headers=given))


@asynccontextmanager
async def listening(**options: Any) -> AsyncIterator[Listening]:
    one = Listening(**options)
    await one.plugin.open(one.context)
    reading = asyncio.create_task(one.read())
    try:
        async with one.client:
            yield one
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        await one.plugin.close(one.context)


def runs(test: Callable[[Listening], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with listening(**options) as one:
            await test(one)

    asyncio.run(run())


def test_a_request_is_answered_when_its_message_is_finished() -> None:
    async def test(one: Listening) -> None:
        answer = one.post('{"a": 1}')
        message = await one.given.get()
        assert message.payload == {"a": 1} and message.position is None
        assert not answer.done()  # type: ignore[attr-defined]
        await one.finish(message)
        assert ((await answer).status_code, (await answer).json()) == (200, {"messages": 1})

    runs(test)


def test_a_line_each_is_a_message_each() -> None:
    async def test(one: Listening) -> None:
        answer = one.post('{"n": 0}\n\n{"n": 1}\r\n"x"', "application/x-ndjson; charset=utf-8")
        messages = [await one.given.get() for _ in range(3)]
        assert [m.payload for m in messages] == [{"n": 0}, {"n": 1}, "x"]
        await one.finish(*messages[1:])
        assert not answer.done()  # type: ignore[attr-defined]
        await one.finish(messages[0])
        assert (await answer).json() == {"messages": 3}

    runs(test)


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        ("{", "application/json", "the body is not JSON"),
        ("", "application/json", "the body is not JSON"),
        (b"\xff", "application/json", "the body is not JSON"),
        ("NaN", "application/json", "NaN is no number of JSON"),
        ('"\\ud800"', "application/json", "surrogates not allowed"),
        ("[" * 100_000, "application/json", "the body is not JSON"),
        ("1\n{\n", "application/x-ndjson", "line 2 is not JSON"),
        ("\n", "application/x-ndjson", "no line with a message"),
    ],
)
def test_what_is_not_json_is_400(content: str | bytes, kind: str, words: str) -> None:
    async def test(one: Listening) -> None:
        answer = await one.post(content, kind)
        assert answer.status_code == 400 and words in answer.json()["error"]
        assert one.given.empty()

    runs(test)


def test_sizes_are_bounded() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b'"aaaaaaaa'

    async def test(one: Listening) -> None:
        answer = one.post('"' + "x" * 18 + '"')  # 20 bytes
        await one.finish(await one.given.get())
        assert (await answer).status_code == 200
        assert (await one.post('"' + "x" * 19 + '"')).status_code == 413
        assert (await one.client.post("/", content=chunks())).status_code == 413, "without a Content-Length"

    runs(test, max_body=20)


def test_back_pressure_is_503_with_retry_after() -> None:
    async def test(one: Listening) -> None:
        first, second = one.post("1"), one.post("2")
        messages = [await one.given.get() for _ in range(2)]
        refused = await one.post("3")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "7")
        await one.finish(*messages)
        assert [(await a).status_code for a in (first, second)] == [200, 200]
        many = one.post("1\n2\n3\n", "application/x-ndjson")
        await one.finish(*[await one.given.get() for _ in range(3)])
        assert (await many).status_code == 200, "a request larger than the bound is taken alone"

    runs(test, most=2, retry_after=7.0)


def test_what_takes_too_long_is_504() -> None:
    async def test(one: Listening) -> None:
        answer = await one.post("1", Idempotency_Key="k")
        assert answer.status_code == 504 and "still worked on" in answer.json()["error"]
        assert one.given.qsize() == 1

    runs(test, timeout=0.2)


def test_a_key_names_the_messages() -> None:
    async def test(one: Listening) -> None:
        answers = [one.post("1\n2\n", "application/x-ndjson", Idempotency_Key="k") for _ in range(2)]
        messages = [await one.given.get() for _ in range(2)]
        assert [m.id for m in messages] == ["k:0", "k:1"]
        while one.plugin._requests.waiting < 2:
            await asyncio.sleep(0.001)
        await one.finish(*messages)
        assert [(await answer).status_code for answer in answers] == [200, 200] and one.given.empty()

    runs(test)


def test_who_may_send() -> None:
    async def test(one: Listening) -> None:
        assert (await one.post("1")).status_code == 401
        assert (await one.post("1", Authorization="Bearer wrong")).status_code == 401
        answer = one.post("1", Authorization="Bearer right")
        await one.finish(await one.given.get())
        assert (await answer).status_code == 200
        assert (await one.client.post("/other", content="1")).status_code == 404
        other = await one.client.get("/")
        assert (other.status_code, other.headers["Allow"]) == (405, "POST")

    runs(test, token=Secret("right"))


def test_what_is_under_way_when_it_stops_is_answered() -> None:
    async def run() -> None:
        one = Listening()
        await one.plugin.open(one.context)
        reading = asyncio.create_task(one.read())
        async with one.client:
            finished, lost = one.post("1"), one.post("2")
            messages = [await one.given.get() for _ in range(2)]
            reading.cancel()  # a drain, or SIGTERM
            with suppress(asyncio.CancelledError):
                await reading
            await one.finish(messages[0])
            assert (await finished).status_code == 200
            closing = asyncio.create_task(one.plugin.close(one.context))  # type: ignore[arg-type]
            assert (await lost).status_code == 503
            await closing
            with pytest.raises(httpx.ConnectError):
                await one.post("3")

    asyncio.run(run())


def test_an_address_in_use_is_said() -> None:
    async def test(one: Listening) -> None:
        other = HttpListen()
        with pytest.raises(
            OperatorError, match=f"cannot listen on {one.context.options.address}: Address already in use"
        ):
            await other.open(one.context)

    runs(test)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"address": "8080"}, "allowed is HOST:PORT"),
        ({"address": "a:0"}, "allowed is HOST:PORT"),
        ({"address": "0.0.0.0:8080"}, "can be reached by others"),
        ({"address": "[::]:8080"}, "can be reached by others"),
        ({"address": "localhost:80", "path": "x"}, "must start with /"),
        ({"address": "localhost:80", "most": 0}, "most is 0"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    text = f'[pipeline]\nname = "p"\n[stages.in]\nplugin = "http_listen"\noptions = {json.dumps(options)}\n'.replace(
        ": ", " = "
    )
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "p.toml", text=text + '[stages.out]\ninput = "in"\nplugin = "discard"\n')
    assert words in str(caught.value)
