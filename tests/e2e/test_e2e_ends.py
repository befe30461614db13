"""How runs end: Ctrl-C drains, a second one stops, a lost supervisor leaves nothing behind; and what refuses to start."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from e2e_types import MakePipeline
from pipeline import Command, Pipeline, ids, send, wait_until

ENDLESS = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = { rate = 2000 }

[stages.work]
input = "read"
plugin = "python"
options = { function = "work.py:work" }

[stages.store]
input = "work"
plugin = "sqlite"
batch = { messages = 100, timeout = "10m" }
options = { path = "out.db", table = "t", key = "id" }
"""
SAME = "def work(payload):\n    return payload\n"
STUCK = """
import time
from pathlib import Path


def work(payload):
    while Path(__file__).with_name("stuck").exists():
        time.sleep(0.01)
    return payload
"""

DEAF = """
import ctypes
from pathlib import Path

HERE = Path(__file__).parent


def work(payload):
    if (HERE / "stuck").exists():
        (HERE / "begun").touch()
        ctypes.PyDLL(None).open(bytes(HERE / "stuck"), 0)  # with the interpreter's lock: no thread runs until somebody writes
    return payload
"""


def assert_complete(pipeline: Pipeline) -> int:
    """Every id from 0 on is stored once, up to the committed position. How many."""
    count = pipeline.count()
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(count))
    assert pipeline.position("read") == count - 1
    return count


def test_interrupt_drains_and_the_next_run_goes_on(make: MakePipeline) -> None:
    pipeline = make(ENDLESS, work=SAME)
    first = run_and_interrupt(pipeline, more=500)
    stored = assert_complete(pipeline)
    assert first["stages"]["read"]["received"] == stored
    second = run_and_interrupt(pipeline, more=500)
    assert second["stages"]["read"]["received"] == assert_complete(pipeline) - stored
    assert not pipeline.instances()


def run_and_interrupt(pipeline: Pipeline, more: int) -> dict[str, Any]:
    """The ledger of a run that is interrupted once so many more rows are stored."""
    stored = pipeline.count()
    run = pipeline.run()
    wait_until(lambda: pipeline.count() > stored + more or not run.running, f"{more} more rows are stored")
    run.interrupt()
    return run.ledger()


def test_terminate_drains_too(make: MakePipeline) -> None:
    pipeline = make(ENDLESS, work=SAME)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() > 100 or not run.running, "something is stored")
    run.process.terminate()
    run.ledger()
    assert_complete(pipeline)


def test_interrupt_right_after_the_start(make: MakePipeline) -> None:
    pipeline = make(ENDLESS, work=SAME)
    run = pipeline.run()
    pipeline.pid("read")
    run.interrupt()
    run.ledger()
    assert not pipeline.instances()


def test_second_interrupt_stops_now_and_loses_nothing(make: MakePipeline) -> None:
    pipeline = make(ENDLESS, work=STUCK)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() > 100 or not run.running, "something is stored")
    stuck = pipeline.folder / "stuck"
    stuck.touch()
    with pipeline.watch() as watch:
        wait_until(
            lambda: watch.poll(0.0) and watch.snapshots.get(("work", 1), {}).get("queued"), "work waits in the queue"
        )
    run.interrupt()
    wait_until(lambda: "event=run.drain" in run.stderr, "the drain is announced")
    run.interrupt()
    assert run.wait() == 1, run.stderr
    assert not pipeline.instances(), "no process is left"
    stuck.unlink()

    run_and_interrupt(pipeline, more=300)
    assert_complete(pipeline)


def test_children_of_a_killed_supervisor_go_away(make: MakePipeline) -> None:
    pipeline = make(ENDLESS, work=SAME)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() > 100 or not run.running, "something is stored")
    send(run.pid, signal.SIGKILL)
    run.wait()
    wait_until(lambda: not pipeline.instances(), "the children go by themselves")
    run_and_interrupt(pipeline, more=500)
    assert_complete(pipeline)


def kill_run(pipeline: Pipeline) -> int:
    """`kill -9` of a run's supervisor. The pid of its instance `work`, which does not notice while nobody writes to `stuck`."""
    run = pipeline.run()
    wait_until(lambda: pipeline.count() > 100 or not run.running, "something is stored")
    orphan = pipeline.pid("work")
    os.mkfifo(pipeline.folder / "stuck")
    wait_until(lambda: (pipeline.folder / "begun").exists() or not run.running, "a call is stuck")
    send(run.pid, signal.SIGKILL)
    run.wait()
    return orphan


