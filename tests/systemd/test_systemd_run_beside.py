"""Somebody tries `zpipe run` on a pipeline that units run: nothing happens to the units, and they are told what to do instead."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from machine import ENV, ZPIPE, MakePipeline, Pipeline, run, shell, wait_until
from test_systemd_failures import PASS, stream

STAGES = ("read", "work", "store")


def refused(pipeline: Pipeline) -> str:
    """What `zpipe run` says, as root: one line, with exit code 1."""
    done = run(ZPIPE, "run", str(pipeline.config))
    assert done.returncode == 1, done
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 1), done.stderr
    return done.stderr


def test_run_as_root_beside_the_units_is_refused_and_they_go_on(make: MakePipeline) -> None:
    pipeline = make("beside", stream("beside"), beside=PASS)
    pipeline.start()
    pipeline.wait_more(500)
    pids = {stage: pipeline.service(stage).wait_active() for stage in STAGES}
    said = refused(pipeline)
    assert f"read.1 (pid {pids['read']}, user zpipe, unit zpipe@beside.read.1.service)" in said
    assert "`zpipe drain /etc/zpipe/beside.toml`" in said
    assert "`systemctl stop zpipe-beside.target 'zpipe@beside.*'`" in said
    pipeline.wait_more(2000)
    assert {stage: pipeline.service(stage).pid for stage in STAGES} == pids
    assert {stage: pipeline.service(stage).get("NRestarts") for stage in STAGES} == dict.fromkeys(STAGES, "0")
    pipeline.stop()
    assert pipeline.assert_exactly_once() == pipeline.position()


def test_run_as_root_of_units_that_are_stopped_is_refused_and_they_start_again(make: MakePipeline) -> None:
    """Their state is of the user zpipe. A run by root must not make /run/zpipe its own either: no unit could start any more."""
    pipeline = make("beside", stream("beside"), beside=PASS)
    pipeline.start()
    pipeline.wait_more(100)
    pipeline.stop()
    shell("rm -rf /run/zpipe")
    said = refused(pipeline)
    assert "/var/lib/zpipe/beside." in said and "belongs to user zpipe, not to root" in said
    assert "`systemctl start zpipe-beside.target`" in said
    assert not Path("/run/zpipe").exists()
    pipeline.start()
    pipeline.wait_more(500)
    pipeline.stop()
    assert pipeline.assert_exactly_once() == pipeline.position()


def test_units_start_after_root_has_run_the_pipeline_by_hand(make: MakePipeline) -> None:
    pipeline = make("byhand", stream("byhand"), byhand=PASS)
    shell("rm -rf /run/zpipe /var/lib/zpipe/byhand.*")
    with subprocess.Popen([ZPIPE, "run", str(pipeline.config)], env=ENV) as process:
        pipeline.wait_more(100)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert run("stat", "-c", "%a %U", "/run/zpipe").stdout == "755 root\n"
    shell("chown zpipe:zpipe /var/lib/zpipe/data/byhand.db*")
    pipeline.start()
    stored = pipeline.count()
    wait_until(lambda: pipeline.count() > stored + 500, "the units go on where the run was")
    pipeline.stop()
    assert pipeline.assert_exactly_once() == pipeline.position()
