"""What a message of a broker is as a payload, and the other way round. All brokers give their messages as bytes, and
most give headers; here is what the plugins of all of them make of these. Must not live here: anything that only one
broker has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from zpipe import Duration, Reject
from zpipe.messages import BadRecord, Message
from zpipe_plugins.jsontext import json_text, value_of

Format = Literal["json", "text", "bytes"]


@dataclass(kw_only=True)
class ReadOptions:
    format: Annotated[Format, "what a body is: JSON, text in UTF-8, or bytes as they are"] = "json"
    meta: Annotated[
        str | None,
        "a field of the payload for what the broker says besides the body, such as where it was published; left out: "
        "that is not kept. A payload that is no map then stands in the field `body`",
    ] = None
    end_after: Annotated[
        Duration | None, "the source ends when nothing has come for so long; left out: it never ends"
    ] = None


@dataclass(kw_only=True)
class WriteOptions:
    format: Annotated[Format, "what a payload is written as: JSON, text in UTF-8, or bytes as they are"] = "json"


def reader(options: ReadOptions) -> Callable[[bytes, Callable[[], dict[str, Any]]], Any]:
    """read(body, meta): the payload of a body, or a BadRecord. `meta` is called only where the options ask for it."""
    decode, field = _DECODE[options.format], options.meta

    def read(body: bytes, meta: Callable[[], dict[str, Any]]) -> Any:
        try:
            payload = decode(body)
        except (ValueError, RecursionError) as error:
            return BadRecord(f"the body is not {options.format}: {error}", body)
        if field is None:
            return payload
        return {**(payload if isinstance(payload, dict) else {"body": payload}), field: meta()}

    return read


def write_json(payload: Any) -> bytes:
    try:
        return json_text(payload).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Reject(f"the payload cannot be written as JSON: {error}") from None


def write_text(payload: Any) -> bytes:
    if not isinstance(payload, str):
        raise Reject(f"the payload is a {type(payload).__name__}, and format = 'text' writes only text")
    return payload.encode(errors="surrogatepass")


def write_bytes(payload: Any) -> bytes:
    if not isinstance(payload, bytes):
        raise Reject(f"the payload is a {type(payload).__name__}, and format = 'bytes' writes only bytes")
    return payload


_DECODE: dict[str, Callable[[bytes], Any]] = {"json": value_of, "text": lambda body: body.decode(), "bytes": bytes}
WRITE: dict[str, Callable[[Any], bytes]] = {"json": write_json, "text": write_text, "bytes": write_bytes}


def as_text(headers: Mapping[str, Any] | None) -> dict[str, str]:
    """A message's headers as those of a broker, whose values are text."""
    return {name: str(value) for name, value in headers.items() if value is not None} if headers else {}


def item(position: str, payload: Any, headers: Mapping[str, Any] | None) -> Message | tuple[str, Any]:
    """What a source yields for a message of the broker. One that cannot be read has no headers."""
    if not headers or isinstance(payload, BadRecord):
        return position, payload
    return Message(payload, position=position, headers=dict(headers))
