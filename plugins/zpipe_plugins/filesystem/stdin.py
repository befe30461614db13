"""`stdin`: a source that reads the standard input of `zpipe run`, or of `zpipe stage`, a message for each line.

`zcat access.log.gz | zpipe run -q report.toml | less`. `lines` gives `{"line": number, "text": …}`, `ndjson` the value of
each line; empty lines are passed over there. The pipeline ends when the input does. It is for pipes and files: under
systemd there is no standard input, and at a terminal the stage does not start.

| fault | what follows |
|---|---|
| a line that is not JSON, or longer than `max_line` | a dead letter of this stage; the next line follows |
| standard input is a terminal, or closed | the stage does not start |

**Resume.** There is none: what is read from a pipe cannot be read again. So this is at most once: lines that the stage
has read and not sent when it is killed are lost, and its next life begins where the pipe is, maybe within a line. What it
has sent is kept as after any source.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from zpipe import Context, Size, Source, override
from zpipe.errors import OperatorError
from zpipe.messages import BadRecord
from zpipe_plugins.filesystem.readers import json_value

_BLOCK = 1 << 16
_LOOK_MS = 200
_RAW_KEPT = 64 * 1024

Position = list[int]


@dataclass
class Options:
    format: Annotated[Literal["lines", "ndjson"], "what a message is"] = "lines"
    max_line: Annotated[Size, "a longer line is a dead letter"] = 16 << 20

    def __post_init__(self) -> None:
        if self.max_line < 1:
            raise ValueError(f"max_line is {self.max_line}: allowed is 1 byte or more")


class Stdin(Source[Options, Position]):
    """A position is the time of the start and the number of the line: another life reads other lines, with ids of their own."""

    @override
    def open(self, context: Context[Options]) -> None:
        self._descriptor = int(os.environ.get("ZPIPE_STDIN", "0"))  # `zpipe run` uses the child's own for itself
        try:
            if os.isatty(self._descriptor):
                raise OperatorError(
                    "standard input is a terminal: give it a pipe or a file, as in `zpipe run … < FILE`"
                )
            os.fstat(self._descriptor)
        except OSError as error:
            raise OperatorError(f"there is no standard input: {error.strerror}") from None

    @override
    def source(self, context: Context[Options, Position]) -> Iterator[tuple[Position, Any]]:
        started, most = time.time_ns(), context.options.max_line
        for number, line in enumerate(_lines(self._descriptor, context, most), 1):
            position = [started, number]
            if len(line) > most:
                yield position, BadRecord(f"line {number}: longer than {most} bytes", line[:_RAW_KEPT])
            elif context.options.format == "lines":
                yield position, {"line": number, "text": line.removesuffix(b"\r").decode("utf-8", "replace")}
            elif line.strip():
                yield position, json_value(line, f"line {number}")


def _lines(descriptor: int, context: Context[Options, Position], most: int) -> Iterator[bytes]:
    """Without their ends. Of one that is too long, the first bytes."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    rest, skipping = b"", False
    while not context.stopping.is_set():
        if not poll.poll(_LOOK_MS):
            continue
        block = os.read(descriptor, _BLOCK)
        if not block:
            if rest and not skipping:
                yield rest
            return
        *lines, last = block.split(b"\n")
        for line in lines:
            if not skipping:
                yield rest + line
            rest, skipping = b"", False
        if not skipping:
            rest += last
            if len(rest) > most:
                yield rest
                rest, skipping = b"", True
