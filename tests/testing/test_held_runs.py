"""Plugins that hold messages, tested in process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zpipe
from zpipe.testing import stage

WINDOWS = Path(__file__).parents[2] / "examples" / "windows.py"


class Pairs(zpipe.Map[None]):
    """Two messages a pair; what is left over waits for the next tick."""

    def __init__(self) -> None:
        self.held: list[zpipe.Message] = []

    def process(self, message: zpipe.Message, context: zpipe.Context[None]) -> Any:
        context.hold(message)
        self.held.append(message)
        return self.pair(context) if len(self.held) == 2 else None

    def tick(self, context: zpipe.Context[None]) -> Any:
        return self.pair(context) if self.held else None

    def pair(self, context: zpipe.Context[None]) -> Any:
        held, self.held = self.held, []
        return context.release([message.payload for message in held], held)


def test_a_window_and_a_kill() -> None:
    with stage(str(WINDOWS), {"size": 3}) as s:
        s.send_many({"id": n} for n in range(4))
        assert s.out == [{"window": 0, "count": 3, "sum": 3}]
        s.kill()
        s.send_many({"id": n} for n in (4, 5))
        assert s.out[-1] == {"window": 1, "count": 3, "sum": 12}
        assert max(s.attempts.values()) == 2, "what was held came again"


def test_a_tick_on_the_virtual_clock() -> None:
    with stage(Pairs, tick="5s") as s:
        s.send_many([1, 2, 3])
        assert s.out == [[1, 2]]
        s.advance("6s")
        assert s.out == [[1, 2], [3]]


class Rest(Pairs):
    def tick(self, context: zpipe.Context[None]) -> Any:
        return None

    def flush(self, context: zpipe.Context[None]) -> Any:
        return self.pair(context) if self.held else None


def test_a_drain_flushes() -> None:
    with stage(Rest) as s:
        s.send_many([1, 2, 3])
        s.drain()
        assert s.out == [[1, 2], [3]]
