"""Worker processes under a plugin that raises, crashes, exits and hangs: what happened stays with the messages it happened to."""

from __future__ import annotations

import random
import re
import signal
from contextlib import suppress
from pathlib import Path

from e2e_types import MakePipeline
from pipeline import Pipeline, ids, send, wait_until

CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = { count = 1000 }

[stages.work]
input = "read"
plugin = "./work.py"
workers = { kind = "process", count = 2, timeout = "500ms" }
retry = { attempts = 2, delay = "5ms", deaths = 2 }

[stages.store]
input = "work"
plugin = "sqlite"
batch = { messages = 100, timeout = "50ms" }
options = { path = "out.db", table = "t", key = "id" }
"""
WORK = """
import ctypes
import os
import time

from zpipe import hookimpl


def crash(how):
    match how:
        case "raises":
            raise ValueError("bad")
        case "segfaults":
            ctypes.string_at(0)
        case "exits":
            os._exit(3)
        case "hangs":
            time.sleep(1000)
        case "hangs in C":
            ctypes.PyDLL(None).sleep(1000)


BAD = {100: "raises", 301: "segfaults", 302: "exits", 303: "hangs", 600: "raises", 777: "hangs in C", 900: "segfaults"}


@hookimpl
def zpipe_process(message):
    crash(BAD.get(message.payload["id"]))
    return message.payload
"""
REASONS = {
    "raises": "ValueError: bad",
    "segfaults": "its worker process was killed by SIGSEGV",
    "exits": "its worker process exited with code 3 in the call",
    "hangs": "its call outlived the timeout of 0.5 s",
    "hangs in C": "its call outlived the timeout of 0.5 s",
}
BAD = {100: "raises", 301: "segfaults", 302: "exits", 303: "hangs", 600: "raises", 777: "hangs in C", 900: "segfaults"}


def test_exactly_the_messages_that_end_their_worker_are_dead_letters(make: MakePipeline) -> None:
    pipeline = make(CONFIG, work=WORK)
    run = pipeline.run()
    ledger = run.ledger()
    assert ledger["stages"]["work"]["dead"] == len(BAD)
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == [n for n in range(1000) if n not in BAD]
    letters = {payload["id"]: (reason, text) for _, reason, text, _, payload in pipeline.letters("work")}
    assert {n: reason for n, (reason, _) in letters.items()} == {n: REASONS[how] for n, how in BAD.items()}
    # Each of them had two deaths. On a machine that is busy another call may be late once.
    deaths = pipeline.final("work")["worker_restarts"]
    assert deaths.pop("timeout") >= 4
    assert deaths == {"SIGSEGV": 4, "exit code 3": 2}
    said = {int(n) for n in re.findall(r"event=worker.died .*messages_in_call=1 ids=read:(\d+)", run.stderr)}
    assert said >= {n for n, how in BAD.items() if how != "raises"}
    for n, (_, text) in letters.items():
        assert ("in crash" in text) == (BAD[n] != "exits"), (n, text)


def workers_of(pipeline: Pipeline, stage: str = "work") -> set[int]:
    """The worker processes of a stage, by their command line: they have parents only as long as these live."""
    name = f"zpipe-worker:{pipeline.config.name}.{stage}.".encode()
    found = set()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and any(
                word.startswith(name) for word in (entry / "cmdline").read_bytes().split(b"\0")
            ):
                environment = (entry / "environ").read_bytes()
                if f"ZPIPE_STATE_DIR={pipeline.env['ZPIPE_STATE_DIR']}".encode() in environment.split(b"\0"):
                    found.add(int(entry.name))
    return found


SLOW = """
import ctypes
from pathlib import Path

from zpipe import hookimpl


@hookimpl
def zpipe_process(message, context):
    if message.payload["id"] == 500:
        (context.config_dir / "stuck").touch()
        ctypes.PyDLL(None).sleep(1000)
    return message.payload
