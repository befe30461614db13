"""Types for the fields of a plugin's options, beside Python's own. Does not belong here: reading a value of one from a config."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, TypeAlias


class Quantity(Enum):
    """Marks a number that a config may write with a unit."""

    DURATION = "duration"
    SIZE = "size"


Duration: TypeAlias = Annotated[float, Quantity.DURATION]
"""Seconds, from 0 on. A config may write "500ms", "30s", "2m", "1h" or "30d", or a number of seconds."""

Size: TypeAlias = Annotated[int, Quantity.SIZE]
"""Bytes, from 0 on. A config may write "4KiB", "64MiB" or "2GB", or a number of bytes."""


class Secret:
    """A text that is not to be seen: printed, logged or put into another text it is `***`. Only `reveal` gives it away.

    A config cannot write it out, but says where it is: "${VAR}", "${file:PATH}" or "${credential:NAME}".
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)
