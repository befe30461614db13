"""`http_listen` with a real client and a real server, in this process; the rows of a pipeline are in tests/services."""

from __future__ import annotations

import asyncio
import json
import socket
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
from zpipe_plugins.web.http_connections import network_of
from zpipe_plugins.web.http_listen import HttpListen, Options

A_HEADER = b"POST / HTTP/1.1\r\nHost: a\r\n"
HALF_A_HEADER = A_HEADER + b"X-Slow"
A_REQUEST = A_HEADER + b"Content-Length: 1\r\n\r\n1"

Connected = list[asyncio.Task[bytes]]


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

    def ended(self) -> float:
        """Connections that were closed for a limit."""
        return self.context.metrics.counter("ended").value

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


# ---- what connections may take


async def connect(one: Listening, begin: bytes, address: str = "127.0.0.1") -> asyncio.Task[bytes]:
    """A connection that sends `begin` and nothing else, and what comes back until it is closed, by whichever way."""
    reader, writer = await asyncio.open_connection(*one.context.options.place(), local_addr=(address, 0))
    writer.write(begin)
    await writer.drain()

    async def rest() -> bytes:
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    return asyncio.create_task(rest())


@asynccontextmanager
async def connected(one: Listening, count: int, begin: bytes, address: str = "127.0.0.1") -> AsyncIterator[Connected]:
    tasks = [await connect(one, begin, address) for _ in range(count)]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def answers_of(tasks: Connected) -> list[bytes]:
    async with asyncio.timeout(60):
        return await asyncio.gather(*tasks)


async def gets_through(one: Listening, address: str) -> None:
    """A request from `address` is answered with 200."""
    client = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(local_address=address), timeout=60)
    async with client:
        answer = asyncio.create_task(client.post(one.url, content="1"))
        await one.finish(await one.given.get())
        assert (await answer).status_code == 200


def test_headers_that_never_end_are_answered_408() -> None:
    async def test(one: Listening) -> None:
        async with connected(one, 300, HALF_A_HEADER) as tasks:
            for answer in await answers_of(tasks):
                assert answer.startswith(b"HTTP/1.1 408 ") and b"connection: close" in answer, answer
                assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {
                    "error": "the header did not arrive within 0.5 s"
                }
        assert one.ended() == 300
        await gets_through(one, "127.0.0.1")

    runs(test, header_timeout=0.5, idle_per_address=1000)


def test_a_connection_that_sends_nothing_is_closed_without_a_word() -> None:
    async def test(one: Listening) -> None:
        async with connected(one, 3, b"") as tasks:
            assert await answers_of(tasks) == [b""] * 3

    runs(test, header_timeout=0.2)


def test_the_time_of_a_header_begins_anew_after_each_answer() -> None:
    async def test(one: Listening) -> None:
        reader, writer = await asyncio.open_connection(*one.context.options.place())
        writer.write(A_REQUEST)
        await one.finish(await one.given.get())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        await reader.readuntil(b"}\n")
        writer.write(HALF_A_HEADER)
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.close()

    runs(test, header_timeout=0.2)


def test_a_body_that_never_ends_is_answered_408() -> None:
    async def test(one: Listening) -> None:
        async with connected(one, 1, A_HEADER + b"Content-Length: 9\r\n\r\n[1, ") as tasks:
            [answer] = await answers_of(tasks)
            assert answer.startswith(b"HTTP/1.1 408 ") and b"the body did not arrive within 0.2 s" in answer
        assert one.given.empty()

    runs(test, body_timeout=0.2)


@asynccontextmanager
async def deaf(one: Listening) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
    """Sends what it is given, and never reads."""
    loop = asyncio.get_running_loop()
    with socket.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.setblocking(False)
        await loop.sock_connect(made, one.context.options.place())
        async with asyncio.timeout(60):
            yield lambda given: loop.sock_sendall(made, given)


def test_a_client_that_does_not_read_its_answers_is_cut_off() -> None:
    async def test(one: Listening) -> None:
        refused = one.context.metrics.counter("refused")
        async with deaf(one) as send:
            for n in range(1, 1000):  # the kernel takes the first hundred or so answers
                await send(b"GET /other HTTP/1.1\r\n\r\n")
                while refused.value < n and not one.ended():
                    await asyncio.sleep(0.001)
                if one.ended():
                    return
        raise AssertionError("it has got a thousand answers")

    runs(test, path="/" + "p" * 50_000, body_timeout=0.2)


