"""A time given on the command line: the same words as in a config. May live here: that parameter type."""

from __future__ import annotations

from typing import Any

import click

from zpipe.config import values


class Time(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """5, 5s, 2m or 250ms, in seconds. `zero`: whether 0 is one."""

    name = "time"

    def __init__(self, zero: bool = False) -> None:
        self._read = values.duration(zero=zero)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