def test_a_run_waits_for_the_instances_of_a_killed_run(make: MakePipeline) -> None:
    pipeline = make(ENDLESS, work=DEAF)
    orphan = kill_run(pipeline)
    run = pipeline.run()
    wait_until(lambda: "event=run.waiting" in run.stderr or not run.running, "the run waits")
    stored = pipeline.count()
    writer = os.open(pipeline.folder / "stuck", os.O_WRONLY)
    (pipeline.folder / "stuck").unlink()
    os.close(writer)
    wait_until(lambda: pipeline.count() > stored + 500 or not run.running, "the run works")
    assert pipeline.pid("work") != orphan
    run.interrupt()
    run.ledger()
    assert f"work.1 (pid {orphan}, user " in run.stderr
    assert_complete(pipeline)


def test_a_run_does_not_wait_for_ever_for_the_instances_of_a_killed_run(make: MakePipeline) -> None:
    pipeline = make(ENDLESS, work=DEAF)
    orphan = kill_run(pipeline)
    run = pipeline.run()
    assert run.wait() == 1
    waited, refused = run.stderr.splitlines()
    assert waited.startswith("event=run.waiting ") and f"work.1 (pid {orphan}, " in waited
    assert refused.startswith("zpipe: pipeline 'p' is running already") and f"work.1 (pid {orphan}, " in refused


# ---- what refuses to start


def test_second_run_of_a_pipeline_is_refused(make: MakePipeline) -> None:
    pipeline = make(ENDLESS, work=SAME)
    first = pipeline.run()
    wait_until(lambda: pipeline.count() or not first.running, "the first works")
    second = pipeline.run()
    assert second.wait() == 1
    assert second.stderr.startswith("zpipe: pipeline 'p' is running already")
    assert "Traceback" not in second.stderr
    pipeline.env["ZPIPE_STATE_DIR"] = str(pipeline.home / "elsewhere")  # as a second `zpipe demo` has it
    third = pipeline.run()
    assert third.wait() == 1
    assert third.stderr.startswith("zpipe: pipeline 'p' is running already")  # it does not wait: nobody is about to end
    first.interrupt()
    first.ledger()


def test_second_process_of_an_instance_is_refused(make: MakePipeline) -> None:
    pipeline = make(ENDLESS, work=SAME)
    first = pipeline.stage("work")
    pid = pipeline.pid("work")
    second = pipeline.stage("work")
    assert second.wait() == 1
    assert f"p.work.1 is running already (pid {pid}" in second.stderr
    assert "Traceback" not in second.stderr
    wait_until(lambda: "event=ready" in first.stderr, "the first is ready")
    first.process.terminate()
    assert first.wait() == 0, first.stderr


def test_instance_of_a_run_is_refused_too(make: MakePipeline) -> None:
    pipeline = make(ENDLESS, work=SAME)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() or not run.running, "the run works")
    beside = pipeline.stage("work")
    assert beside.wait() == 1
    assert f"p.work.1 is running already (pid {pipeline.pid('work')}" in beside.stderr
    run.interrupt()
    run.ledger()
    assert_complete(pipeline)


def test_unknown_stage_names_the_nearest(make: MakePipeline) -> None:
    command = make(ENDLESS, work=SAME).stage("wrok")
    assert command.wait() == 2
    assert "no stage 'wrok' (did you mean 'work'?)" in " ".join(command.stderr.split())


@pytest.mark.parametrize(
    ("given", "wrong", "said"),
    [
        ('input = "read"', 'inptu = "read"', "did you mean 'input'?"),
        ('plugin = "sqlite"', 'plugin = "sqlit"', "did you mean 'sqlite'?"),
        ("rate = 2000", 'rate = "fast"', "stages.read.options.rate"),
    ],
)
def test_mistake_in_the_config_starts_nothing(make: MakePipeline, given: str, wrong: str, said: str) -> None:
    pipeline = make(ENDLESS.replace(given, wrong), work=SAME)
    command = pipeline.run()
    assert command.wait() == 2
    assert said in command.stderr
    assert "Traceback" not in command.stderr
    assert not folders_below(pipeline.home / "r"), "no instance was started"
    assert not folders_below(pipeline.home / "s")


