"""A middle stage whose hook is a coroutine, with the same work as the others."""

from __future__ import annotations

from typing import Any

from benchmarks.touch import touch
from zpipe import Context, Message, hookimpl


@hookimpl
async def zpipe_process(message: Message, context: Context) -> Any:
    return touch(message.payload)
