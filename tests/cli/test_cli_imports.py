"""What a command imports before it does anything: the greater part of the time after which a light one has answered.

Modules are counted, since the time depends on the machine. With 310 of them `--once` takes 0.2 s of a core, most of it for them.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

RECORDING = Path(__file__).parents[1] / "monitor" / "model" / "recordings" / "waits.ndjson.gz"
CONFIG = """
[pipeline]
name = "waits"
[telemetry]
interval = "500ms"
prometheus = "127.0.0.1:0"
[stages.read]
plugin = "generate"
[stages.work]
input = "read"
plugin = "discard"
[stages.store]
input = "work"
plugin = "discard"
"""
TELL = """
import json, sys
from zpipe.cli import main
try:
    main()
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
HEAVY = {
    "asyncio",
    "decimal",
    "email",
    "httpx",
    "multiprocessing",
    "opentelemetry",
    "prometheus_client",
    "rich",
    "sqlite3",
    "ssl",
    "statistics",
    "textual",
}
"""Each takes 10 ms or more, and none is of use for any of these."""
MOST = 330
"""Modules, with those that Python has at its start: 307 on Python 3.11. Others have some more."""
MOST_WITH_SERVER = 395


def modules(*arguments: str | Path, end_at: str = "") -> set[str]:
    """Those that are imported when the command is over; it is ended when it says `end_at`."""
    command = [sys.executable, "-c", TELL, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        if end_at:
            assert end_at in process.stderr.readline()
            process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    return set(json.loads(said.splitlines()[-1]))


@pytest.mark.parametrize(
    "options",
    [
        ["--once", "--replay", RECORDING],
        ["--once", "--json", "--replay", RECORDING],
        ["--json", "--replay", RECORDING],
        ["--once", "--timeout", "10ms"],
        ["--check", "--timeout", "10ms"],
        ["--json", "--timeout", "10ms", "--record", "FILE"],
    ],
    ids=lambda options: " ".join(str(one) for one in options if one != RECORDING),
)
def test_what_needs_no_screen_imports_none(home: Path, options: list[str | Path]) -> None:
    path = home / "p.toml"
    path.write_text(CONFIG)
    found = modules("monitor", path, *(home / "f" if one == "FILE" else one for one in options))
    assert not found & HEAVY
    assert len(found) <= MOST, sorted(found)


def test_serving_metrics_imports_what_serves_them_and_no_more(home: Path) -> None:
    path = home / "p.toml"
    path.write_text(CONFIG)
    found = modules("monitor", path, "--prometheus", end_at="metrics of pipeline")
    assert found & HEAVY <= {"prometheus_client", "email", "ssl"} and "prometheus_client" in found
    assert len(found) <= MOST_WITH_SERVER, sorted(found)


@pytest.mark.parametrize("command", [["--help"], ["--version"], ["completion", "show", "bash"]], ids=" ".join)
def test_what_asks_nobody_imports_no_socket(command: list[str]) -> None:
    found = modules(*command)
    assert not found & (HEAVY | {"zmq", "cbor2"})
