"""systemd/README.md, word for word, and what an operator sees on the way.

The sections of the page are run in its order; after each, what it promises is looked at. They build on one another. Those that
change the installed zpipe are in test_package.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from machine import DATA, UNITS, Pipeline, blocks, events, journal, run, sections, shell, since, wait_until

TABLE = "squares"
METRICS = "http://127.0.0.1:9464/metrics"
OF_THE_PACKAGE = ["Upgrade and remove zpipe", "Without the package"]
SECTIONS = [name for name in sections() if blocks(name) and name not in OF_THE_PACKAGE]
PLUGINS_NEED = (
    "aio_pika, apprise, boto3, confluent_kafka, croniter, httptools, httpx, jmespath, jsonschema, nats, nkeys, "
    "opentelemetry.sdk, paho.mqtt, prometheus_client, psycopg, pymysql, redis, sqlalchemy, textual_serve, uvicorn"
)
ORDER = ["read", "square", "store"]
"""Head first."""


class Path:
    """What the sections have in common: the pipeline, the journal from the section's beginning, and what its blocks said."""

    def __init__(self) -> None:
        self.steady = Pipeline("steady")
        self.start = ""
        self.said: list[str] = []


@pytest.fixture(scope="module")
def path(installed: None) -> Iterator[Path]:
    path = Path()
    yield path
    path.steady.remove()


@pytest.mark.parametrize("section", SECTIONS)
def test_section(section: str, path: Path) -> None:
    check = CHECKS[section]
    path.start = since()
    if section != "Install":  # the fixture did that
        path.said = [shell(block) for block in blocks(section)]
    check(path)


def installed_(path: Path) -> None:
    assert shell("zpipe --version").startswith("zpipe ")
    assert "/usr/share/man/man1/zpipe.1.gz" in shell("dpkg -L zpipe")
    assert shell("man --where zpipe zpipe-restart").count("/usr/share/man/man1/zpipe") == 2
    assert shell("zpipe check /etc/zpipe/example.toml").startswith("/etc/zpipe/example.toml: OK")
    shell(f"/opt/zpipe/bin/python -c 'import {PLUGINS_NEED}'")
    assert shell("stat -c '%U %a' /var/lib/zpipe/data") == "zpipe 700\n"


def added(path: Path) -> None:
    """Three commands, and it runs."""
    steady = path.steady
    assert len(blocks("Add a pipeline")[0].splitlines()) == 3
    assert f"create {UNITS}/{steady.target}\n" in path.said[0]
    assert not (UNITS / "zpipe@.service").exists(), "the package has it"
    wanted = run("systemctl", "show", "-P", "Wants", steady.target).stdout.split()
    assert {"zpipe@steady.square.1.service", "zpipe@steady.square.2.service"} <= set(wanted)
    assert run("systemctl", "is-active", steady.target).stdout == "active\n"
    assert run("systemctl", "is-enabled", steady.target).stdout == "enabled\n"
    for stage, n in (("read", 1), ("square", 1), ("square", 2), ("store", 1)):
        assert steady.service(stage, n).active, "start returns when all are ready"
    began = dict(moments(path.start, "Started "))
    assert began["store.1"] < min(began["square.1"], began["square.2"]), "the last stage starts first"
    assert max(began["square.1"], began["square.2"]) < began["read.1"], "the head starts last"
    steady.wait_more(1000, TABLE)


def looked_at(path: Path) -> None:
    said = path.said[0]
    assert re.search(r'Status: "RUNNING, depth \d+, in process \d+, .*/s"', said), said
    assert re.search(r"^[ >*]*square +run +2 ", said, re.MULTILINE), said
    assert re.search(r"^[ >*]*square -> store +\d+ ", said, re.MULTILINE), said
    assert said.count("loaded active running") == 4
    shown = json.loads(shell("zpipe monitor /etc/zpipe/steady.toml --once --json"))
    assert [shown["stages"][stage]["state"] for stage in ORDER] == ["RUNNING"] * 3
    assert {link["to"]: link["depth"] >= 0 for link in shown["links"]} == {"square": True, "store": True}


def metered(path: Path) -> None:
    monitor = path.steady.monitor
    assert "zpipe_instances{" in path.said[0], "start returns when it serves"
    assert monitor.status == "metrics of pipeline 'steady' at http://127.0.0.1:9464/metrics"
    assert monitor.get("PartOf") == path.steady.target
    running = 'stage="square",state="RUNNING"} 2.0'
    wait_until(lambda: running in run("curl", "--silent", METRICS).stdout, "it has heard of the instances")
    dead = monitor.kill()
    monitor.wait_active(other_than=dead)
    wait_until(lambda: running in run("curl", "--silent", METRICS).stdout, "it is started again")


def log_read(path: Path) -> None:
    last = path.said[0].splitlines()[-1]
    assert last.startswith("event=ready plugin=sqlite "), path.said[0]
    entry = journal_entry(path.steady, "event=ready plugin=sqlite")
    assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"]) == ("6", "steady.store.1")


