"""A windowed count that survives `kill -9` at every point: a window is counted when all of its records are held."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import zpipe


@dataclass
class Options:
    size: int  # records with ids n * size to (n + 1) * size - 1 are window n


class Windows(zpipe.Map[Options]):
    def __init__(self) -> None:
        self.held: dict[int, dict[int, list[zpipe.Message]]] = defaultdict(lambda: defaultdict(list))

    @zpipe.override
    def process(self, message: zpipe.Message, context: zpipe.Context[Options]) -> Any:
        context.hold(message)
        id, size = message.payload["id"], context.options.size
        window = self.held[id // size]
        window[id].append(message)  # one that was read again, after its source was killed, is held beside the first
        return self.release(id // size, context, {"count": size, "sum": sum(window)}) if len(window) == size else None

    @zpipe.override
    def flush(self, context: zpipe.Context[Options]) -> Iterator[Any]:
        # What is not whole at the end has come again after a kill: its window was counted before. An instance that leaves
        # keeps it held, and its next life gets it.
        for window in [] if context.leaving else list(self.held):
            yield self.release(window, context, None)

    def release(self, window: int, context: zpipe.Context[Options], counted: dict[str, int] | None) -> Any:
        messages = [message for held in self.held.pop(window).values() for message in held]
        return context.release({"window": window, **counted} if counted else zpipe.DROP, messages)
