"""`notify`: tells people of a message, by mail, Slack, Telegram, ntfy, PagerDuty or one of a hundred other services.

`urls` are those of Apprise (https://github.com/caronc/apprise/wiki), one for each place that is told. They hold
passwords, so they are given as secrets: `urls = ["${NOTIFY_URL}"]`. In `title` and `body`, `{name}` stands for that field
of the payload, and `{payload}` for all of it as JSON. Put `filter` or `dedupe` in front of it, and give it a `limit`,
such as `limit = { rate = 1 }`, so that nobody gets a thousand.

```toml
[stages.tell]
input = "watch"
plugin = "notify"
limit = { rate = 1 }
options = { urls = ["${NOTIFY_URL}"], title = "{host} is down", body = "{host}: {reason}" }
```

| fault | what follows |
|---|---|
| no connection, a service that is down or asks to slow down (4xx of SMTP; 429, 5xx of HTTP) | the stage waits |
| a service that refuses the message | a dead letter with the service's own words |
| a service that refuses the login | the stage ends |
| a field that a text needs is missing | a dead letter |
| an URL that Apprise does not know | the stage does not start |

**Redelivery.** The ids of what was sent are kept, in the folder of the stage's state, for `remember`: what comes again is
not sent again to a place that has it. Only a crash between sending and noting that sends it twice.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from dataclasses import dataclass
from string import Formatter
from threading import Lock
from typing import Annotated, Any

from zpipe import Context, Duration, Message, Reject, Secret, Sink, Throttled, override
from zpipe.errors import OperatorError
from zpipe_plugins.jsontext import json_text
from zpipe_plugins.seen_keys import SeenKeys, digest
from zpipe_plugins.service_plugin import ServiceOptions, ServicePlugin

_WAIT_S = 5.0
_MOST = 1_000_000
_PASSES = re.compile(
    r"\[Errno|timed out|Connection refused|Connection unexpectedly closed|Connection reset|Max retries exceeded"
    r"|Name or service not known|Temporary failure|error=(?:429|5\d\d)|\(4\d\d,"
)
"""In the words of Apprise: what passes by itself. It logs its errors, and returns only that there was one."""
_LOGIN = re.compile(r"\(53[0458],|error=401\b")


@dataclass
class Options(ServiceOptions):
    urls: Annotated[list[Secret], "Apprise URLs, such as `mailtos://user:password@example.com?to=ops@example.com`"]
    body: Annotated[str, "what is sent; `{name}` stands for that field of the payload"] = "{payload}"
    title: Annotated[str, "the subject of a mail, or the first line"] = ""
    remember: Annotated[Duration, "how long it is known what was sent"] = 7 * 86400.0

    def __post_init__(self) -> None:
        if not self.urls:
            raise ValueError("urls is empty: allowed are one or more")
        for name in ("title", "body"):
            _fields_of(name, getattr(self, name))
        if not self.remember > 0:
            raise ValueError(f"remember is {self.remember}: allowed is any time above 0")


class Notify(ServicePlugin[Options], Sink[Options]):
    extra, module = "notify", "apprise"

    def __init__(self) -> None:
        self._lock = Lock()
        self._places: list[Any] = []
        self._sent: SeenKeys | None = None

    @override
    def open(self, context: Context[Options]) -> None:
        import apprise

        for number, url in enumerate(context.options.urls):
            place = apprise.Apprise.instantiate(url.reveal())
            if place is None:
                raise OperatorError(f"urls: number {number + 1} is no URL that Apprise knows")
            place.request_rate_per_sec = 0  # it would sleep for seconds in the call: the stage's `limit` is for that
            self._places.append(place)
        try:
            self._sent = SeenKeys(context.state_dir / "sent.db", context.options.remember, _MOST)
        except sqlite3.Error as error:
            raise OperatorError(f"{context.state_dir}: {error}") from error

    @override
    def close(self, context: Context[Options]) -> None:
        if self._sent is not None:
            self._sent.close()

    @override
    def process(self, message: Message, context: Context[Options]) -> None:
        assert self._sent is not None
        title, body = (_filled(text, message.payload) for text in (context.options.title, context.options.body))
        for number, place in enumerate(self._places):
            key = digest([message.id, context.options.urls[number].reveal()])
            with self._lock:
                if self._sent.has(key):
                    continue
                _send(place, title, body)
                self._sent.first([(key, message.id)])


def _send(place: Any, title: str, body: str) -> None:
    """Raises Throttled or Reject, in the words of the service, if it is not sent."""
    import apprise

    said = _Said()
    apprise.logger.addHandler(said)
    level = apprise.logger.level
    apprise.logger.setLevel(logging.DEBUG)
    try:
        if place.notify(body=body, title=title):
            return
    finally:
        apprise.logger.removeHandler(said)
        apprise.logger.setLevel(level)
    words = "; ".join(said.lines) or f"{place.service_name}: not sent"
    if _LOGIN.search(words):
        raise OperatorError(f"the login is refused: {words}")
    if _PASSES.search(words):
        raise Throttled(_WAIT_S, words)
    raise Reject(words)


class _Said(logging.Handler):
    """What Apprise logs of one try: its warnings, and the exception that it logs as detail."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        if record.levelno >= logging.WARNING or "xception" in text:
            self.lines.append(text)


def _fields_of(option: str, text: str) -> list[str]:
    try:
        found = [
            (name, spec or conversion) for _, name, spec, conversion in Formatter().parse(text) if name is not None
        ]
    except ValueError as error:
        raise ValueError(f"{option} is {text!r}: {error}") from None
    if any(not name or more or not set("[]").isdisjoint(name) for name, more in found):
        raise ValueError(f"{option} is {text!r}: between braces only the name of a field may stand, such as {{id}}")
    return [name for name, _ in found]


def _filled(text: str, payload: Any) -> str:
    made = ""
    for literal, name, _, _ in Formatter().parse(text):
        made += literal
        if name is not None:
            made += _text(payload, name)
    return made


def _text(payload: Any, name: str) -> str:
    if isinstance(payload, dict) and name in payload:
        value = payload[name]
    elif name == "payload":
        value = payload
    else:
        raise Reject(f"field {name!r}, which the text needs, is missing")
    return value if isinstance(value, str) else json_text(value)
