"""Messages that raise, that kill their worker process and that hang: exactly those are dead letters, with the right
reasons, and replayed once the plugin is mended."""

from __future__ import annotations

import pytest
from e2e_types import MakePipeline
from pipeline import ids

CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = {{ count = {count} }}

[stages.work]
input = "read"
plugin = "python"
workers = {{ kind = "process", count = 4, timeout = "{timeout}" }}
retry = {{ attempts = 2, delay = "10ms", deaths = {deaths} }}
options = {{ function = "work.py:work" }}

[stages.store]
input = "work"
plugin = "sqlite"
batch = {{ messages = 200, timeout = "50ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
"""
WORK = """
import ctypes
import time
from pathlib import Path

MENDED = Path(__file__).with_name("mended")


def work(payload):
    n = payload["id"]
    if not MENDED.exists():
        if n % 100 == 7:
            raise ValueError(f"cannot work on {n}")
        if n % 200 == 33:
            ctypes.string_at(0)
        if n % 200 == 133:
            time.sleep(3600)
    return payload
"""


def bad(make: MakePipeline, count: int, timeout: str, deaths: int, deadline_s: float) -> None:
    pipeline = make(CONFIG.format(count=count, timeout=timeout, deaths=deaths), work=WORK)
    ledger = pipeline.run().ledger(deadline_s)
    raised = list(range(7, count, 100))
    killed, hung = list(range(33, count, 200)), list(range(133, count, 200))
    dead = sorted(raised + killed + hung)
    assert ledger["stages"]["work"]["dead"] == len(dead)
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == sorted(set(range(count)) - set(dead))
    rows = pipeline.letters("work")
    letters = {payload["id"]: (reason, text, attempts) for _, reason, text, attempts, payload in rows}
    assert sorted(letters) == dead and len(rows) == len(dead)
    for n in raised:
        assert letters[n][0] == f"ValueError: cannot work on {n}" and letters[n][2] == 2
    for n in killed:
        assert "SIGSEGV" in letters[n][0] and letters[n][2] == deaths
        assert "Segmentation fault" in letters[n][1] and "in work" in letters[n][1]
    for n in hung:
        assert "timeout" in letters[n][0] and letters[n][2] == deaths
        assert "in work" in letters[n][1]
    (pipeline.folder / "mended").touch()
    replay = pipeline.zpipe("dead", "replay", str(pipeline.path), "--all", "--rate", "1000/s")
    assert replay.wait(deadline_s) == 0, replay.stderr
    assert not pipeline.letters("work")
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(count))


def test_bad_messages_are_dead_letters_and_the_others_are_stored(make: MakePipeline) -> None:
    bad(make, 800, "300ms", 2, 100.0)


@pytest.mark.stress
def test_bad_messages_among_20_000(make: MakePipeline) -> None:
    bad(make, 20_000, "1s", 3, 900.0)