"""


def test_no_worker_outlives_a_daemon_that_is_killed(make: MakePipeline) -> None:
    """Neither an idle one nor one in a call that holds the interpreter."""
    pipeline = make(CONFIG.replace(', timeout = "500ms"', ""), work=SLOW)
    run = pipeline.run()
    wait_until((pipeline.folder / "stuck").exists, "a worker is stuck")
    assert len(workers_of(pipeline)) == 2
    pipeline.kill_all()
    run.end()
    wait_until(lambda: not workers_of(pipeline), "the workers are gone")


def test_signals_to_all_processes_do_not_keep_an_instance_from_leaving(make: MakePipeline) -> None:
    """As a service manager without KillMode=mixed does it: what was started is finished, and acked."""
    source = """
import time

from zpipe import hookimpl


@hookimpl
def zpipe_open(context):
    context.scratch = context.config_dir / "closed"


@hookimpl
def zpipe_process(message, context):
    time.sleep(0.002)
    return message.payload


@hookimpl
def zpipe_close(context):
    with context.scratch.open("a") as file:
        file.write("closed\\n")
"""
    pipeline = make(CONFIG.replace(', timeout = "500ms"', ""), work=source)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() > 100, "messages arrive")
    for _ in range(3):
        for pid in workers_of(pipeline):
            send(pid, signal.SIGTERM)
            send(pid, signal.SIGINT)
    ledger = run.ledger()
    assert ledger["stages"]["work"]["redelivered"] == ledger["stages"]["work"]["dead"] == 0
    assert pipeline.count() == 1000
    assert "worker.died" not in run.stderr
    assert (pipeline.folder / "closed").read_text() == "closed\n" * 2
    assert not workers_of(pipeline)


def test_workers_killed_from_outside_lose_nothing(make: MakePipeline) -> None:
    source = """
import time

from zpipe import hookimpl


@hookimpl
def zpipe_process(message):
    time.sleep(0.002)
    return message.payload
"""
    pipeline = make(CONFIG.replace("deaths = 2", "deaths = 100"), work=source)
    run = pipeline.run()
    chance = random.Random(4)
    for least in (100, 250, 400, 550, 700):
        wait_until(lambda least=least: pipeline.count() >= least or not run.running, f"{least} messages arrive")  # type: ignore[misc]
        victims = sorted(workers_of(pipeline))
        if victims:
            send(chance.choice(victims), signal.SIGKILL)
    assert run.ledger()["stages"]["work"]["dead"] == 0
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(1000))
    assert "was killed by SIGKILL" in run.stderr


def test_a_failing_batch_ends_in_the_messages_that_kill(make: MakePipeline) -> None:
    source = """
import os

from zpipe import hookimpl


@hookimpl
def zpipe_process_batch(messages):
    if any(message.payload["id"] in (3, 77, 101) for message in messages):
        os._exit(9)
    return [message.payload for message in messages]
"""
    text = CONFIG.replace('"./work.py"', '"./work.py"\nbatch = { messages = 50, timeout = "50ms" }')
    pipeline = make(text.replace("count = 1000", "count = 200"), work=source)
    ledger = pipeline.run().ledger()
    assert ledger["stages"]["work"]["dead"] == 3
    reasons = {payload["id"]: reason for _, reason, _, _, payload in pipeline.letters("work")}
    assert reasons == dict.fromkeys((3, 77, 101), "its worker process exited with code 9 in the call")
    assert pipeline.count() == 197


def test_a_plugin_that_does_not_open_in_its_worker_fails_the_start(make: MakePipeline) -> None:
    source = """
from zpipe import hookimpl


@hookimpl
def zpipe_open(context):
    {}["model"]


@hookimpl
def zpipe_process(message):
    return message.payload
"""
    pipeline = make(CONFIG, work=source)
    run = pipeline.run()
    assert run.wait() == 1, run.stderr
    assert "event=run.failed stage=work.1" in run.stderr
    assert "KeyError" in run.stderr and "work.py" in run.stderr, "a bug is shown with its traceback"
    assert not pipeline.instances() and not workers_of(pipeline)


def test_python_function_with_options_output_and_context_in_a_worker(make: MakePipeline) -> None:
    """What a plugin sees and prints is what it would in the daemon: options, folders, stderr, relative paths."""
    source = """