def test_a_client_that_asks_on_without_an_answer_is_cut_off() -> None:
    async def test(one: Listening) -> None:
        async with deaf(one) as send:
            with pytest.raises(ConnectionError):
                while True:
                    await send(b"GET / HTTP/1.1\r\n\r\n" * 1000)
        assert one.ended() == 1

    runs(test)


def test_a_header_without_end_is_answered_431() -> None:
    async def test(one: Listening) -> None:
        reader, writer = await asyncio.open_connection(*one.context.options.place())
        writer.write(A_HEADER)
        answer = asyncio.create_task(reader.readline())
        async with asyncio.timeout(60):
            while not answer.done():
                with suppress(ConnectionError):
                    writer.write(b"X-A: " + b"a" * 8000 + b"\r\n")
                    await writer.drain()
        assert (await answer).startswith(b"HTTP/1.1 431 ")
        writer.close()

    runs(test)


def test_of_one_address_the_connection_that_has_been_idle_for_longest_makes_room() -> None:
    async def test(one: Listening) -> None:
        async with connected(one, 300, HALF_A_HEADER) as tasks:
            assert await answers_of(tasks[:280]) == [b""] * 280
            assert not any(task.done() for task in tasks[280:])
            await gets_through(one, "127.0.0.1")
            await gets_through(one, "127.0.0.2")
        assert one.ended() == 281, "an honest client of the same address has taken the place of one more"

    runs(test, idle_per_address=20, header_timeout=600.0)


def test_no_address_can_take_all_connections_by_idling() -> None:
    async def test(one: Listening) -> None:
        async with connected(one, 30, A_REQUEST) as waiting:
            for _ in waiting:
                await one.given.get()
            async with connected(one, 15, HALF_A_HEADER) as idle:
                assert await answers_of(idle[:5]) == [b""] * 5
                await gets_through(one, "127.0.0.2")
                assert await answers_of(idle[5:6]) == [b""]
                assert not any(task.done() for task in (*waiting, *idle[6:]))

    runs(test, connections=40, idle_per_address=1000)


def test_no_address_can_take_all_connections_by_requests() -> None:
    async def test(one: Listening) -> None:
        async with connected(one, 40, A_REQUEST) as waiting:
            for _ in waiting:
                await one.given.get()
            async with connected(one, 1, A_REQUEST) as more:
                assert await answers_of(more) == [b""]
            await gets_through(one, "127.0.0.2")
            assert await answers_of(waiting[-1:]) == [b""], "of the address with the most the newest goes"
            assert not any(task.done() for task in waiting[:-1])

    runs(test, connections=40)


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1::7", "20010db800000001/64"),
        ("2001:db8:0:1:ffff::", "20010db800000001/64"),
        ("fe80::1%eth0", "fe80000000000000/64"),
    ],
)
def test_the_addresses_of_one_client_count_as_one(peer: str, network: str) -> None:
    assert network_of((peer, 1)) == network


def talk(place: tuple[str, int], request: list[bytes]) -> bytes:
    """Sends all of the request, and only then reads; raises where the connection is reset."""
    with socket.create_connection(place, timeout=60) as made:
        for part in request:
            made.sendall(part)
        return b"".join(iter(lambda: made.recv(1 << 16), b""))


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"Content-Length: 8388608\r\n\r\n", "the body has 8388608 bytes, at most 1000 are taken (max_body)"),
        (b"Transfer-Encoding: chunked\r\n\r\n800000\r\n", "the body has more than 1000 bytes, and no more are taken"),
    ],
)
def test_who_sends_a_body_over_the_limit_to_its_end_gets_the_413(header: bytes, words: str) -> None:
    async def test(one: Listening) -> None:
        end = b"\r\n0\r\n\r\n" if b"chunked" in header else b""
        request = [A_HEADER + header, b"x" * (8 << 20), end]
        answer = await asyncio.to_thread(talk, one.context.options.place(), request)
        assert answer.startswith(b"HTTP/1.1 413 ") and b"connection: close" in answer and words.encode() in answer
        request[0] = request[0].replace(b"/", b"/other", 1)
        assert (await asyncio.to_thread(talk, one.context.options.place(), request)).startswith(b"HTTP/1.1 404 ")

    runs(test, max_body=1000)


def test_what_is_discarded_of_a_body_over_the_limit_is_bounded() -> None:
    async def test(one: Listening) -> None:
        request = [A_HEADER + b"Content-Length: 1000000000000\r\n\r\n", *([b"x" * (1 << 20)] * 1000)]
        with pytest.raises(ConnectionError):
            await asyncio.to_thread(talk, one.context.options.place(), request)

    runs(test)


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
        ({"address": "localhost:80", "idle_per_address": 0}, "idle_per_address is 0"),
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
