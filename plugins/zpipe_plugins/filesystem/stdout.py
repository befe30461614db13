"""`stdout`: a sink that writes a line to standard output for each message, for programs that read from `zpipe run`.

`ndjson` is a line of JSON each, as the plugin `ndjson` writes it; `lines` is a text each, the payload itself or its field
`field`, whose own ends of lines become spaces. Several instances may write: each line is whole. Logs and progress go to
stderr, and `zpipe run -q` ends without the table of its ledger, so nothing else is among the lines.

| fault | what follows |
|---|---|
| the reader is slow | the stage waits, and so does all before it |
| nobody reads any more | the stage ends |
| (`lines`) a payload without the text | a dead letter |

**Redelivery.** A message is acked once its line is in the pipe: what the reader does not read from there is lost, so
beyond this point it is at most once. A message that is delivered again before that is written again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from zpipe import Context, Message, Reject, Sink, Throttled, override
from zpipe.errors import OperatorError
from zpipe_plugins.filesystem.ndjson import STDOUT, UNREAD, LineOutput
from zpipe_plugins.jsontext import json_text

_AGAIN_S = 1.0


@dataclass
class Options:
    format: Annotated[Literal["ndjson", "lines"], "how a message is written"] = "ndjson"
    field: Annotated[str | None, "(`lines`) the field with the text; left out: the payload is text, or has `text`"] = (
        None
    )


class Stdout(Sink[Options]):
    @override
    def open(self, context: Context[Options]) -> None:
        try:
            self._output = LineOutput(STDOUT)
            unread = self._output.is_unread()
        except OSError as error:
            raise OperatorError(f"there is no standard output: {error.strerror}") from None
        if unread:
            raise OperatorError(UNREAD)

    @override
    def process(self, message: Message, context: Context[Options]) -> None:
        self.process_batch([message], context)

    @override
    def process_batch(self, messages: list[Message], context: Context[Options]) -> None:
        try:
            lines = [_line(message, context.options) for message in messages]
        except Reject as error:
            if len(messages) == 1:
                raise
            raise ValueError(str(error)) from None  # it would be the end of all: this way the batch is halved
        try:
            self._output.write("".join(lines).encode("utf-8", "replace"))
        except BrokenPipeError:
            raise OperatorError(UNREAD) from None
        except OSError as error:
            raise Throttled(_AGAIN_S, f"standard output: {error.strerror or error}") from error


def _line(message: Message, options: Options) -> str:
    payload = message.payload
    if options.format == "ndjson":
        return json_text(payload) + "\n"
    text = payload.get(options.field or "text") if isinstance(payload, dict) else payload
    if not isinstance(text, str):
        raise Reject(f"the text, field {options.field or 'text'!r}, is a {type(text).__name__}")
    return " ".join(text.splitlines()) + "\n"