import os
import sys


def work(payload):
    if payload["id"] == 0:
        print("a word from the plugin", file=sys.stderr, flush=True)
    yield payload
    yield {"id": payload["id"] + 1000, "pid": os.getpid()}
"""
    text = CONFIG.replace('plugin = "./work.py"', 'plugin = "python"\noptions = { function = "${NAME:-work}.py:work" }')
    pipeline = make(text, work=source)
    run = pipeline.run()
    run.ledger()
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(2000))
    assert len(pipeline.query("SELECT DISTINCT pid FROM t WHERE pid IS NOT NULL")) == 2
    assert "a word from the plugin" in run.stderr


FORKING = """
import os

from zpipe import hookimpl


@hookimpl
def zpipe_process(message):
    if message.payload["id"] % 500 == 20 and os.fork() == 0:
        raise ValueError("the child should have called os._exit")
    return message.payload
"""


def test_a_process_that_the_plugin_forked_answers_for_nobody(make: MakePipeline) -> None:
    """It comes back from the hook and goes on as if it were the worker, with the worker's pipe."""
    pipeline = make(CONFIG.replace("count = 1000", "count = 5000"), work=FORKING)
    ledger = pipeline.run().ledger()
    assert all(row["restarts"] == 0 for row in ledger["stages"].values())
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(5000))


LEAVING = """
import asyncio
import sys

from zpipe import hookimpl


async def leave(n):
    if n % 100 == 7:
        sys.exit(3)
    if n % 100 == 8:
        raise KeyboardInterrupt
    return n


@hookimpl
async def zpipe_process(message):
    n = message.payload["id"]
    await asyncio.wait_for(leave(n), 5)
    while n % 100 == 9:  # takes no notice of being cancelled
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
    return message.payload
"""


def test_async_calls_that_end_the_loop_or_do_not_end_are_their_messages_failure(make: MakePipeline) -> None:
    text = CONFIG.replace("count = 1000", "count = 300").replace('kind = "process", count = 2', "count = 20")
    pipeline = make(text, work=LEAVING)
    run = pipeline.run()
    ledger = run.ledger()
    bad = [n for n in range(300) if n % 100 in (7, 8, 9)]
    assert ledger["stages"]["work"]["dead"] == len(bad)
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == [n for n in range(300) if n not in bad]
    reasons = {payload["id"] % 100: reason for _, reason, _, _, payload in pipeline.letters("work")}
    assert "SystemExit" in reasons[7] and "KeyboardInterrupt" in reasons[8] and "timeout" in reasons[9]
    assert "event=call.abandoned" in run.stderr


ENDLESS = """
import itertools

from zpipe import hookimpl


@hookimpl
def zpipe_process(message):
    if message.payload["id"] != 5:
        return message.payload
    return ({"id": n, "endless": True} for n in itertools.count(1_000_000))
"""


def test_a_generator_that_never_ends_does_not_outlive_its_timeout_nor_the_first_ctrl_c(make: MakePipeline) -> None:
    pipeline = make(CONFIG.replace("{ count = 1000 }", "{ rate = 200 }"), work=ENDLESS)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() > 0 and pipeline.query("SELECT 1 FROM t WHERE id >= 1000000"), "it has begun")
    run.interrupt()
    ledger = run.ledger()
    assert ledger["stages"]["work"]["dead"] == 1
    ((id, reason, _, deaths, payload),) = pipeline.letters("work")
    assert (id, deaths, payload["id"]) == ("read:5", 2, 5)
    assert reason == "its call outlived the timeout of 0.5 s"
    good = ledger["stages"]["read"]["received"] - 1
    assert pipeline.query("SELECT count(*) FROM t WHERE id < 1000000") == [(good,)]
