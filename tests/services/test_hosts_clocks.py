"""A host whose clock is an hour ahead of the others', in real daemons: all is stored once, and monitors and doctors say it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from network import Network
from pipeline import wait_until
from spread import DEADLINE_S, HOSTS, Spread

pytestmark = pytest.mark.timeout(900)
AHEAD_S = 3660
CLOCK = f"""
import time

_now = time.time
time.time = lambda: _now() + {AHEAD_S}
"""
"""Python runs it at each start on that host: what libfaketime would do for programs in other languages."""


def test_a_clock_an_hour_ahead_is_said_and_makes_nothing_wrong(net: Network, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    net.hosts["web2"].more_env = {"PYTHONPATH": str(tmp_path)}
    count = 40_000
    spread = Spread(net, count, rate=1000)
    spread.start(*reversed(HOSTS))
    spread.wait_for(2_000, "all hosts work together")

    def value(host: str) -> dict[str, Any]:
        shown = net.hosts[host].zpipe("monitor", str(spread.paths[host]), "--once", "--json", "--timeout", "10s")
        shown.wait()
        found: dict[str, Any] = json.loads(shown.stdout or "{}")
        return found

    seen = wait_until(lambda: (found := value("web1")) and found["clocks"] and found, "web1 says it", DEADLINE_S)
    assert seen["clocks"] == {"web2": pytest.approx(AHEAD_S, abs=2.0)}
    stages = seen["stages"]
    assert "since_origin" not in stages["store"]["latency"], "it runs on web2, and the source on web1"
    assert "in_stage" in stages["store"]["latency"]
    ages = [stage["oldest_s"] for stage in stages.values()] + [link["oldest_s"] for link in seen["links"]]
    assert all(age is None or 0.0 <= age < DEADLINE_S for age in ages), ages
    assert set(value("web2")["clocks"]) == {"web1", "web3"}, "for web2 it is the others whose clocks are behind"
    table = net.hosts["web1"].zpipe("monitor", str(spread.paths["web1"]), "--once", "--timeout", "10s")
    table.wait()
    assert "clock of web2 is 61 min ahead" in " ".join(table.stdout.split())
    doctor = net.hosts["web1"].zpipe("doctor", str(spread.paths["web1"]), "--json", "--timeout", "10s")
    doctor.wait()
    said = [one["what"] for one in json.loads(doctor.stdout)["findings"] if one["area"] == "clocks"]
    assert "the clock of web2 is 61 min ahead of this one" in said
    spread.end(count)
