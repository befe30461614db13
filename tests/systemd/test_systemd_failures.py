"""What goes wrong under systemd: processes that die, hang, cannot start or do not stop. Nothing is lost by any of it."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from machine import ENV, ZPIPE, MakePipeline, Pipeline, events, journal, run, shell, since, wait_until

STREAM = """
[pipeline]
name = "{name}"

[stages.read]
plugin = "generate"
options = {{ rate = {rate} }}
unacked = {{ messages = {unacked} }}

[stages.work]
input = "read"
plugin = "python"
options = {{ function = "{name}.py:work" }}
queue = {{ messages = {queue} }}

[stages.store]
input = "work"
plugin = "sqlite"
batch = {{ messages = 100, timeout = "100ms" }}
options = {{ path = "/var/lib/zpipe/data/{name}.db", table = "t", key = "id" }}
"""
PASS = """
def work(payload):
    return payload
"""
HANGS = """
import ctypes, os, time

def work(payload):
    if os.path.exists("/etc/zpipe/hold"):
        ctypes.PyDLL(None).sleep(3600)  # with the interpreter's lock: no thread of this process goes on
    return payload
"""
CRASHES = """
import ctypes, os

def work(payload):
    if os.path.exists("/etc/zpipe/hold"):
        ctypes.string_at(0)
    return payload
"""
WAITS = """
import os, time

def work(payload):
    while os.path.exists("/etc/zpipe/hold"):
        time.sleep(0.05)
    time.sleep({pause})
    return payload
