"""Messages that kill the whole daemon, and messages that are tried again for long: what shares their way goes on."""

from __future__ import annotations

import pytest
from e2e_types import MakePipeline
from pipeline import Pipeline, ids

CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = {{ count = {count} }}

[stages.work]
input = "read"
plugin = "python"
instances = {instances}
retry = {{ attempts = 3, delay = "5ms", deaths = {deaths} }}
options = {{ function = "work.py:work" }}
{more}

[stages.store]
input = "work"
plugin = "sqlite"
batch = {{ messages = 100, timeout = "50ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
"""
POISON = """
import ctypes
import os
import signal

BAD = {bad}


def kill(n):
    if n % 2:
        os.kill(os.getpid(), signal.SIGSEGV)
    os._exit(9)


def work(payload):
    if payload["id"] in BAD:
        kill(payload["id"])
    return payload


def work_batch(payloads):
    return [work(payload) for payload in payloads]
"""


def check(pipeline: Pipeline, bad: list[int], count: int, deaths: int, deadline_s: float = 100.0) -> None:
    pipeline.run().ledger(deadline_s)  # its count of dead letters lacks what a killed process had not published yet
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == [n for n in range(count) if n not in bad]
    letters = [letter for n in (1, 2) for letter in pipeline.letters("work", n)]
    found = [payload["id"] for *_, payload in letters]
    assert sorted(set(found)) == bad
    assert len(found) == len(bad) or len(pipeline.letters("work", 2)), found  # one instance has each once
    for _, reason, traceback, attempts, payload in letters:
        assert attempts >= deaths  # a sibling may have had it as well before the first death was known
        assert f"ended the process of a worker {attempts} times" in reason
        if "SIGSEGV" in reason:
            assert payload["id"] % 2 and ("Segmentation fault" in traceback and "work.py" in traceback)


@pytest.mark.parametrize("instances", [1, 2])
def test_messages_that_kill_the_daemon_become_dead_letters(make: MakePipeline, instances: int) -> None:
    bad = [3, 400, 401, 777, 1999]
    text = CONFIG.format(count=2000, instances=instances, deaths=2, more="")
    check(make(text, work=POISON.format(bad=bad)), bad, 2000, 2)


def test_a_batch_with_a_message_that_kills_the_daemon_loses_only_that(make: MakePipeline) -> None:
    bad = [57, 130]
    text = CONFIG.format(count=300, instances=1, deaths=1, more="batch = { messages = 50 }")
    text = text.replace("work.py:work", "work.py:work_batch")
    check(make(text, work=POISON.format(bad=bad)), bad, 300, 1)


@pytest.mark.stress
def test_messages_that_kill_the_daemon_among_20_000(make: MakePipeline) -> None:
    bad = [11, 5000, 5001, 12_345, 19_999]
    check(
        make(CONFIG.format(count=20_000, instances=2, deaths=3, more=""), work=POISON.format(bad=bad)), bad, 20_000, 3
    )
