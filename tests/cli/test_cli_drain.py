"""What `zpipe drain` refuses before it looks for anybody."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tmux import Tmux

from zpipe.cli import group
from zpipe.errors import ConfigError


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["drain"], "--timeout"),
        (["monitor"], "--timeout"),
        (["monitor", "--check"], "--max-age"),
        (["tap"], "--timeout"),
        (["dead", "list"], "--older"),
    ],
)
@pytest.mark.parametrize("given", ["5", "5s", "2m", "250ms"])
def test_a_time_is_written_as_in_a_config(command: list[str], option: str, given: str) -> None:
    target = ["read"] if command == ["tap"] else []
    result = CliRunner().invoke(group, [*command, "no-such-file.toml", *target, option, given])
    assert "Invalid value" not in result.output
    assert isinstance(result.exception, ConfigError), "the time was read, and the config after it"


@pytest.mark.parametrize("command", ["drain", "monitor"])
@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1", "soon"])
def test_a_timeout_is_a_finite_time(tmp_path: Path, command: str, seconds: str) -> None:
    result = CliRunner().invoke(group, [command, str(tmp_path / "p.toml"), "--timeout", seconds])
    assert result.exit_code == 2
    assert "Invalid value for '--timeout'" in result.output


DRAIN_ON_SCREEN = """
import sys, time
from pathlib import Path
from zpipe.config import load
from zpipe.monitor.run.drain_progress import REDRAW_S, DrainProgress

config, last = load(Path(sys.argv[1])), {}
progress = DrainProgress(config, last, sys.stderr)
print("before", file=sys.stderr)
for left in (3, 2, 1):
    for stage in config.stages:
        last[stage, 1] = {"stage": stage, "instance": 1, "state": "DRAINING", "queued": left, "in_process": 0, "links": [],
                          "held_by": "the plugin: 503 Service Unavailable of http://service.example/a/long/path"}
    progress.turn()
    time.sleep(REDRAW_S)
if sys.argv[2] == "ends":
    progress.close()
print("after", file=sys.stderr)
"""


@pytest.mark.needs("tmux")
@pytest.mark.parametrize(("end", "kept"), [("ends", 0), ("stays", 4)])
def test_a_terminal_shows_each_instance_once(good: Path, tmp_path: Path, end: str, kept: int) -> None:
    """The lines are longer than the terminal is wide, and none is left of those drawn before."""
    terminal = Tmux(tmp_path, [sys.executable, "-c", DRAIN_ON_SCREEN, str(good), end], 60, 12)
    try:
        lines = [line for line in terminal.wait(lambda lines: "after" in lines, "the end") if line]
    finally:
        terminal.close()
    assert (lines[0], lines[-1], len(lines)) == ("before", "after", 2 + kept)
    wanted = [[f"{stage}.1", "DRAINING", "holds", "1"] for stage in ("read", "map", "errors")]
    assert [line.split()[:4] for line in lines[1:-1]][:3] == wanted[:kept]
