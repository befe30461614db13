"""Words that a neighbour has said, wherever they are shown: nothing in them reaches a terminal as an order to it."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console
from screens import letters, orders, played

from zpipe.core.telemetry.snapshot import taken_in
from zpipe.core.work.stored_dead_letter import StoredDeadLetter
from zpipe.monitor.export import checks
from zpipe.monitor.formatting import visible_lines
from zpipe.monitor.messages import dead_letter_page
from zpipe.monitor.run.drain_progress import drain_block, drain_text, holdings
from zpipe.monitor.run.ledger_table import ledger_table
from zpipe.monitor.screen.app import VIEWS
from zpipe.monitor.screen.header import header, sentence
from zpipe.monitor.screen.pane import Choice, Pane, Shown, safe
from zpipe.monitor.screen.views.letters_view import reason_key
from zpipe.monitor.table.columns import plain
from zpipe.monitor.table.pipeline_status import status

BAD = "\x1b[2J\x9b31m\x07\r\u202e"
ORDERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
CRASH = {"how": f"killed{BAD}", "ids": [BAD], "at": 1.0, "messages_in_call": 1}
SAID: dict[str, Any] = {
    "incarnation": f"i{BAD}",
    "version": BAD,
    "held_by": f"the disk{BAD}",
    "stopped_by": f"a breaker{BAD}",
    "waiting_for": [f"read.1{BAD}"],
    "refusals": [{"peer": BAD, "reason": f"web2{BAD}", "times": 1, "last_s": 0.0}],
    "limit": {"limit": 4, "rate": 1.0, "under_way": 1, "changed_s": 1.0, "reason": BAD},
    "last_crash": CRASH,
    "restarts": {BAD: 2},
    "worker_restarts": {BAD: 2},
    "plugin_counters": {BAD: 2},
    "plugin_gauges": {BAD: 2.0},
    "plugin_histograms": {BAD: {"messages": 1, "sum_s": 1.0, "buckets": [[1.0, 1]]}},
    "host": BAD,
    "pid": BAD,
    BAD: BAD,
}


def said(one: dict[str, Any], second: int) -> dict[str, Any]:
    if one["stage"] == "check":
        for row in one["links"]:
            row["buffer"] = {"trouble": BAD, "stored": 1}
        one["links"] += [row | {"to": BAD, "outlet": BAD} for row in one["links"][:1]]
        one |= SAID
    taken = taken_in(one)
    assert taken is not None, "an instance may say all this"
    return taken


@pytest.fixture(scope="module")
def shown() -> Shown:
    stored = letters()
    rows = [row | {"id": BAD, "reason": BAD} for row in stored.rows]
    return played(orders(), said)._replace(letters=stored._replace(rows=rows))


def assert_harmless(text: str) -> None:
    found = ORDERS.search(text)
    assert found is None, repr(text[max(0, found.start() - 60) : found.end() + 20])


def lines(pane: Pane | None) -> list[str]:
    return [] if pane is None else [plain(line) for line in (*pane.head, *pane.lines)]


@pytest.mark.parametrize("number", VIEWS)
def test_on_the_screen(shown: Shown, number: int) -> None:
    unfolded = {"instance:check.1", "instance:check.2", reason_key("check", safe(BAD))}
    for stage in ("check", "store"):
        made = VIEWS[number](shown, Choice(number, stage=stage, unfolded=unfolded), 160, 60)
        assert_harmless("\n".join([*lines(made.main), *lines(made.side), *lines(made.below)]))
    assert_harmless("\n".join(plain(line) for line in (*header(shown, 160, 60), *sentence(shown, 160, 60))))


def test_as_text(shown: Shown) -> None:
    for width in (60, 80, 200):
        assert_harmless("\n".join(plain(line) for line in status(shown.value, width)))
    problems = checks.wrong(shown.value, checks.Thresholds(depth=0, age_s=0.0, dead=0))
    assert any("the disk" in one for one in problems)
    assert_harmless(checks.line(shown.value, problems))


def test_while_it_drains() -> None:
    said_last = {("check", 1): said({"stage": "check", **_counts()}, 0)}
    rows = holdings(orders(), said_last)
    assert "a breaker" in drain_text(rows)
    assert_harmless(drain_text(rows, {"store.1": BAD}))
    assert_harmless("\n".join(drain_block(rows, 500, 50)))


def _counts() -> dict[str, Any]:
    counts = dict.fromkeys(
        ("received", "completed", "filtered", "dead", "returned", "in_process", "queued", "instance"), 1
    )
    return counts | {"pipeline": "p", "state": "RUNNING", "links": []}


def test_in_a_ledger() -> None:
    ledger = {"pipeline": "p", "balanced": False, "seconds": 1.0, "links": [], "problems": [f"check.1 {BAD}"]}
    out = io.StringIO()
    Console(file=out, width=120).print(ledger_table(ledger | {"stages": {"check": {"received": 1}}}))
    assert "check.1" in out.getvalue()
    assert_harmless(out.getvalue())


def test_of_a_dead_letter() -> None:
    letter = StoredDeadLetter(
        stage="check",
        instance=1,
        number=1,
        id=f"read:1{BAD}",
        at=1.0,
        origin=1.0,
        incarnation=BAD,
        attempts=1,
        deaths=0,
        replays=0,
        replay_rate=None,
        payload={BAD: BAD},
        headers={BAD: BAD},
        reason=f"no\n{BAD}",
        kind=BAD,
        traceback=f"one\n{BAD}",
        history=[BAD],
        source=BAD,
    )
    page = dead_letter_page.page(letter, 2.0)
    assert "id         read:1\\u001b[2J" in page
    assert "reason     no\n           \\u001b[2J" in page
    assert_harmless(page)
    out = io.StringIO()
    Console(file=out, width=500).print(dead_letter_page.table([letter], 2.0))
    assert_harmless(out.getvalue())


def test_lines_stay_lines() -> None:
    assert visible_lines("one\n\x1btwo") == "one\n\\u001btwo"
