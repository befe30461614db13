"""A splitter and filter: the words of a text, a message each; numbers leave by an outlet of their own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import zpipe


@dataclass
class Options:
    field: str = "text"
    without: tuple[str, ...] = ()


class Split(zpipe.Map[Options]):
    @zpipe.override
    def outlets(self, options: Options) -> Sequence[str]:
        return ("numbers",)

    @zpipe.override
    def process(self, message: zpipe.Message, context: zpipe.Context[Options]) -> Iterator[Any]:
        for word in message.payload[context.options.field].split():
            if word.isdigit():
                yield zpipe.Message(int(word), outlet="numbers")
            elif word not in context.options.without:
                yield word