def folders_below(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.exists() else []


# ---- a drain that has to wait

DOWN = """
from pathlib import Path

from zpipe.errors import Throttled


def work(payload):
    if Path(__file__).with_name("down").exists():
        raise Throttled(0.1, "the service is down")
    return payload
"""


def draining_lines(run: Command) -> list[str]:
    return [line for line in run.stderr.splitlines() if line.startswith("event=run.draining")]


def test_a_drain_that_waits_for_a_service_says_so_and_what_a_second_signal_does(make: MakePipeline) -> None:
    pipeline = make(ENDLESS, work=DOWN)
    run = pipeline.run()
    wait_until(lambda: pipeline.count() > 100 or not run.running, "something is stored")
    (pipeline.folder / "down").touch()
    wait_until(lambda: "event=plugin.waits" in run.stderr, "the service is down")
    run.interrupt()
    wait_until(
        lambda: any("is held up: the plugin: the service is down" in line for line in draining_lines(run)), "it says so"
    )
    assert all("Ctrl-C again stops now" in line for line in draining_lines(run))
    (pipeline.folder / "down").unlink()
    run.ledger()
    assert_complete(pipeline)


def test_a_drain_that_takes_longer_than_its_timeout_stops_now(make: MakePipeline) -> None:
    pipeline = make(ENDLESS, work=DOWN)
    run = pipeline.run("--drain-timeout", "1.5")
    wait_until(lambda: pipeline.count() > 100 or not run.running, "something is stored")
    (pipeline.folder / "down").touch()
    wait_until(lambda: "event=plugin.waits" in run.stderr, "the service is down")
    run.interrupt()
    assert run.wait() == 4, run.stderr
    assert 'event=run.stop reason="the drain has not ended within 1.5 s"' in run.stderr
    assert re.search(r"^zpipe: work\.1 is (RUNNING|DRAINING), holds \d+ ", run.stderr, re.MULTILINE), "who holds what"
    assert not pipeline.instances()
    (pipeline.folder / "down").unlink()
    run_and_interrupt(pipeline, more=300)
    assert_complete(pipeline)


# ---- starts that fail, and that do not

WAITS_TO_OPEN = """
import time
from pathlib import Path

from zpipe import hookimpl


@hookimpl
def zpipe_open(context):
    while not Path(__file__).with_name("gate").exists():
        time.sleep(0.01)


@hookimpl
def zpipe_process(message):
    return message.payload
"""
FINITE = ENDLESS.replace("rate = 2000", "count = 500")


def test_kills_from_outside_are_no_failed_starts(make: MakePipeline) -> None:
    """Six before it is READY; five starts that fail by themselves end a run."""
    text = FINITE.replace('plugin = "python"\noptions = { function = "work.py:work" }', 'plugin = "./slow.py"')
    pipeline = make(text, slow=WAITS_TO_OPEN)
    run = pipeline.run()
    died = 'event=stage.died stage=work.1 how="killed by SIGKILL"'
    for times in range(1, 7):
        pipeline.kill("work")
        wait_until(lambda times=times: run.stderr.count(died) == times or not run.running, f"{times} kills are seen")
    (pipeline.folder / "gate").touch()
    assert run.ledger()["stages"]["work"]["restarts"] == 6
    assert assert_complete(pipeline) == 500


def test_starts_that_fail_by_a_fault_of_their_own_end_the_run(make: MakePipeline) -> None:
    text = FINITE.replace('plugin = "python"\noptions = { function = "work.py:work" }', 'plugin = "./slow.py"')
    source = WAITS_TO_OPEN.replace("import time", "import os, signal, time").replace(
        "    while", "    os.kill(os.getpid(), signal.SIGSEGV)\n    while"
    )
    run = make(text, slow=source).run()
    assert run.wait() == 1, run.stderr
    assert "5 starts failed, the last with killed by SIGSEGV" in run.stderr


def test_what_can_never_be_spawned_ends_the_run_with_the_reason(make: MakePipeline) -> None:
    """The interpreter is no longer there to be executed, as after an upgrade that went wrong."""
    pipeline = make(ENDLESS, work=SAME)
    python = pipeline.folder / "python"
    python.symlink_to(sys.executable)
    pipeline.env["PYTHONPATH"] = os.pathsep.join(sys.path)
    run = Command(["run", str(pipeline.path), "--json", "--no-warm"], pipeline.home, pipeline.env, python=str(python))
    try:
        wait_until(lambda: pipeline.count() > 100 or not run.running, "it works")
        python.unlink()
        python.touch(0o644)
        pipeline.kill("work")
        assert run.wait() == 1, run.stderr
    finally:
        run.end()
    assert "event=run.failed stage=work.1 reason=\"cannot be spawned: [Errno 13] Permission denied: '" in run.stderr
    wait_until(lambda: not pipeline.instances(), "nothing is left")
