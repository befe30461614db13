"""Running the cases one after another, and what came of them: as lines, JSON or JUnit XML. Must not live here: a case."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from zpipe.conform import consumer_cases, instance_cases, producer_cases  # noqa: F401 -- they fill the table
from zpipe.conform.cases import CASES, Case
from zpipe.conform.scene import Scene
from zpipe.conform.verdicts import Kind, NeverSpoke, NotApplicable, NotKept
from zpipe.errors import OperatorError

Outcome = Literal["kept", "not kept", "not asked"]


@dataclass(frozen=True)
class Result:
    """What came of a case. `sent`, `expected`, `came`: of one that is not kept; `why` one is not asked."""

    number: int
    level: int
    title: str
    section: str
    outcome: Outcome
    seconds: float
    sent: str = ""
    expected: str = ""
    came: str = ""
    why: str = ""


def chosen(kind: Kind, level: int, numbers: Sequence[int]) -> list[Case]:
    """The cases up to that level that can be asked of such a stage, or those of the numbers, in order."""
    wanted = (
        [CASES[number] for number in sorted(numbers)] if numbers else sorted(CASES.values(), key=lambda c: c.number)
    )
    return [one for one in wanted if kind in one.kinds and (numbers or one.level <= level)]


def run(
    command: Sequence[str],
    kind: Kind,
    cases: Sequence[Case],
    many: bool = False,
    jobs: int = 1,
    keep: Callable[[Result], None] = lambda _: None,
) -> list[Result]:
    """Runs each case in a world of its own, `jobs` at a time. `keep` hears of each, in order. Blocks.

    Only the first comes back where the program says nothing in it: so it would be in all. Raises OperatorError if the command
    cannot be started.
    """
    results: list[Result] = []
    with ThreadPoolExecutor(jobs) as pool:
        try:
            # The first is asked alone: the others would be under way, or begin, while it finds that the program says nothing.
            for part in (cases[:1], cases[1:]):
                for one in [pool.submit(_run_case, case, command, kind, many) for case in part]:
                    result, spoke = one.result()
                    results.append(result)
                    keep(result)
                if len(results) == 1 and not spoke:
                    break
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return results


def _run_case(one: Case, command: Sequence[str], kind: Kind, many: bool) -> tuple[Result, bool]:
    """False: the program has said nothing to anybody."""
    root = Path(tempfile.mkdtemp(prefix="zpc-"))
    scene = Scene(command, kind, root, many)
    began = time.monotonic()

    def result(outcome: Outcome, **more: str) -> tuple[Result, bool]:
        seconds = round(time.monotonic() - began, 3)
        return Result(one.number, one.level, one.title, one.section, outcome, seconds, **more), True

    try:
        one.check(scene)
        return result("kept")
    except NotKept as error:
        found, _ = result("not kept", sent=error.sent, expected=error.expected, came=error.came)
        return found, not isinstance(error, NeverSpoke)
    except NotApplicable as error:
        return result("not asked", why=str(error))
    except OSError as error:
        if error.filename == command[0]:
            raise OperatorError(f"cannot start {command[0]}: {error.strerror}") from None
        raise
    finally:
        scene.close()
        shutil.rmtree(root, ignore_errors=True)


def line(result: Result) -> str:
    """One line, or for a case that is not kept a few."""
    words = {"kept": "ok  ", "not kept": "FAIL", "not asked": "skip"}
    head = f"{words[result.outcome]} {result.number:>3}  level {result.level}  {result.title}"
    if result.outcome == "not asked":
        return f"{head}: {result.why}"
    if result.outcome == "kept":
        return head
    rows = [head + f"  (PROTOCOL.md, {result.section})"]
    rows += [
        f"       sent      {result.sent}",
        f"       expected  {result.expected}",
        f"       came      {result.came}",
    ]
    return "\n".join(rows)


def summary(results: Sequence[Result], whole: bool) -> str:
    """In words. `whole`: every case of the levels was asked; some of them say nothing of a level."""
    count = {outcome: sum(one.outcome == outcome for one in results) for outcome in ("kept", "not kept", "not asked")}
    reached = level_reached(results)
    text = f"{count['kept']} of {len(results)} cases kept"
    text += f", {count['not kept']} not" if count["not kept"] else ""
    text += f", {count['not asked']} not asked" if count["not asked"] else ""
    return f"{text}; level {reached or 1} is {'kept' if reached else 'not kept'}" if whole else text


def level_reached(results: Sequence[Result]) -> int:
    """The highest level of which, and below which, every case that was asked is kept; 0: none."""
    reached = 0
    for level in sorted({one.level for one in results}):
        if any(one.outcome == "not kept" for one in results if one.level == level):
            break
        reached = level
    return reached


def as_json(command: Sequence[str], kind: Kind, results: Sequence[Result], whole: bool) -> dict[str, Any]:
    """The same; its `level` is null where not every case was asked."""
    return {
        "command": list(command),
        "kind": kind,
        "level": level_reached(results) if whole else None,
        "kept": all(one.outcome != "not kept" for one in results),
        "cases": [asdict(one) for one in results],
    }


def junit(results: Sequence[Result]) -> str:
    """The XML that CI systems read."""
    failures = sum(one.outcome == "not kept" for one in results)
    skipped = sum(one.outcome == "not asked" for one in results)
    seconds = sum(one.seconds for one in results)
    rows = ['<?xml version="1.0" encoding="utf-8"?>']
    rows.append(
        f'<testsuite name="zpipe conform" tests="{len(results)}" failures="{failures}" skipped="{skipped}" time="{seconds:.3f}">'
    )
    for one in results:
        name = quoteattr(f"{one.number} {one.title}")
        rows.append(f'  <testcase classname="level{one.level}" name={name} time="{one.seconds:.3f}">')
        if one.outcome == "not kept":
            told = quoteattr(f"expected {one.expected}; came {one.came}; sent {one.sent}")
            rows.append(f"    <failure message={told}/>")
        elif one.outcome == "not asked":
            rows.append(f"    <skipped message={quoteattr(one.why)}/>")
        rows.append("  </testcase>")
    return "\n".join([*rows, "</testsuite>", ""])
