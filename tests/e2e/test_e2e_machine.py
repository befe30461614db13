"""What the machine does to a pipeline: descriptors run out, the clock is set, the reader of its output goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from e2e_types import MakePipeline
from pipeline import DEADLINE_S, Snapshot, ids, send, wait_until

from zpipe.core.telemetry.snapshot import broken

CONFIG = """
[pipeline]
name = "p"
[telemetry]
interval = "100ms"

[stages.read]
plugin = "generate"
options = {{ count = {count} }}

[stages.work]
input = "read"
plugin = "python"
options = {{ function = "work.py:work" }}

[stages.store]
input = "work"
plugin = "sqlite"
batch = {{ messages = 100, timeout = "50ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
"""

LEAKY = """
import os
import resource
import time

LIMIT = 90
resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
kept = []


def work(payload):
    kept.append(os.open(os.devnull, os.O_RDONLY))
    time.sleep(0.04)
    return payload
"""


def test_descriptors_run_out_and_the_stage_says_so_and_starts_again(make: MakePipeline) -> None:
    pipeline = make(CONFIG.format(count=100), work=LEAKY)
    run = pipeline.run()
    ledger = run.ledger()
    assert ledger["stages"]["work"]["restarts"] >= 1
    assert ledger["stages"]["work"]["dead"] == 0
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(100))
    said = [line for line in run.stderr.splitlines() if "event=descriptors.exhausted" in line]
    assert said and all("of 90 file descriptors are open: raise the limit" in line for line in said)
    assert "Traceback" not in run.stderr and "SIGABRT" not in run.stderr


CLOCK = """
import os
import time

_real = time.time


def _shifted():
    try:
        return _real() + float(open(os.environ["CLOCK_SHIFT"]).read() or 0)
    except OSError:
        return _real()


time.time = _shifted
"""

SLOW = """
import time


def work(payload):
    time.sleep(0.002)
    return payload
"""

HELD = """
import time
from pathlib import Path

SET = Path(__file__).with_name("set")


def work(payload):
    while payload["id"] == 3000 and not SET.exists():
        time.sleep(0.01)
    time.sleep(0.002)
    return payload
"""
"""Goes no further than that before the clock was set for the last time. What the source has given with it, up to a parcel of 1024
messages, does not count as finished until then."""


def test_clock_that_is_set_changes_nothing(make: MakePipeline) -> None:
    """Two hours back, then three ahead, under daemons and their supervisor; one of them is started in the past."""
    pipeline = make(CONFIG.format(count=4000), work=HELD, sitecustomize=CLOCK)
    shift = pipeline.folder / "shift"
    pipeline.env |= {"PYTHONPATH": str(pipeline.folder), "CLOCK_SHIFT": str(shift)}
    run = pipeline.run()
    seen: list[Snapshot] = []
    with pipeline.watch() as watch:

        def finished() -> int:
            seen.extend(watch.poll(0.0))
            return int(watch.snapshots.get(("read", 1), defaultdict(int))["finished"])

        wait_until(lambda: finished() > 300, "it works")
        set_clock(shift, -7200)
        pipeline.kill("work")
        wait_until(lambda: finished() > 1000, "it works in the past")
        set_clock(shift, 10_800)
        (pipeline.folder / "set").touch()
        wait_until(lambda: finished() > 3000 or not run.running, "it works in the future")
    ledger = run.ledger()
    assert ledger["seconds"] < DEADLINE_S
    assert ledger["stages"]["work"]["restarts"] == 1, run.stderr
    assert ids(pipeline.query("SELECT id FROM t ORDER BY id")) == list(range(4000))
    for snapshot in seen:
        assert broken(snapshot) == []
        figures = [snapshot["rate_in"], snapshot["rate_out"], snapshot["oldest_s"]]
        figures += [value for row in snapshot["latency"].values() for value in row.values()]
        assert min(figures) >= 0, snapshot
    for name in ("read", "store"):
        times = [snapshot["at"] for snapshot in seen if snapshot["stage"] == name]
        assert times == sorted(times) and times[-1] - times[0] < DEADLINE_S, "the times of one incarnation do not jump"


def set_clock(shift: Path, seconds: float) -> None:
    part = shift.with_suffix(".part")
    part.write_text(str(seconds))
    part.replace(shift)


WAITING = """
import time
from pathlib import Path

from zpipe import hookimpl

here = Path(__file__).parent
(here / "importing").touch()
while not (here / "gate").exists():
    time.sleep(0.005)


@hookimpl
def zpipe_process(message):
    return message.payload
"""


def test_reload_that_comes_before_the_plugin_is_loaded_waits(make: MakePipeline) -> None:
    text = CONFIG.format(count=10).replace('plugin = "python"', 'plugin = "./slow.py"')
    pipeline = make(text.replace('options = { function = "work.py:work" }\n', ""), slow=WAITING)
    stage = pipeline.stage("work")
    wait_until(lambda: (pipeline.folder / "importing").exists(), "the plugin is being imported")
    send(stage.pid, signal.SIGHUP)
    (pipeline.folder / "gate").touch()
    wait_until(lambda: "event=reloaded" in stage.stderr or not stage.running, "it was reloaded")
    assert stage.running, stage.stderr


def test_reload_of_a_run_whose_instances_are_only_starting_waits(make: MakePipeline) -> None:
    pipeline = make(CONFIG.format(count=10), work=SLOW)
    run = pipeline.run("--log-level", "info")
    wait_until(lambda: pipeline.instances() or not run.running, "it has spawned the first")
    send(run.pid, signal.SIGHUP)
    assert run.ledger()["balanced"]
    assert "event=run.reload" in run.stderr
    assert "event=stage.died" not in run.stderr, run.stderr
    assert "event=reloaded" in run.stderr


def test_reload_of_another_number_of_instances_asks_for_no_restart(make: MakePipeline) -> None:
    pipeline = make(CONFIG.format(count=10), work=SLOW)
    stage = pipeline.stage("work")
    wait_until(lambda: "event=ready" in stage.stderr, "it is ready")
    text = pipeline.path.read_text()
    pipeline.path.write_text(text.replace('plugin = "python"', 'plugin = "python"\ninstances = 3'))
    send(stage.pid, signal.SIGHUP)
    wait_until(lambda: "event=reloaded" in stage.stderr, "it was reloaded")
    assert "needs_restart" not in stage.stderr
    pipeline.path.write_text(text.replace('plugin = "python"', 'plugin = "python"\nretry = { attempts = 7 }'))
    send(stage.pid, signal.SIGHUP)
    wait_until(lambda: "needs_restart=stages.work.retry" in stage.stderr, "that does need one")


PRINTED = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = { count = 200_000 }

[stages.print]
input = "read"
plugin = "ndjson"
batch = { messages = 100, timeout = "50ms" }
options = { path = "-" }
"""


def test_run_whose_output_nobody_reads_fails(make: MakePipeline) -> None:
    """`zpipe run … | head`"""
    pipeline = make(PRINTED)
    errors = pipeline.home / "head.err"
    with errors.open("wb") as stderr:
        run = subprocess.Popen(
            [sys.executable, "-m", "zpipe", "run", str(pipeline.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=pipeline.env,
        )
    assert run.stdout is not None
    try:
        assert run.stdout.readline() == b'{"id":0}\n'
        run.stdout.close()
        code = run.wait(DEADLINE_S)
    finally:
        run.kill()
        run.wait()
    text = errors.read_text()
    assert code == 1, text
    assert "nobody reads standard output any more" in text
    assert "event=run.failed" in text and "Traceback" not in text
    assert pipeline.letters("print") == [], "nothing is given up for it"
    assert (pipeline.position("read") or 0) < 199_999, "nothing is taken for done"


WAITS = """
[pipeline]
name = "p"
[telemetry]
interval = "100ms"

[stages.read]
plugin = "generate"
unacked = { messages = 500 }

[stages.work]
input = "read"
plugin = "python"
unacked = { messages = 500 }
options = { function = "work.py:work" }

[stages.store]
input = "work"
plugin = "discard"
"""


def test_stages_whose_downstream_is_gone_wait_and_do_nothing(make: MakePipeline) -> None:
    pipeline = make(WAITS, work="def work(payload):\n    return payload\n")
    pids = {stage: pipeline.stage(stage).pid for stage in ("read", "work")}
    with pipeline.watch() as watch:

        def last(stage: str) -> Snapshot:
            watch.poll(0.0)
            return watch.snapshots.get((stage, 1), defaultdict(int))

        def holds(stage: str) -> int:
            return sum(link["in_flight"] + link["unsent"] for link in last(stage)["links"] or ())

        wait_until(lambda: min(holds("read"), holds("work")) >= 500, "both are full")
        cut = {stage: (last(stage)["at"], ticks(pid)) for stage, pid in pids.items()}
        for stage, pid in pids.items():
            at, before = cut[stage]
            wait_until(lambda stage=stage, at=at: last(stage)["at"] >= at + 4, "four seconds of waiting")
            share = (ticks(pid) - before) / os.sysconf("SC_CLK_TCK") / (last(stage)["at"] - at)
            assert share < 0.1, f"{stage} takes {share:.0%} of a processor for waiting"
            assert 500 <= holds(stage) <= 500 + 512


def ticks(pid: int) -> int:
    """Processor time of a process, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_log_that_cannot_be_written_stops_nothing(make: MakePipeline) -> None:
    """Also where Python keeps what it could not write, which it does unless the user's environment forbids it."""
    pipeline = make(CONFIG.format(count=1000), work="def work(payload):\n    return payload\n")
    pipeline.env.pop("PYTHONUNBUFFERED", None)
    with open("/dev/full", "wb") as full:
        run = subprocess.run(
            [sys.executable, "-m", "zpipe", "run", str(pipeline.path), "--log-level", "debug"],
            stdout=subprocess.DEVNULL,
            stderr=full,
            env=pipeline.env,
            timeout=DEADLINE_S,
        )
    assert run.returncode == 0
    assert pipeline.count() == 1000
