"""An HTTP service that allows so many calls at once and answers 429 beyond: what an adaptive limit is for."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from contextlib import suppress


class Service:
    """Runs on a thread of its own. `up` may be changed while it runs; `served` are the times of its good answers."""

    def __init__(self, capacity: int, seconds: float) -> None:
        self.capacity = capacity
        self.up = True
        self.served: list[float] = []
        self.refused = 0
        self.port = 0
        self._seconds = seconds
        self._under_way = 0
        self._chance = random.Random(1)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Service:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def rate(self, since: float, until: float) -> float:
        """Good answers a second."""
        return sum(since <= at < until for at in self.served) / (until - since)

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        connections = asyncio.all_tasks(self._loop)
        for connection in connections:
            connection.cancel()
        if connections:
            self._loop.run_until_complete(asyncio.wait(connections))
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(await self._answer())
                await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def _answer(self) -> bytes:
        if not self.up or self._under_way >= self.capacity:
            self.refused += 1
            return b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"
        self._under_way += 1
        try:
            await asyncio.sleep(self._seconds * self._chance.uniform(0.7, 1.3))
        finally:
            self._under_way -= 1
        self.served.append(time.monotonic())
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"