"""


def stream(name: str, rate: int = 2000, unacked: int = 10_000, queue: int = 1000) -> str:
    return STREAM.format(name=name, rate=rate, unacked=unacked, queue=queue)


def test_any_stage_is_killed_under_load(make: MakePipeline) -> None:
    pipeline = make("kills", stream("kills"), kills=PASS)
    pipeline.start()
    pipeline.wait_more(500)
    for turn in (1, 2):
        for stage in ("work", "store", "read"):
            service = pipeline.service(stage)
            after = since()
            killed = service.kill()
            service.wait_active(other_than=killed)
            assert service.get("NRestarts") == str(turn)
            assert any("status=9/KILL" in line for line in events(after, service.name))
            pipeline.wait_more(500)
    pipeline.stop()
    assert pipeline.assert_exactly_once() == pipeline.position()


def last_crash(name: str) -> dict[str, Any]:
    """What a monitor that was not there when it happened says of the stage `work`."""
    said = shell(f"zpipe monitor /etc/zpipe/{name}.toml --once --json --timeout 20")
    stage = json.loads(said)["stages"]["work"]
    return {"restarts": stage["restarts"], **(stage["last_crash"] or {})}


def test_what_ended_a_stage_is_in_the_journal_and_in_the_monitor(make: MakePipeline, hold: Path) -> None:
    """systemd alone knows of a kill -9, and tells the next life by ExecStopPost=."""
    patient = stream("crash", rate=200).replace("queue = {", "retry = { deaths = 1000 }\nqueue = {")
    pipeline = make("crash", patient, crash=CRASHES)
    work = pipeline.service("work")
    pipeline.start()
    pipeline.wait_more(100)
    assert last_crash("crash") == {"restarts": {}}

    after, killed = since(), work.pid
    work.hard_end()  # `systemctl kill` may end the command of ExecStopPost= too: then nobody knows
    work.wait_active(other_than=killed)
    wait_until(lambda: last_crash("crash")["restarts"] == {"SIGKILL": 1}, "the kill is counted")
    assert any('event=crash.found how="killed by SIGKILL"' in line for line in events(after, work.name))

    after, running = since(), work.pid
    hold.touch()  # while it is there each life crashes at its first message, and is hardly ever up
    wait_until(lambda: any("event=crash.found" in line for line in events(after, work.name)), "a life finds the crash")
    hold.unlink()
    work.wait_active(other_than=running)
    wait_until(lambda: "SIGSEGV" in last_crash("crash")["restarts"], "the crash is counted")
    found = [line for line in events(after, work.name) if "event=crash.found" in line]
    assert re.search(r'how="killed by SIGSEGV" messages_in_call=1 ids=read:\d+ restarts=2', found[0]), found
    pipeline.wait_more(100)
    pipeline.stop()
    pipeline.start()
    pipeline.wait_more(1)
    assert last_crash("crash") == {"restarts": {}}, "an end in order begins the count anew"
    pipeline.stop()
    pipeline.assert_exactly_once()


def test_all_of_them_are_killed_at_once(make: MakePipeline) -> None:
    pipeline = make("killall", stream("killall"), killall=PASS)
    pipeline.start()
    pipeline.wait_more(500)
    pids = {stage: pipeline.service(stage).pid for stage in ("read", "work", "store")}
    shell("systemctl kill -s KILL 'zpipe@killall.*'")
    for stage, pid in pids.items():
        pipeline.service(stage).wait_active(other_than=pid)
    pipeline.wait_more(500)
    pipeline.stop()
    assert pipeline.assert_exactly_once() == pipeline.position()


def test_watchdog_restarts_a_plugin_that_hangs_the_loop(make: MakePipeline, hold: Path) -> None:
    pipeline = make("hang", stream("hang"), hang=HANGS)
    work = pipeline.service("work")
    work.drop_in("WatchdogSec=2s")
    pipeline.start()
    pipeline.wait_more(500)
    others = {stage: pipeline.service(stage).pid for stage in ("read", "store")}
    hung, after = work.pid, since()
    hold.touch()
    wait_until(lambda: work.get("NRestarts") != "0", "the watchdog has it restarted")
    hold.unlink()
    work.wait_active(other_than=hung)
    said = events(after, work.name)
    assert any("Watchdog timeout" in line for line in said), said
    assert any('/etc/zpipe/hang.py", line 6 in work' in line for line in said), "the stack of the plugin is in the log"
    pipeline.wait_more(500)
    assert others == {stage: pipeline.service(stage).pid for stage in others}, "its neighbours are as they were"
    pipeline.stop()
    assert pipeline.assert_exactly_once() == pipeline.position()


def failed_once(pipeline: Pipeline, stage: str, after: str) -> str:
    """What `systemctl status` says of a stage that could not start."""
    service = pipeline.service(stage)
    state = service.wait_state("failed", "active")
    assert state == {
        "ActiveState": "failed",
        "SubState": "failed",  # not auto-restart
        "Result": "exit-code",
        "NRestarts": "0",
        "ExecMainStatus": "2",
    }
    assert sum("Main process exited" in line for line in events(after, service.name)) == 1
    return run("systemctl", "status", "--no-pager", "--full", service.name).stdout


def test_broken_config_fails_once_with_its_reason(make: MakePipeline) -> None:
    good = stream("broken")
    pipeline = make("broken", good, broken=PASS)
    pipeline.start()
    pipeline.wait_more(100)
    work, after = pipeline.service("work"), since()
    pipeline.config.write_text(good.replace('function = "broken.py:work"', 'funktion = "broken.py:work"'))

    running = work.pid
    reload = run("systemctl", "reload", work.name)
    assert reload.returncode != 0
    assert (work.active, work.pid) == (True, running), "it goes on as it was"
    assert "funktion" in run("systemctl", "status", "--full", work.name).stdout

    after = since()
    assert run("systemctl", "restart", work.name).returncode != 0
    status = failed_once(pipeline, "work", after)
    assert "did you mean 'function'?" in status, status
    assert re.search(r"/etc/zpipe/broken.toml:\d+: stages.work.options", status), status
    lines = journal(after, "-u", work.name, "-p", "warning")
    assert any("did you mean 'function'?" in str(line["MESSAGE"]) for line in lines), "it is found by its priority"
    assert pipeline.service("read").active
    assert pipeline.service("store").active

    pipeline.config.write_text(good)
    shell(f"systemctl start {work.name}")
    pipeline.wait_more(500)
    pipeline.stop()
    assert pipeline.assert_exactly_once() == pipeline.position()


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("odd.work", "must be PIPELINE.STAGE.N"),
        ("odd.wrok.1", "did you mean 'work'?"),
        ("odd.read.2", "is a head, which has one instance"),
        ("even.work.1", "/etc/zpipe/even.toml: cannot be read: No such file or directory"),
    ],
)
def test_unit_that_stands_for_nothing_fails_once(make: MakePipeline, unit: str, said: str) -> None:
    make("odd", stream("odd"), odd=PASS)
    service = f"zpipe@{unit}.service"
    assert run("systemctl", "start", service).returncode != 0
    assert run("systemctl", "show", "-P", "SubState", service).stdout == "failed\n"
    assert said in run("systemctl", "status", "--full", service).stdout
    shell(f"systemctl reset-failed {service}")


def test_long_stop_that_advances_is_not_killed(make: MakePipeline, hold: Path) -> None:
    """Everything the head has read has to be acked before it goes: up to 160 messages of 50 ms, with 3 s to stop in."""
    pipeline = make("slow", stream("slow", unacked=160, queue=80), slow=WAITS.format(pause=0.05))
    for stage in ("read", "work", "store"):
        pipeline.service(stage).drop_in("TimeoutStopSec=3s")
    pipeline.start()
    pipeline.wait_more(1)
    hold.touch()
    wait_until(lambda: pipeline.service("read").status_has(r"unsent (9\d|1\d\d)"), "the head can read no more")
    hold.unlink()
    after, began = since(), time.monotonic()
    pipeline.stop()
    assert time.monotonic() - began > 4, "it took longer than TimeoutStopSec"
    said = [str(entry["MESSAGE"]) for entry in journal(after)]
    assert not [line for line in said if "timed out" in line or "SIGKILL" in line]
    for stage in ("read", "work", "store"):
        assert pipeline.service(stage).get("Result") == "success"
    assert pipeline.assert_exactly_once() == pipeline.position()


def test_stuck_stop_is_killed_and_loses_nothing(make: MakePipeline, hold: Path) -> None:
    pipeline = make("stuck", stream("stuck", unacked=160, queue=80), stuck=WAITS.format(pause=0.05))
    for stage in ("read", "work", "store"):
        pipeline.service(stage).drop_in("TimeoutStopSec=2s")
    pipeline.start()
    pipeline.wait_more(1)
    hold.touch()
    wait_until(lambda: pipeline.service("read").status_has(r"unsent \d\d+.*, 0/s$"), "the head can read no more")
    stored, after = pipeline.count(), since()
    pipeline.stop()
    results = {stage: pipeline.service(stage).get("Result") for stage in ("read", "work", "store")}
    assert results == {"read": "timeout", "work": "timeout", "store": "success"}
    assert sum("timed out. Killing." in line for line in events(after, "zpipe@stuck.*")) == 2
    assert stored <= pipeline.count() < 100

    hold.unlink()
    pipeline.write(stream("stuck"), stuck=PASS)
    pipeline.start()
    pipeline.wait_more(500)
    pipeline.stop()
    assert pipeline.assert_exactly_once() == pipeline.position()


def test_drain_goes_on_through_a_kill(make: MakePipeline, hold: Path) -> None:
    """The stage in the middle dies when the head has stopped reading: it is started again, and drains."""
    pipeline = make("drained", stream("drained", unacked=160, queue=80), drained=WAITS.format(pause=0.001))
    pipeline.start()
    pipeline.wait_more(1)
    hold.touch()
    read, work = pipeline.service("read"), pipeline.service("work")
    wait_until(lambda: read.status_has(r"(unsent|unacked) \d\d.*, 0/s$"), "the head can read no more")
    command = [ZPIPE, "drain", str(pipeline.config), "--json"]
    with subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, text=True) as drain:
        wait_until(lambda: read.status_has("^DRAINING"), "the drain has begun")
        killed = work.kill()
        work.wait_active(other_than=killed)
        hold.unlink()
        said = drain.communicate(timeout=60)[0]
    assert drain.returncode == 0, said
    assert json.loads(said.splitlines()[-1])["balanced"], said
    for stage in ("read", "work", "store"):
        assert pipeline.service(stage).wait_state("inactive", "failed")["ActiveState"] == "inactive"
    assert pipeline.assert_exactly_once() == pipeline.position()


TCP = """
[pipeline]
name = "tcp"

[stages.read]
plugin = "generate"
options = { rate = 2000 }
listen = ["tcp://127.0.0.1:7461"]

[stages.store]
input = "read"
plugin = "sqlite"
batch = { messages = 100, timeout = "100ms" }
listen = ["tcp://127.0.0.1:7471", "tcp://127.0.0.1:7481"]
options = { path = "/var/lib/zpipe/data/tcp.db", table = "t", key = "id" }

[security]
insecure = true
"""


def test_tcp_links_work_in_their_sandbox(make: MakePipeline) -> None:
    """Two instances of the store, too, write one database."""
    pipeline = make("tcp", TCP)
    pipeline.start()
    shell("systemctl start zpipe@tcp.store.2")
    second = pipeline.service("store", 2)
    wait_until(lambda: second.status_has(r"done [1-9]\d\d"), "the second store has its share")
    pipeline.wait_more(500)
    pipeline.stop()
    assert pipeline.assert_exactly_once() == pipeline.position()
