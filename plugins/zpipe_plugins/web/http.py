"""`http`: sends one request for each message, and adds the answer to the payload. Such a stage should have a `limit`.

It passes on `{…payload, "status", "body"}`, where `body` is the value of JSON, text as text, anything else as bytes, or
`None`. A field in the `url` is quoted, so it cannot change the path or the query around it; only at the very start it is
taken as it is, for payloads that bring their own URL. It is async, so as many requests are under way as `limit.max` and
the service allow.

```toml
[stages.enrich]
input = "read"
plugin = "http"
limit = { max = 100, rate = 500 }
options = { url = "https://api.example.com/items/{id}?full={full}", headers = { Authorization = "Bearer ${API_TOKEN}" } }
```

| fault | what follows |
|---|---|
| a status in `throttle` | the stage waits, as long as `Retry-After` says, and its limit goes down |
| a status in `retry`, another 5xx, no answer in `timeout`, no connection | tries again, then a dead letter |
| a status in `reject`, another 4xx | a dead letter with the service's own words |
| a field that the `url` or the `body` needs is missing | a dead letter |

Statuses below 400 are answers; redirects are not followed.

**Redelivery.** The request is made again. Where that matters, send a field that stays the same, such as a key of
idempotence.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from string import Formatter
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

from zpipe import Context, Duration, Map, Message, Reject, Retry, Throttled, override
from zpipe_plugins.service_plugin import ServiceOptions, ServicePlugin

if TYPE_CHECKING:
    import httpx

CLOSE_S = 0.5
_SHOWN = 200
"""How many characters of an answer become part of a reason, so that the service's own words can be read there."""


@dataclass
class Options(ServiceOptions):
    url: Annotated[str, "`{name}` in it stands for that field of the payload, quoted"]
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"] = "GET"
    body: Annotated[str | None, "`json`, `none` or `field:NAME`; left out: `json` for POST, PUT and PATCH"] = None
    headers: Annotated[dict[str, str], "sent with every request"] = dataclasses.field(default_factory=dict)
    timeout: Annotated[Duration, "for a request as a whole"] = 30.0
    throttle: Annotated[list[int], "statuses that ask to slow down"] = dataclasses.field(
        default_factory=lambda: [429, 503]
    )
    retry: Annotated[list[int], "statuses that use an attempt"] = dataclasses.field(
        default_factory=lambda: [408, 425, 500, 502, 504]
    )
    reject: Annotated[list[int], "statuses that make a dead letter at once, as all other 4xx do"] = dataclasses.field(
        default_factory=list
    )
    field: Annotated[str | None, "the field of the payload that takes the answer; left out: `body`, and `status`"] = (
        None
    )

    def __post_init__(self) -> None:
        self.parts()
        if self.body is None:
            self.body = "json" if self.method in ("POST", "PUT", "PATCH") else "none"
        if self.body not in ("json", "none") and not (self.body.startswith("field:") and self.body[6:]):
            raise ValueError(f"body is {self.body!r}: allowed are 'json', 'none' and 'field:NAME'")
        if not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout}: allowed is any time above 0")
        for name, value in self.headers.items():
            if not name or not (name + value).isprintable() or not (name + value).isascii():
                raise ValueError(f"headers.{name} is {value!r}: allowed is ASCII text without line breaks")
        self._check_statuses()

    def _check_statuses(self) -> None:
        seen: dict[int, str] = {}
        for name in ("throttle", "retry", "reject"):
            for status in getattr(self, name):
                if not 100 <= status <= 599:
                    raise ValueError(f"{name} has {status}: allowed are HTTP statuses, 100 to 599")
                if seen.setdefault(status, name) != name:
                    raise ValueError(
                        f"{status} stands in {seen[status]} and in {name}: write both lists, each without it"
                    )

    def parts(self) -> list[tuple[str, str | None]]:
        """The template as (literal text, name of the field after it or None). Raises ValueError."""
        try:
            found = [(text, name, spec or conversion) for text, name, spec, conversion in Formatter().parse(self.url)]
        except ValueError as error:
            raise ValueError(f"url is {self.url!r}: {error}") from None
        for _, name, more in found:
            if name is not None and (not name or more or not set("[]").isdisjoint(name)):
                raise ValueError(
                    f"url is {self.url!r}: between braces only the name of a field may stand, such as {{id}}"
                )
        starts_with_field = bool(found) and not found[0][0] and found[0][1] is not None
        if not starts_with_field and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url is {self.url!r}: it must start with http:// or https://, or with a field")
        return [(text, name) for text, name, _ in found]

    @property
    @override
    def services(self) -> tuple[str, ...]:
        text, field = self.parts()[0]
        return (text,) if field is None or "/" in text.partition("://")[2] else ()


