"""`redact`: hides fields and parts of texts, at any depth of a payload: as a stage of its own, or in the `use` of another.

```toml
[stages.store]
input = "parse"
plugin = "sqlite"
use = [{ plugin = "redact", options = { fields = ["password", "email"], texts = ["card"] } }]
options = { path = "out.db", table = "t", key = "id" }
```

In `use`, the plugin of the stage sees the redacted payload, while a dead letter of it has the original, as it came. Names
of fields are compared without regard to case. What is hidden becomes `***`, is left out, or becomes a hash of it: the
same value gives the same hash, so that messages can still be counted by it. Set a `salt`, or whoever knows the values can
find them again.

| fault | what follows |
|---|---|
| a regular expression that is none | `zpipe check` says so; the stage does not start |

**Redelivery.** The same payload gives the same result, with the same id.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from zpipe import Context, Map, Message, Secret, Wrapper, override
from zpipe_plugins.jsontext import json_text

HIDDEN = "***"
_PATTERNS = {
    "email": r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    "card": r"\b\d(?:[ -]?\d){12,18}\b",
    "ip": r"\b(?:\d{1,3}\.){3}\d{1,3}\b|\b(?:[0-9a-fA-F]{1,4}:){3,7}(?::?[0-9a-fA-F]{1,4})+\b",
}


@dataclass
class Options:
    fields: Annotated[list[str], "names of fields that are hidden, wherever in the payload they are"] = field(
        default_factory=list
    )
    texts: Annotated[list[str], "what is hidden in texts: `email`, `card`, `ip`, or a regular expression"] = field(
        default_factory=list
    )
    how: Annotated[
        Literal["mask", "hash", "remove"], "what a hidden field becomes; in texts `remove` leaves nothing"
    ] = "mask"
    salt: Annotated[Secret | None, "goes into each hash"] = None

    def __post_init__(self) -> None:
        if not self.fields and not self.texts:
            raise ValueError("neither fields nor texts says what is to be hidden")
        for text in self.texts:
            try:
                re.compile(_PATTERNS.get(text, text))
            except re.error as error:
                raise ValueError(f"texts has {text!r}, which is no regular expression: {error}") from None


class Redaction:
    def __init__(self, options: Options) -> None:
        self._names = {name.lower() for name in options.fields}
        texts = "|".join(f"(?:{_PATTERNS.get(text, text)})" for text in options.texts)
        self._texts = re.compile(texts) if texts else None
        self._how = options.how
        self._salt = options.salt.reveal().encode() if options.salt is not None else b""

    def of(self, value: Any) -> Any:
        if isinstance(value, dict):
            removes = self._how == "remove"
            return {
                key: self._hidden(entry) if key.lower() in self._names else self.of(entry)
                for key, entry in value.items()
                if not (removes and key.lower() in self._names)
            }
        if isinstance(value, list):
            return list(map(self.of, value))
        if isinstance(value, str) and self._texts is not None:
            return self._texts.sub(lambda found: "" if self._how == "remove" else self._hidden(found[0]), value)
        return value

    def _hidden(self, value: Any) -> str:
        if self._how == "mask":
            return HIDDEN
        plain = value if isinstance(value, str) else json_text(value)
        return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), key=self._key(), digest_size=12).hexdigest()

    def _key(self) -> bytes:
        return hashlib.blake2b(self._salt).digest()


class Redact(Map[Options], Wrapper[Options]):
    @override
    def open(self, context: Context[Options]) -> None:
        self._redaction = Redaction(context.options)

    @override
    def process(self, message: Message, context: Context[Options]) -> Any:
        return Message(self._redaction.of(message.payload))

    @override
    def wrap(self, call: Callable[[list[Message]], Any], messages: list[Message], context: Context[Options]) -> Any:
        for message in messages:
            message.payload = self._redaction.of(message.payload)
        return call(messages)
