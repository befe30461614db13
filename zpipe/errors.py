"""Errors by who has to act on them, and the exit codes of every command.

May live here: exception types and `ExitCode`. It knows nothing of the rest of zpipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """What a command's exit status says (design: stable, other tools rely on them)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNBALANCED = 3
    DRAIN_TIMEOUT = 4
    NO_PEER = 5


class ZpipeError(Exception):
    """Base of all errors zpipe raises on purpose. `exit_code` is what a command ends with."""

    exit_code = ExitCode.FAILED


class OperatorError(ZpipeError):
    """Something outside zpipe has to be put right: a folder, an address in use, a full disk."""


class PeerError(ZpipeError):
    """A neighbour broke the protocol. It is counted and dropped, never raised through the loop.

    kind, field  of the frame;  peer: the instance that sent it. Each is empty as long as it is not known
    """

    def __init__(self, reason: str, kind: str = "", field: str = "", peer: str = "") -> None:
        super().__init__(reason)
        self.kind = kind
        self.field = field
        self.peer = peer


class NoPeerError(OperatorError):
    """Nobody answers at the address where a stage should be."""

    exit_code = ExitCode.NO_PEER


class TargetError(OperatorError):
    """A command names a stage or instance that the config does not have."""

    exit_code = ExitCode.USAGE


class PluginError(ZpipeError):
    """A plugin is not what zpipe can load: names the plugin, what is wrong and the nearest right name."""

    exit_code = ExitCode.USAGE


class Answer(ZpipeError):
    """What a process hook may raise, or return in place of a payload, to say what is to become of its message."""


class Throttled(Answer):
    """The service that the plugin calls asks to slow down: the message is tried again, which costs none of its attempts.

    retry_after  seconds to wait at least; None: zpipe's own delay, longer each time
    """

    def __init__(self, retry_after: float | None = None, reason: str = "throttled") -> None:
        super().__init__(reason if retry_after is None else f"{reason}: retry after {retry_after:g} s")
        self.retry_after = retry_after


class Retry(Answer):
    """The message is to be tried again, while it has attempts left: after `delay` seconds (None: zpipe's own delay)."""

    def __init__(self, delay: float | None = None, reason: str = "the plugin asks to try again") -> None:
        super().__init__(reason)
        self.delay = delay


class Reject(Answer):
    """The message is a dead letter at once, for this reason: trying again cannot help."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


@dataclass(frozen=True)
class Mistake:
    """One thing wrong in a config.

    file     as the user named it
    line     1-based, or 0 where no line can be named
    key      dotted key path, e.g. "stages.parse.queue.messages"; "" for the file itself
    given    what stands there (None where nothing does)
    problem  what is wrong, and what is allowed, in one sentence
    nearest  the nearest known name, or "" where none is near
    """

    file: str
    line: int
    key: str
    given: Any
    problem: str
    nearest: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        key = f" {self.key}:" if self.key else ""
        hint = f" (did you mean {self.nearest!r}?)" if self.nearest else ""
        return f"{where}:{key} {self.problem}{hint}"


class ConfigError(ZpipeError):
    """Every mistake of a config at once; nothing was started."""

    exit_code = ExitCode.USAGE

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(str(m) for m in mistakes))
        self.mistakes = tuple(mistakes)
