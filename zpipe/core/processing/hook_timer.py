"""When the plugin's `tick` and `flush` are called, the hooks that get no messages.

Must not live here: the calls, and what comes of them. Both may release messages that the plugin holds.

*Tick* comes at whole multiples of its interval by the machine's clock, as everything periodic does, and is never called twice at
the same time. *Flush* comes once nothing more is to be worked on: at the end of the stream, or before this instance leaves. It
comes again if messages came after it, and a second after one that failed.
"""

from __future__ import annotations

from typing import Literal

from zpipe.core.intervals import following

NEVER = float("inf")
AGAIN_S = 1.0
"""After a flush that failed, until the next."""

HookName = Literal["tick", "flush"]


class HookTimer:
    """`tick_s`: None without a tick. `flushes`: there is a flush."""

    def __init__(self, tick_s: float | None, flushes: bool, now: float) -> None:
        self._tick_s = tick_s
        self._flushes = flushes
        self._tick_at = NEVER if tick_s is None else following(now, tick_s)
        self._flush_at = 0.0
        self._flushed_at_count = -1
        self._calling = False

    def owes_flush(self, received: int) -> bool:
        """A flush is due before the end, or a hook is being called. `received`: messages that the stage has had in all."""
        return self._calling or (self._flushes and self._flushed_at_count != received)

    def due(self, now: float, ending: bool, received: int) -> HookName | None:
        """The hook to call now. `ending`: all that came is worked on, and nothing more comes."""
        if self._calling:
            return None
        if ending and self._flush_at <= now and self.owes_flush(received):
            return "flush"
        return "tick" if self._tick_at <= now else None

    def next_at(self, now: float) -> float:
        """When `due` should be asked although nothing happens."""
        if self._calling:
            return NEVER
        return min(self._tick_at, self._flush_at if self._flush_at > now else NEVER)

    def begin(self) -> None:
        self._calling = True

    def done(self, hook: str, failed: bool, leaving: bool, now: float, received: int) -> None:
        """The call is over. A flush that failed is not tried again by an instance that leaves: others get what it holds."""
        self._calling = False
        if hook == "tick":
            assert self._tick_s is not None
            self._tick_at = following(now, self._tick_s)
        elif failed and not leaving:
            self._flush_at = now + AGAIN_S
        else:
            self._flushed_at_count = received