def restarted(path: Path) -> None:
    """Under load: 2000 messages a second."""
    one = path.steady.service("square", 1)
    assert one.active
    said = events(path.start, one.name)
    assert any("event=leaving signal=SIGTERM" in line for line in said)
    assert any("event=exit state=STOPPED failed=False" in line for line in said)
    began = [unit for unit, _ in moments(path.start, "Started ")]
    assert began == ["square.1", "store.1", "square.1", "square.2", "read.1"], "then all, from the tail to the head"
    assert path.said[0].splitlines()[-1].startswith("zpipe-monitor@steady.service is ready again after ")
    path.steady.wait_more(4000, TABLE)


def scaled(path: Path) -> None:
    third = path.steady.service("square", 3)
    wait_until(lambda: done(third.status) > 500, "the third instance has its share")
    assert run("systemctl", "show", "-P", "Wants", path.steady.target).stdout.count("square") == 3
    assert third.get("PartOf") == path.steady.target


def reloaded(path: Path) -> None:
    lines = [line for unit in ("read.1", "square.1", "store.1") for line in events(path.start, f"zpipe@steady.{unit}")]
    assert sum("event=reloaded" in line for line in lines) >= 3, lines
    stops = [unit for unit, _ in moments(path.start, "Stopped ")]
    assert [stage_of(unit) for unit in stops] == ["read", "square", "square", "square", "store"], "restart: head first"
    path.steady.wait_more(1000, TABLE)


def stopped(path: Path) -> None:
    """Observed head first, and everything that was read is stored and committed."""
    asked = [(stage_of(unit), at) for unit, at in moments(path.start, "Stopping ")]
    over = [(stage_of(unit), at) for unit, at in moments(path.start, "Stopped ")]
    assert [stage for stage, _ in over] == ["read", "square", "square", "square", "store"], over
    for upstream, downstream in pairwise(ORDER):
        assert max(at for stage, at in over if stage == upstream) <= min(
            at for stage, at in asked if stage == downstream
        )
    assert not any("SIGKILL" in str(entry["MESSAGE"]) for entry in journal(path.start))
    ended = path.steady.monitor.wait_state("inactive", "failed")
    assert (ended["ActiveState"], ended["ExecMainStatus"]) == ("inactive", "0"), "it stops with the target, in order"
    last = path.steady.assert_exactly_once(TABLE)
    assert path.steady.position() == last
    assert path.steady.query(f"SELECT count(*) FROM {TABLE} WHERE square != id * id") == [(0,)]


def drained(path: Path) -> None:
    """Ends balanced; the next start goes on."""
    steady = path.steady
    steady.wait_more(1000, TABLE)
    before = steady.count(TABLE)
    done = run("zpipe", "drain", "/etc/zpipe/steady.toml", "--json")
    assert done.returncode == 0, done.stderr
    ledger = json.loads(done.stdout.splitlines()[-1])
    assert ledger["balanced"], ledger
    for link in ledger["links"]:
        assert link["sent"] == link["acked"] > 0, link
    for stage, n in (("read", 1), ("square", 1), ("square", 2), ("square", 3), ("store", 1)):
        state = steady.service(stage, n).wait_state("inactive", "failed")
        assert (state["ActiveState"], state["NRestarts"]) == ("inactive", "0"), (stage, n, state)
    assert before < steady.assert_exactly_once(TABLE) == steady.position()
    assert run("systemctl", "is-active", steady.target).stdout == "inactive\n", "a target of nothing is not active"
    shell("systemctl start zpipe-steady.target")
    steady.wait_more(100, TABLE)


def removed(path: Path) -> None:
    assert run("systemctl", "list-units", "--all", "--no-legend", "zpipe*steady*").stdout.strip() == ""
    assert not [one for one in UNITS.iterdir() if "steady" in one.name]
    assert (DATA / "steady.db").exists()
    path.steady.assert_exactly_once(TABLE)


def moments(after: str, what: str) -> list[tuple[str, int]]:
    """(STAGE.N, when) of systemd's own messages on units of the pipeline, in order."""
    found = []
    for entry in journal(after, "_PID=1"):
        unit = re.match(r"zpipe@steady\.(\w+\.\d+)\.service", entry.get("UNIT", ""))
        if unit and str(entry["MESSAGE"]).startswith(what):
            found.append((unit[1], int(entry["__MONOTONIC_TIMESTAMP"])))
    return found


def stage_of(unit: str) -> str:
    return unit.partition(".")[0]


def done(status: str) -> int:
    found = re.search(r"done (\d+)", status)
    return int(found[1]) if found else 0


def journal_entry(steady: Pipeline, text: str) -> dict[str, str]:
    lines = run("journalctl", "-o", "json", "-u", "zpipe@steady.*", "-g", text, "--no-pager").stdout.splitlines()
    entry: dict[str, str] = json.loads(lines[0])
    return entry


CHECKS: dict[str, Callable[[Path], None]] = {
    "Install": installed_,
    "Add a pipeline": added,
    "Look": looked_at,
    "Serve metrics": metered,
    "Read the log": log_read,
    "Restart": restarted,
    "Scale": scaled,
    "Change the config": reloaded,
    "Stop": stopped,
    "Drain": drained,
    "Remove a pipeline": removed,
}
