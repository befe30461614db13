"""What a case is, and the table of all of them. Must not live here: what a single case does, and running it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zpipe.conform.scene import Scene
from zpipe.conform.verdicts import KINDS, Kind


@dataclass(frozen=True)
class Case:
    """`number` and `title` as in the documentation; `kinds`: of stages that it can be asked of."""

    number: int
    level: int
    kinds: tuple[Kind, ...]
    title: str
    section: str
    check: Callable[[Scene], None]


CASES: dict[int, Case] = {}


def case(
    number: int, title: str, *, section: str, level: int = 1, kinds: tuple[Kind, ...] = KINDS
) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Enters the function into the table. `section`: of PROTOCOL.md, which says what is to be done."""

    def enter(check: Callable[[Scene], None]) -> Callable[[Scene], None]:
        assert number not in CASES
        CASES[number] = Case(number, level, kinds, title, section, check)
        return check

    return enter
