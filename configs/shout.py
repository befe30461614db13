"""A whole plugin in one file: hello.toml names it by its path, so it needs no packaging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zpipe import Context, Message, hookimpl


@dataclass
class Options:
    mark: str = "!"


@hookimpl
def zpipe_options() -> type:
    return Options


@hookimpl
def zpipe_process(message: Message, context: Context) -> dict[str, Any]:
    return {**message.payload, "text": message.payload["text"].upper() + context.options.mark}
