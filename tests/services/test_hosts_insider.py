"""A host whose key is trusted attacks the others, which are network namespaces: nothing is lost, their memory is bounded, what it
sends costs it its connections, and the log names it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from network import Network
from pipeline import wait_until
from spread import DEADLINE_S, HOSTS, Spread

from zpipe.daemon.service.limited_log import FAULTS_A_MINUTE, MINUTE_S

pytestmark = pytest.mark.timeout(900)
GROWTH_BYTES = 96 << 20
"""What the attack may cost an instance; frames that wait to be read are a part of it."""
PORTS = {"read.1": ("web1", 7000), "left.1": ("web2", 7100), "right.1": ("web1", 7200), "store.1": ("web2", 7300)}
SECONDS = 15.0


def attack(spread: Spread, seconds: float, seen: Callable[[], object] = bool) -> dict[str, int]:
    """From web3, by its key, for so many seconds and until `seen` returns. What it has sent."""
    folder = spread.net.hosts["web3"].folder / "k"
    places = {name: [host, spread.net.hosts[host].address, port] for name, (host, port) in PORTS.items()}
    plan: dict[str, Any] = {
        "secret": (folder / "web3.key").read_text().strip(),
        "public": spread.keys["web3"],
        "servers": spread.keys,
        "feedback": {name: places[name] for name in ("read.1", "left.1", "right.1", "store.1")},
        "inbox": {name: [*places[name][:2], places[name][2] + 2] for name in ("left.1", "right.1", "store.1")},
        "seconds": seconds,
    }
    insider = Path(__file__).with_name("insider.py")
    within = ["ip", "netns", "exec", spread.net.hosts["web3"].space]
    command = [*within, sys.executable, str(insider), json.dumps(plan)]
    piped = subprocess.PIPE
    with subprocess.Popen(command, stdin=piped, stdout=piped, stderr=piped, text=True) as attacker:
        try:
            seen()
        finally:
            said, trouble = attacker.communicate()
    assert attacker.returncode == 0, trouble
    sent: dict[str, int] = json.loads(said)
    return sent


def expect_flood(spread: Spread, host: str, stage: str) -> None:
    """Only while it goes on: a refusal is forgotten when nobody has tried again for a while."""
    words = "web3 sends frames that break the protocol, or that no session is open for"

    def shown() -> bool:
        return words in str(spread.stages(host)[stage]["refusals"])

    wait_until(shown, f"the monitor of {host} shows the flood", DEADLINE_S)


def flooded(spread: Spread, name: str) -> bool:
    """Whether the log has it, for this instance."""
    lines = spread.runs[PORTS[name][0]].stderr.splitlines()
    return any(f" {name} event=peer.flood " in line and "peer=web3" in line for line in lines)


def peak_bytes(pid: int) -> int:
    [kib] = re.findall(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(kib) * 1024


def test_an_insider_loses_nothing_and_pays_for_it(net: Network) -> None:
    count, rate = 60_000, 1000
    spread = Spread(net, count, rate)
    spread.start(*reversed(HOSTS))
    spread.wait_for(3_000, "all hosts work together")
    pids = [pid for host in ("web1", "web2") for pid in net.hosts[host].instances()]
    assert len(pids) == len(PORTS)
    before = {pid: peak_bytes(pid) for pid in pids}

    def seen() -> None:
        expect_flood(spread, "web1", "read")
        expect_flood(spread, "web2", "left")
        for name in PORTS:
            wait_until(partial(flooded, spread, name), f"the log of {name} has the flood", DEADLINE_S)

    sent = attack(spread, SECONDS, seen)
    assert sent["silent"] > 5 and all(sent[kind] > 300 for kind in ("hello", "statement", "garbage", "parcel")), sent
    for pid in pids:
        assert peak_bytes(pid) - before[pid] < GROWTH_BYTES, pid
    spread.end(count)
    for name, (host, _) in PORTS.items():
        log = spread.runs[host].stderr
        mine = [line for line in log.splitlines() if f" {name} " in line]
        malformed = [line for line in mine if "event=peer.malformed" in line]
        minutes = count / rate / MINUTE_S + 3
        assert 1 <= len(malformed) <= FAULTS_A_MINUTE * minutes
        assert not any("event=stage.died" in line for line in log.splitlines()), log[-3000:]


@pytest.mark.stress
def test_the_others_go_on_as_fast(net: Network) -> None:
    """By turns without the attack and under it, so that what else the machine does is the same for both."""
    spread = Spread(net, 10_000_000, rate=1000)
    spread.start(*reversed(HOSTS))
    spread.wait_for(3_000, "all hosts work together")
    stored, seconds = {True: 0, False: 0}, {True: 0.0, False: 0.0}
    for turn in range(8):
        attacked, before, began = turn % 2 == 1, spread.stored(), time.monotonic()
        if attacked:
            attack(spread, SECONDS)
        else:
            spread.runs["web1"].over_within(SECONDS)
        stored[attacked] += spread.stored() - before
        seconds[attacked] += time.monotonic() - began
    quiet, busy = (stored[attacked] / seconds[attacked] for attacked in (False, True))
    print(f"{busy:.0f} messages/s under the attack, {quiet:.0f} without: {busy / quiet:.3f}")
    assert busy >= 0.9 * quiet, (busy, quiet)
    assert wait_until(lambda: spread.runs["web1"].running, "it still runs")
