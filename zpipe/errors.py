"""The errors that zpipe raises, sorted by who has to act on them, and the exit codes of every command.

What an error tells to install has its words here, too. Does not belong here: an import of anything else in zpipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

DISTRIBUTION = "zpipe-stages"
"""zpipe's name where packages are installed from, as in pyproject.toml. The package index has a `zpipe` of somebody else."""


def install_command(extra: str, pip: str = "pip") -> str:
    """What a user types to have what an extra of zpipe brings."""
    return f"{pip} install '{DISTRIBUTION}[{extra}]'"


class ExitCode(IntEnum):
    """The exit status of a command. Other tools rely on these numbers, so they do not change."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNBALANCED = 3
    DRAIN_TIMEOUT = 4
    NO_PEER = 5


class ZpipeError(Exception):
    """Base of all errors that zpipe raises on purpose. A command that ends with one exits with its `exit_code`."""

    exit_code = ExitCode.FAILED


class OperatorError(ZpipeError):
    """Something outside of zpipe has to be put right, such as a folder, an address in use or a full disk."""


class PeerError(ZpipeError):
    """A neighbour broke the protocol. The frame is counted and dropped; the error never leaves the loop.

    kind   the kind of the frame
    field  the field of the frame that is wrong
    peer   the instance that sent the frame
    Each of them is empty if it is not known.
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
    """A command, or $ZPIPE_HOST, names a stage, an instance or a host that the config does not have."""

    exit_code = ExitCode.USAGE


class PluginError(ZpipeError):
    """A plugin cannot be loaded. The message names the plugin, what is wrong and, for a wrong name, the nearest right one."""

    exit_code = ExitCode.USAGE


class Answer(ZpipeError):
    """Raised by a process hook, or returned in place of a payload, to say what shall become of the message."""


class Throttled(Answer):
    """The service that the plugin calls asks it to slow down. The message is tried again, and this does not use up an attempt.

    Raised by a source or by `zpipe_open`, it says that the service is not there now: the stage waits, and calls it again.

    retry_after  how many seconds to wait at least; None: zpipe chooses the delay, which grows each time
    """

    def __init__(self, retry_after: float | None = None, reason: str = "throttled") -> None:
        super().__init__(reason if retry_after is None else f"{reason}: retry after {retry_after:g} s")
        self.retry_after = retry_after
        self.reason = reason


class Retry(Answer):
    """The message is tried again after `delay` seconds, if it has attempts left. None: zpipe chooses the delay."""

    def __init__(self, delay: float | None = None, reason: str = "the plugin asks to try again") -> None:
        super().__init__(reason)
        self.delay = delay
        self.reason = reason


class Reject(Answer):
    """The message becomes a dead letter at once, for this reason, since trying again cannot help."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class Mistake(NamedTuple):
    """One thing that is wrong in a config.

    file     the path as the user named it
    line     counted from 1; 0 if no line can be named
    key      the dotted key path, such as "stages.parse.queue.messages"; "" for the file as a whole
    given    the value that is there; None if there is none
    problem  one sentence that says what is wrong and what is allowed
    nearest  the nearest known name; "" if none is near
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
    """All mistakes of a config. Nothing was started."""

    exit_code = ExitCode.USAGE

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(str(m) for m in mistakes))
        self.mistakes = tuple(mistakes)
