"""Readers of single values. Each takes a value as the TOML file has it and returns it typed, or raises ValueError with a
sentence that says what is allowed and what was given.

Does not belong here: tables, and where in the file a value stands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from zpipe.config.reading.mistakes import quoted, shown
from zpipe.config.reading.variable_expansion import Expanded

T = TypeVar("T")
Choice = TypeVar("Choice", bound=str)
Number = TypeVar("Number", int, float)
Reader = Callable[[Any], T]

MOST_MESSAGES = 1_000_000_000
"""Such counts are passed on to libzmq, which keeps them as C integers."""
MOST_BYTES = 2**63 - 1
LONGEST_S = 365 * 86400.0
NAME_LENGTH = 40

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_NUMBER_UNIT = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([A-Za-z]*)")
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def refused(allowed: str, given: Any) -> ValueError:
    return ValueError(f"must be {allowed}, not {shown(given)}")


def string(given: Any) -> str:
    if not isinstance(given, str):
        raise refused("a string", given)
    if not given:
        raise refused("a string that is not empty", given)
    return str(given)


def name(given: Any) -> str:
    """Letters, digits, - and _. With a dot in it, `PIPELINE.STAGE.N` could be read in two ways."""
    if not isinstance(given, str) or not _NAME.fullmatch(given) or len(given) > NAME_LENGTH:
        raise refused(f"1 to {NAME_LENGTH} letters, digits, '-' or '_'", given)
    return str(given)


def boolean(given: Any) -> bool:
    if isinstance(given, Expanded) and given in ("true", "false"):
        return given == "true"
    if not isinstance(given, bool):
        raise refused("true or false", given)
    return given


def host_port(given: Any) -> tuple[str, int]:
    """Host and port of "HOST:PORT". An IPv6 host is returned without its brackets."""
    found = _HOST_PORT.fullmatch(given) if isinstance(given, str) else None
    if found is None or int(found[2]) > 65535:
        raise refused('an address such as "127.0.0.1:9464" or "[::1]:9464"', given)
    return found[1].strip("[]"), int(found[2])


def address(given: Any) -> str:
    """HOST:PORT as it was given, or "" for none."""
    if given != "":
        host_port(given)
    return str(given)


def url(given: Any) -> str:
    """The URL of an HTTP server, or "" for none."""
    if not isinstance(given, str) or (given and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", given)):
        raise refused('a URL such as "http://127.0.0.1:4318/v1/traces", or ""', given)
    return str(given)


def choice(*allowed: Choice) -> Reader[Choice]:
    """A reader of one of these words."""

    def read(given: Any) -> Choice:
        for word in allowed:
            if given == word:
                return word
        raise refused(" or ".join(map(quoted, allowed)), given)

    return read


LOG_LEVELS = ("debug", "info", "warning", "error")
log_level = choice(*LOG_LEVELS)


def number_of(
    kind: type[Number], allowed: str, within: Callable[[Number], bool] = lambda value: True
) -> Reader[Number]:
    """A reader of whole numbers (kind int), or of any number (kind float)."""

    def read(given: Any) -> Number:
        value = given
        if isinstance(given, Expanded):
            with suppress(ValueError):
                value = kind(str(given))
        if isinstance(value, bool) or not isinstance(value, int | kind) or not within(value):
            raise refused(allowed, given)
        return kind(value)

    return read


def whole_number(least: int = 1, most: int = MOST_MESSAGES) -> Reader[int]:
    return number_of(int, f"a whole number from {least} to {most}", lambda value: least <= value <= most)


integer = number_of(int, "a whole number")
number = number_of(float, "a number")
fraction = number_of(float, "a number above 0, at most 1", lambda value: 0.0 < value <= 1.0)
rate = number_of(float, "a number above 0, at most 1000000", lambda value: 0.0 < value <= 1e6)


def duration(*, zero: bool = False) -> Reader[float]:
    allowed = (
        'a time such as 5 (seconds), "500ms", "1s", "2m", "1h" or "30d"'
        + (", or 0" if zero else ", above 0")
        + ', at most "8760h"'
    )

    def read(given: Any) -> float:
        seconds = _in_unit(given, _SECONDS)
        if seconds is None or not 0 <= seconds <= LONGEST_S or not (seconds or zero):
            raise refused(allowed, given)
        return float(seconds)

    return read


def _size(least: int) -> Reader[int]:
    allowed = 'a size such as 1000, "4KiB", "64MiB" or "2GB", ' + ("at least 1 byte" if least else "or 0")

    def read(given: Any) -> int:
        value = _in_unit(given, _BYTES)
        if value is None or value != int(value) or not least <= value <= MOST_BYTES:
            raise refused(allowed, given)
        return int(value)

    return read


size = _size(least=1)
size_or_zero = _size(least=0)


def show_size(count: int) -> str:
    """A size as it would be written in a config."""
    for unit in ("GiB", "MiB", "KiB"):
        if count and count % _BYTES[unit] == 0:
            return f"{count // _BYTES[unit]}{unit}"
    return f"{count}B"


def show_duration(seconds: float) -> str:
    """A duration as it would be written in a config."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:.0f}{unit}"
    return f"{seconds * 1000:g}ms" if 0 < seconds < 1 else f"{seconds:g}s"


def _in_unit(given: Any, units: Mapping[str, float]) -> float | None:
    """`given` in the base unit, which is the unit named "" in `units`. None if it is no number with one of the units."""
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if isinstance(given, float):
        return given if math.isfinite(given) else None
    if not isinstance(given, str) or not (found := _NUMBER_UNIT.fullmatch(given.strip())):
        return None
    digits, unit = found.groups()
    if unit not in units:
        return None
    return (float(digits) if "." in digits else int(digits)) * units[unit]
