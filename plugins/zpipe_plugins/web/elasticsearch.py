"""`elasticsearch`: indexes each payload as a document of Elasticsearch or OpenSearch, by the bulk API.

A batch is one request, so give the stage a `batch`. A document's `_id` is the id of its message, or what the field `id` of
the payload has, so that a message that comes again overwrites its own document. The index may have a field in it:
`logs-{day}`. `index` overwrites a document, `create` leaves one that is there, as a data stream wants it.

```toml
[stages.store]
input = "read"
plugin = "elasticsearch"
batch = { messages = 1000, timeout = "500ms" }
options = { url = "https://search.example:9200", index = "logs", api_key = "${SEARCH_KEY}" }
```

| fault | what follows |
|---|---|
| no connection, 429, 502, 503, 504, no answer in `timeout`; a document that is refused with 429 or 503 | the stage waits |
| a document that is refused with another status | a dead letter with the service's own words; the others are stored |
| 401, 403, 404, another 4xx for the whole request | the stage ends |
| a payload that is no map, or lacks a field of the index or the id | a dead letter |

**Redelivery.** A document is stored once, by its `_id`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import TYPE_CHECKING, Annotated, Any, Literal

from zpipe import Context, Duration, Message, Reject, Secret, Sink, Throttled, override
from zpipe.errors import OperatorError
from zpipe_plugins.jsontext import json_text
from zpipe_plugins.reconnect import Reconnect
from zpipe_plugins.service_plugin import ServiceOptions, ServicePlugin

if TYPE_CHECKING:
    import httpx

_PASSES = {429, 502, 503, 504}
AGAIN_S = 1.0
_EXISTS = 409
_SHOWN = 300


@dataclass
class Options(ServiceOptions):
    url: Annotated[str, "of the service"]
    index: Annotated[str, "or data stream; `{name}` in it stands for that field of the payload"]
    id: Annotated[str, "the field that is the document's `_id`; left out: the id of the message"] = ""
    action: Annotated[Literal["index", "create"], "overwrite a document that is there, or leave it"] = "index"
    api_key: Annotated[Secret | None, "sent as `Authorization: ApiKey …`"] = None
    user: Annotated[str, "for basic authentication"] = ""
    password: Annotated[Secret | None, "of the user"] = None
    timeout: Annotated[Duration, "for a request"] = 30.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url is {self.url!r}: it must start with http:// or https://")
        if not self.index:
            raise ValueError("index is empty: allowed is the name of an index")
        try:
            self.index_fields()
        except ValueError as error:
            raise ValueError(f"index is {self.index!r}: {error}") from None
        if not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout}: allowed is any time above 0")

    @property
    @override
    def services(self) -> tuple[str, ...]:
        return (self.url,)

    def index_fields(self) -> list[str]:
        return [name for _, name, _, _ in Formatter().parse(self.index) if name is not None]


class _Unavailable(Exception):
    """The service, or the way to it."""


class Elasticsearch(ServicePlugin[Options], Sink[Options]):
    extra, module = "elasticsearch", "httpx"
    _client: Reconnect[httpx.Client]

    @override
    def open(self, context: Context[Options]) -> None:
        import httpx

        options = context.options

        def client() -> httpx.Client:
            headers = {"Content-Type": "application/x-ndjson"}
            if options.api_key is not None:
                headers["Authorization"] = f"ApiKey {options.api_key.reveal()}"
            login = (options.user, options.password.reveal()) if options.user and options.password else None
            return httpx.Client(base_url=options.url, headers=headers, auth=login, timeout=options.timeout)

        faults = (_Unavailable, httpx.TransportError)
        self._client = Reconnect(client, lambda one: one.close(), faults)
        self._fields = options.index_fields()

    @override
    def close(self, context: Context[Options]) -> None:
        self._client.close()

    @override
    def process(self, message: Message, context: Context[Options]) -> Any:
        return self.process_batch([message], context)[0]

    @override
    def process_batch(self, messages: list[Message], context: Context[Options]) -> list[Any]:
        answers: list[Any] = [None] * len(messages)
        lines, sent = [], []
        for index, message in enumerate(messages):
            try:
                lines.append(self._lines(message, context.options))
                sent.append(index)
            except Reject as reject:
                answers[index] = reject
        if lines:
            for index, item in zip(sent, self._bulk("".join(lines)), strict=True):
                answers[index] = _answer(next(iter(item.values())), context.options.action)
        return answers

    def _lines(self, message: Message, options: Options) -> str:
        payload = message.payload
        if not isinstance(payload, dict):
            raise Reject(f"the payload is a {type(payload).__name__}: allowed are maps of fields")
        index = options.index
        if self._fields:
            index = index.format_map({name: _text(payload, name) for name in self._fields})
        id = _text(payload, options.id) if options.id else message.id
        return f"{json.dumps({options.action: {'_index': index, '_id': id}})}\n{json_text(payload)}\n"

    def _bulk(self, body: str) -> list[Mapping[str, Any]]:
        """What became of each document. Raises what stands for whoever is to blame where none was taken."""
        with self._client.use() as client:
            response = client.post("/_bulk", content=body.encode())
            if response.status_code in _PASSES:
                raise _Unavailable(_words(response))
        if response.status_code >= 400:
            raise OperatorError(_words(response))
        items: list[Mapping[str, Any]] = response.json()["items"]
        return items


def _text(payload: Mapping[str, Any], name: str) -> str:
    value = payload.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise Reject(f"field {name!r}, which the document's place needs, is no text and no whole number")
    return str(value)


def _answer(result: Mapping[str, Any], action: str) -> Any:
    """Of one document."""
    status, error = result.get("status", 0), result.get("error") or {}
    if status < 400 or (status == _EXISTS and action == "create"):
        return None
    words = f"{error.get('type')}: {error.get('reason')}" if isinstance(error, dict) else str(error)
    if status in _PASSES:
        return Throttled(AGAIN_S, f"{status} {words}")
    caused = error.get("caused_by") if isinstance(error, dict) else None
    more = f": {caused['reason']}" if isinstance(caused, dict) and caused.get("reason") else ""
    return Reject(f"{status} {words}{more}")


def _words(response: httpx.Response) -> str:
    words = " ".join(response.text[:_SHOWN].split())
    return f"{response.status_code} {response.reason_phrase} from {response.url}" + (f": {words}" if words else "")
