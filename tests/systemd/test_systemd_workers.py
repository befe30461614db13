"""Worker processes in a sandboxed unit: they start, die and are replaced in it, and do not keep it from stopping in order."""

from __future__ import annotations

from pathlib import Path

from machine import MakePipeline, Service, events, shell, since, wait_until

CONFIG = """
[pipeline]
name = "pools"

[stages.read]
plugin = "generate"
options = { rate = 1000 }

[stages.work]
input = "read"
plugin = "./pools.py"
workers = { kind = "process", count = 2, timeout = "1s", memory = "1GiB", recycle_messages = 300 }

[stages.store]
input = "work"
plugin = "sqlite"
batch = { messages = 100, timeout = "100ms" }
options = { path = "/var/lib/zpipe/data/pools.db", table = "t", key = "id" }
"""
PLUGIN = """
import ctypes
import sys

from zpipe import hookimpl


@hookimpl
def zpipe_process(message):
    if message.attempt == 1 and message.payload["id"] % 1000 == 7:
        ctypes.string_at(0)
    if message.attempt == 1 and message.payload["id"] == 501:
        ctypes.PyDLL(None).sleep(3600)  # with the interpreter's lock
    return message.payload


@hookimpl
def zpipe_close():
    print("a worker closes its plugin", file=sys.stderr, flush=True)
"""


def processes(service: Service) -> list[int]:
    group = service.get("ControlGroup")
    return [int(line) for line in Path(f"/sys/fs/cgroup{group}/cgroup.procs").read_text().split()]


def test_workers_die_and_are_replaced_in_the_sandbox_and_leave_in_order(make: MakePipeline) -> None:
    pipeline = make("pools", CONFIG, pools=PLUGIN)
    after = since()
    pipeline.start()
    work = pipeline.service("work")
    daemon = work.wait_active()
    for said in (
        "its worker process was killed by SIGSEGV",
        "in zpipe_process",
        "its call outlived the timeout of 1 s",
        "event=worker.replaced",
    ):
        wait_until(lambda said=said: said in "\n".join(events(after, work.name)), said)  # type: ignore[misc]
    pipeline.wait_more(500)
    wait_until(lambda: len(processes(work)) == 3, "both workers are there")
    assert (work.pid, work.get("NRestarts")) == (daemon, "0")

    after = since()
    shell(f"systemctl kill --kill-whom=all -s TERM {work.name}")
    work.wait_state("inactive", "failed")
    assert work.get("Result") == "success"
    assert any("a worker closes its plugin" in line for line in events(after, work.name))
    assert not any("SIGTERM" in line and "worker" in line for line in events(after, work.name))
    shell(f"systemctl start {work.name}")
    pipeline.wait_more(500)
    pipeline.stop()
    assert pipeline.assert_exactly_once() == pipeline.position()