class Http(ServicePlugin[Options], Map[Options]):
    extra, module = "http", "httpx"

    @override
    async def open(self, context: Context[Options]) -> None:
        import httpx  # it takes 60 ms, and `zpipe check` does not need it

        # The stage limits how many requests are under way. In a smaller pool they would wait where nobody sees it. httpx has a
        # timeout for each step of a request and none for the whole, so the timeout is our own.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.AsyncClient(limits=limits, timeout=None, headers=context.options.headers)
        self._parts = context.options.parts()

    @override
    async def close(self, context: Context[Options]) -> None:
        if hasattr(self, "_client"):  # one that is told to leave while it starts may not be open
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._client.aclose()

    @override
    async def process(self, message: Message, context: Context[Options]) -> Any:
        import httpx

        options = context.options
        url = _url(self._parts, message.payload)
        content, content_type = _content(options, message.payload)
        headers = (
            {"Content-Type": content_type} if content_type and not _has_header(options.headers, "content-type") else {}
        )
        try:
            async with asyncio.timeout(options.timeout):
                response = await self._client.request(options.method, url, content=content, headers=headers)
        except TimeoutError:
            raise Retry(reason=f"no answer from {url} within {options.timeout:g} s") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise Reject(f"{url} is no URL that can be asked: {error}") from None
        except httpx.RequestError as error:
            raise Retry(reason=f"{url}: {type(error).__name__}: {error}") from None
        _judge(options, url, response)
        return _answer(options, message.payload, response)


# What is sent


def _url(parts: list[tuple[str, str | None]], payload: Any) -> str:
    url = ""
    for text, name in parts:
        url += text
        if name is not None:
            value = _value(payload, name)
            # A field at the very start is a URL by itself. Anywhere else it must not add to the path or the query.
            url += quote(value, safe="") if url else value
            if value in (".", ".."):
                raise Reject(f"field {name!r} is {value!r}, which would lead to another path")
    return url


def _value(payload: Any, name: str) -> str:
    value = payload.get(name) if isinstance(payload, Mapping) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        what = "is missing or null" if value is None else f"is a {type(value).__name__}"
        raise Reject(f"field {name!r}, which the url needs, {what}: allowed are text and numbers")
    return str(value)


def _content(options: Options, payload: Any) -> tuple[bytes | None, str]:
    """The body of the request and its content type; (None, "") without one."""
    if options.body == "none":
        return None, ""
    if options.body != "json":
        assert options.body is not None
        name = options.body.removeprefix("field:")
        if not isinstance(payload, Mapping) or name not in payload:
            raise Reject(f"field {name!r}, which is to be sent, is missing")
        payload = payload[name]
        if isinstance(payload, bytes):
            return payload, "application/octet-stream"
        if isinstance(payload, str):
            return payload.encode(), "text/plain; charset=utf-8"
    try:
        return json.dumps(payload, ensure_ascii=False, allow_nan=False).encode(), "application/json"
    except (TypeError, ValueError) as error:
        raise Reject(f"the payload cannot be sent as JSON: {error}") from None


def _has_header(headers: Mapping[str, str], name: str) -> bool:
    return any(key.lower() == name for key in headers)


# What comes back


def _judge(options: Options, url: str, response: httpx.Response) -> None:
    """Raises the Throttled, Retry or Reject that the status stands for. Returns if the response is an answer."""
    status = response.status_code
    reason = f"{status} {response.reason_phrase} from {url}"
    if status in options.throttle:
        raise Throttled(_retry_after(response), reason)
    if status in options.retry or (status >= 500 and status not in options.reject):
        raise Retry(_retry_after(response), _with_words(reason, response))
    if status in options.reject or status >= 400:
        raise Reject(_with_words(reason, response))


def _with_words(reason: str, response: httpx.Response) -> str:
    words = " ".join(response.text[:_SHOWN].split())
    return f"{reason}: {words}" if words else reason


def _retry_after(response: httpx.Response) -> float | None:
    """The seconds of a Retry-After header, which has a number or a date (RFC 9110, section 10.2.3). None if it has neither.

    A date is compared with the service's own Date, if there is one, so that a wrong clock does no harm.
    """
    given = response.headers.get("Retry-After", "").strip()
    if given.isascii() and given.isdigit():
        return float(given[:9])
    at = _date(given)
    if at is None:
        return None
    now = _date(response.headers.get("Date", ""))
    return max(0.0, at - (time.time() if now is None else now))


def _date(given: str) -> float | None:
    try:
        return parsedate_to_datetime(given).timestamp()
    except (ValueError, OverflowError):
        return None


def _answer(options: Options, payload: Any, response: httpx.Response) -> dict[str, Any]:
    known = dict(payload) if isinstance(payload, Mapping) else {"payload": payload}
    body = _body(response)
    return known | ({options.field: body} if options.field else {"status": response.status_code, "body": body})


def _body(response: httpx.Response) -> Any:
    """The body by its type: JSON as the value, text as text, anything else as bytes; None if there is no body."""
    if not response.content:
        return None
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return response.json()
        except ValueError as error:
            raise Retry(reason=f"the answer from {response.url} says that it is JSON, but {error}") from None
    return response.text if kind.startswith("text/") else response.content
