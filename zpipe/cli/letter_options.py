"""The options by which `zpipe dead` commands choose letters, and the values they take."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from zpipe.cli.times import Time

if TYPE_CHECKING:
    from zpipe.operate.stored_dead_letters import Selection

_PER_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


class RateType(click.ParamType[float]):
    """N/s, N/m or N/h, as messages a second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, float):
            return value
        number, _, unit = str(value).partition("/")
        try:
            rate = float(number) / _PER_S[unit or "s"]
        except (ValueError, KeyError):
            rate = 0.0
        if not 0 < rate <= 1e6:
            self.fail(f"must be a rate above 0 such as 50/s, 10/m or 1/h, not {value!r}", param, ctx)
        return rate


@dataclass(frozen=True)
class Wanted:
    """What the user asked for. `any`: it is less than everything."""

    names: tuple[str, ...]
    stage: str
    reason: str
    older_s: float | None
    newer_s: float | None

    @property
    def any(self) -> bool:
        return bool(self.names or self.filters)

    @property
    def filters(self) -> bool:
        return bool(self.stage or self.reason or self.older_s is not None or self.newer_s is not None)

    def selection(self) -> Selection:
        from zpipe.operate.stored_dead_letters import Selection
        from zpipe.runtime.dead_letter_table import Filter

        return Selection(self.names, self.stage, Filter(self.reason, self.older_s, self.newer_s))


def wanted_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--stage, --reason, --older, --newer; the command gets them as `wanted`."""

    @click.option("--stage", default="", metavar="STAGE[.N]", help="Of that stage, or instance.")
    @click.option("--reason", default="", metavar="TEXT", help="With that in the reason.")
    @click.option("--older", type=Time(), metavar="TIME", help='That died before so long, such as "1h".')
    @click.option("--newer", type=Time(), metavar="TIME", help="That died since.")
    @functools.wraps(function)
    def call(
        *, stage: str, reason: str, older: float | None, newer: float | None, names: tuple[str, ...] = (), **others: Any
    ) -> Any:
        return function(wanted=Wanted(names, stage, reason, older, newer), **others)

    return call


def selected(function: Callable[..., Any]) -> Callable[..., Any]:
    """LETTER... or filters or --all: one of them must be there, so that no letter is touched by an oversight."""

    @click.argument("names", nargs=-1, metavar="[LETTER]...")
    @click.option("--all", "all_", is_flag=True, help="All letters of the pipeline.")
    @functools.wraps(function)
    def call(*, all_: bool, wanted: Wanted, **others: Any) -> Any:
        if wanted.names and (wanted.filters or all_):
            raise click.UsageError(
                "name letters, or choose them by --stage, --reason, --older, --newer or --all; not both"
            )
        if not wanted.any and not all_:
            raise click.UsageError(
                "which letters? Name them, or choose them by --stage, --reason, --older, --newer or --all"
            )
        return function(wanted=wanted, **others)

    return call
