"""A pipeline that ends by itself leaves nothing active: after a drain, whoever ordered it, and after the end of its source."""

from __future__ import annotations

import json
import subprocess

from machine import MakePipeline, run, shell, wait_until

ENDS = """
[pipeline]
name = "{name}"

[stages.read]
plugin = "generate"
options = {{ {source} }}

[stages.work]
input = "read"
plugin = "discard"
instances = 2
"""


def state(unit: str) -> str:
    return run("systemctl", "is-active", unit).stdout.strip()


def test_the_end_of_a_source_takes_the_target_along(make: MakePipeline) -> None:
    pipeline = make("finite", ENDS.format(name="finite", source="count = 2000, rate = 1000"))
    pipeline.start()
    wait_until(lambda: state(pipeline.target) == "inactive", "the target is inactive")
    for service in (pipeline.service("read"), pipeline.service("work"), pipeline.service("work", 2)):
        assert (service.get("ActiveState"), service.get("Result")) == ("inactive", "success")
    pipeline.start()  # and it can be started again
    wait_until(lambda: state(pipeline.target) == "active", "the target is active")
    wait_until(lambda: state(pipeline.target) == "inactive", "and ends again")


def test_a_drain_that_a_user_orders_does_so_too(make: MakePipeline) -> None:
    """As the screen's key does, by asking the head: nobody with root's rights is there."""
    pipeline = make("asked", ENDS.format(name="asked", source="rate = 500"))
    pipeline.start()
    done = run("runuser", "-u", "zpipe", "--", "/opt/zpipe/bin/zpipe", "drain", str(pipeline.config), "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["balanced"], done.stderr
    wait_until(lambda: state(pipeline.target) == "inactive", "the target is inactive")


def test_nothing_is_taken_along_by_less_than_an_end_of_all(make: MakePipeline) -> None:
    pipeline = make("goes-on", ENDS.format(name="goes-on", source="rate = 500"))
    pipeline.start()
    shell(f"zpipe drain {pipeline.config} work.2")
    pipeline.service("work", 2).wait_state("inactive")
    assert state(pipeline.target) == "active", "the others go on"
    pid = pipeline.service("work").kill()
    pipeline.service("work").wait_active(other_than=pid)
    assert state(pipeline.target) == "active", "a crash is no end"
    shell(f"systemctl restart 'zpipe@{pipeline.name}.*'")
    pipeline.service("read").wait_active()
    assert state(pipeline.target) == "active", "nor is a restart"
    log = subprocess.run(
        ["journalctl", "--no-pager", "-u", pipeline.target], capture_output=True, text=True, check=True
    )
    assert "Stopped target" not in log.stdout
