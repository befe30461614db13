"""`dedupe`: passes on the first message with a key, and drops those that follow it within a time.

A key is what the fields in `key` have together, or without `key` the whole payload. A window of an hour is counted from
the first message; then a message with the key passes, and begins another. The window is in SQLite in the folder of the
stage's state, so it survives crashes and restarts; `--fresh` empties it. Each instance has a window of its own, so the
stage has one. With `batch` it is several times as quick.

| fault | what follows |
|---|---|
| a field of the key is missing | a dead letter |
| the disk is full, or cannot be written | the stage waits |

**Redelivery.** The message that was the first with its key passes again when it is delivered again, since nobody knows
what had become of it; others with the key are dropped. So the sink after it gets no key from two messages, and should
store by id or by key as after any stage.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from threading import Lock
from typing import Annotated, Any

from zpipe import DROP, BatchMap, Context, Duration, Message, Reject, override
from zpipe.errors import OperatorError
from zpipe_plugins.seen_keys import SeenKeys, digest


@dataclass
class Options:
    key: Annotated[list[str], "fields that are the same in messages of which one passes; left out: all"] = field(
        default_factory=list
    )
    window: Annotated[Duration, "how long a key counts after its first message"] = 3600.0
    most: Annotated[int, "how many keys are kept, the newest ones"] = 1_000_000

    def __post_init__(self) -> None:
        if not self.window > 0:
            raise ValueError(f"window is {self.window}: allowed is any time above 0")
        if self.most < 1:
            raise ValueError(f"most is {self.most}: allowed is 1 or more")


class Dedupe(BatchMap[Options]):
    def __init__(self) -> None:
        self._lock = Lock()
        self._seen: SeenKeys | None = None

    @override
    def open(self, context: Context[Options]) -> None:
        if context.instances > 1:
            raise OperatorError("each instance would have a window of its own: set instances = 1")
        try:
            self._seen = SeenKeys(context.state_dir / "seen.db", context.options.window, context.options.most)
        except sqlite3.Error as error:
            raise OperatorError(f"{context.state_dir}: {error}") from error

    @override
    def close(self, context: Context[Options]) -> None:
        if self._seen is not None:
            self._seen.close()

    @override
    def process(self, message: Message, context: Context[Options]) -> Any:
        return self.process_batch([message], context)[0]

    @override
    def process_batch(self, messages: list[Message], context: Context[Options]) -> list[Any]:
        assert self._seen is not None
        names = context.options.key
        answers: list[Any] = [_key(names, message.payload) for message in messages]
        found = [n for n, key in enumerate(answers) if isinstance(key, bytes)]
        with self._lock:
            firsts = self._seen.first([(answers[n], messages[n].id) for n in found])
        for n, first in zip(found, firsts, strict=True):
            answers[n] = messages[n] if first else DROP
        return answers


def _key(names: list[str], payload: Any) -> bytes | Reject:
    if not names:
        return digest(payload)
    missing = names if not isinstance(payload, dict) else [name for name in names if name not in payload]
    if missing:
        return Reject(f"field {missing[0]!r}, which is part of the key, is missing")
    return digest([payload[name] for name in names])
