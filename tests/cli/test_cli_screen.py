"""The live screen of `zpipe monitor` in real terminals, on real daemons."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tmux import Tmux, monitor, shape

from zpipe.monitor.screen.screen import QUESTIONS

GOLDEN = Path(__file__).parent / "golden"
CONFIG = """
[pipeline]
name = "watched"
[telemetry]
interval = "250ms"
[stages.make]
plugin = "generate"
options = { rate = 100 }
[stages.sort]
input = "make"
plugin = "python"
options = { function = "work.py:work" }
[stages.sink]
input = "sort"
plugin = "discard"
"""
WORK = "def work(payload):\n    return payload\n"
STAGES = ("make", "sort", "sink")
Open = Callable[..., Tmux]


@pytest.fixture
def config(home: Path) -> Path:
    (home / "work.py").write_text(WORK)
    path = home / "watched.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def start(config: Path) -> Iterator[Callable[[], dict[str, subprocess.Popen[bytes]]]]:
    """Starts the daemons; they are gone after the test."""
    with ExitStack() as stack:

        def start() -> dict[str, subprocess.Popen[bytes]]:
            started = {}
            for stage in reversed(STAGES):
                command = [sys.executable, "-m", "zpipe", "stage", str(config), stage]
                process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
                stack.callback(process.kill)
                started[stage] = process
            return started

        yield start


@pytest.fixture
def open_terminal(home: Path, config: Path) -> Iterator[Open]:
    opened: list[Tmux] = []

    def open_one(width: int, height: int, *options: str, **env: str) -> Tmux:
        opened.append(Tmux(home, monitor(config, *options), width, height, **env))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def all_run(lines: list[str]) -> bool:
    """Every stage runs, messages flow, and what limits them is known."""
    text = "\n".join(lines)
    rows = [line.split() for line in lines if line.lstrip(" >*").split()[1:2] == ["run"]]
    return len(rows) == 3 and "make is the limit" in text and bool(re.search(r"sink\s+run\s+(1\s+)?\d\d", text))


def test_screens_of_every_size_follow_the_same_terminal(start: Callable[[], object], open_terminal: Open) -> None:
    start()
    terminal = open_terminal(80, 24, TERM="screen-256color", LANG="C.UTF-8", PYTHONUTF8="1")
    for width, height in ((80, 24), (120, 40), (200, 60), (60, 12)):
        terminal.resize(width, height)
        golden = (GOLDEN / f"screen-{width}x{height}.txt").read_text()
        wide = width >= 120
        # A resized terminal first shows the old screen, broken anew: what is waited for is the whole of the next one,
        # and the columns that only a wide one has are how a wide screen is told from a narrow one in a wide window.
        lines = terminal.wait(
            lambda lines, golden=golden, height=height, wide=wide: (
                all_run(lines)
                and len(lines) == height
                and shape(lines) == golden
                and ("BYTES" in "\n".join(lines)) == wide
            ),
            f"the screen fits {width}x{height}, {'with' if wide else 'without'} BYTES:\n{golden}",
        )
        assert max(map(len, lines)) <= width
    terminal.press("d")
    for width, height in ((40, 12), (60, 20)):
        terminal.resize(width, height)
        terminal.wait(
            lambda lines, height=height: len(lines) == height and QUESTIONS[0] in " ".join(" ".join(lines).split()),
            f"the question is whole in {width}x{height}",
        )
    terminal.press("n", "Escape")
    terminal.resize(10, 3)
    terminal.wait(lambda lines: lines[-1] == "q quit", "the smallest window has the way out")
    assert terminal.ask("alternate_on") == "1"
    terminal.press("q")
    terminal.wait(lambda lines: not "".join(lines).strip(), "the terminal is as it was")
    assert terminal.ask("alternate_on") == "0"


def test_keys_pause_resume_details_help_and_a_drain_that_asks(start: Callable[[], object], open_terminal: Open) -> None:
    start()
    terminal = open_terminal(100, 40)
    terminal.wait(all_run, "the pipeline runs")
    terminal.press("p")
    terminal.wait(lambda lines: lines[-1].startswith("choose the stage to pause"), "a stage has to be chosen")
    terminal.press("j", "Down", "p")
    terminal.wait(lambda lines: any("sort is paused" in line for line in lines), "the pause is shown, and what to do")
    terminal.wait(lambda lines: any("sort.1 is paused" in line for line in lines), "and it is an event")
    terminal.press("Enter")
    terminal.wait(lambda lines: any(line.startswith("sort.1 RUNNING") for line in lines), "details of the stage")
    terminal.press("Escape")
    terminal.press("r")
    terminal.wait(lambda lines: any("sort.1 goes on" in line for line in lines), "it was resumed")
    terminal.press("s")
    terminal.wait(lambda lines: lines[-1].startswith("sorted by depth"), "sorted")
    terminal.wait(lambda lines: lines[-1].startswith("j/k choose"), "after a while the keys are there again")
    terminal.press("h")
    terminal.wait(lambda lines: any(line.startswith("enter") for line in lines), "help")
    terminal.press("x")
    terminal.press("d")
    terminal.wait(lambda lines: lines[-1].startswith("Drain the whole pipeline?"), "it asks first")
    terminal.press("n")
    terminal.wait(lambda lines: lines[-1].startswith("nothing is drained"), "no is no")
    terminal.press("d")
    terminal.wait(lambda lines: lines[-1].startswith("Drain the whole pipeline?"), "it asks again")
    terminal.press("y")
    stopped = "zpipe: every instance of pipeline 'watched' has stopped"
    terminal.wait(lambda lines: "".join(lines).strip() == stopped, "drained: the screen is left, with a word")


def test_a_pipeline_that_is_not_up_yet_is_waited_for_and_a_stage_that_vanishes_is_marked(
    start: Callable[[], dict[str, subprocess.Popen[bytes]]], open_terminal: Open
) -> None:
    terminal = open_terminal(100, 30)
    lines = terminal.wait(
        lambda lines: any("Listening for pipeline" in line for line in lines), "it does not know yet whether it runs"
    )
    assert sum(" unheard " in line for line in lines) == 3
    lines = terminal.wait(
        lambda lines: any("Waiting for pipeline" in line for line in lines), "it says what it waits for"
    )
    assert sum(" absent " in line for line in lines) == 3
    processes = start()
    terminal.wait(all_run, "then it is there")
    processes["sink"].send_signal(signal.SIGKILL)
    lines = terminal.wait(
        lambda lines: any("silent" in line and "sink" in line for line in lines), "the stage is silent"
    )
    terminal.wait(lambda lines: any("stale" in line for line in lines), "the figures of its link are marked as stale")
    terminal.wait(lambda lines: any("sink.1 is silent" in line for line in lines), "and it is an event")


@pytest.mark.parametrize("name", ["TERM", "HUP"])
def test_a_signal_that_ends_it_gives_the_terminal_back(
    start: Callable[[], object], open_terminal: Open, name: str
) -> None:
    start()
    terminal = open_terminal(100, 30)
    terminal.wait(all_run, "the pipeline runs")
    assert (terminal.ask("alternate_on"), terminal.ask("cursor_flag")) == ("1", "0")
    os.kill(int(terminal.ask("pane_pid")), getattr(signal, f"SIG{name}"))
    terminal.wait(lambda _: terminal.ask("pane_dead") == "1", "it has ended")
    assert terminal.ask("alternate_on") == "0"


def test_ctrl_z_gives_the_terminal_back_and_what_was_there_is_drawn_again(
    start: Callable[[], object], config: Path, home: Path
) -> None:
    """In a shell: tmux itself has whatever it runs go on."""
    start()
    with ExitStack() as stack:
        terminal = Tmux(home, ["bash", "--norc"], 103, 30)
        stack.callback(terminal.close)
        terminal.press(" ".join(monitor(config)), "Enter")
        terminal.wait(all_run, "the pipeline runs")
        terminal.press("C-z")
        terminal.wait(lambda _: terminal.ask("alternate_on") == "0", "the terminal is the shell's")
        assert terminal.ask("cursor_flag") == "1"
        terminal.press("echo vis''ible", "Enter")
        terminal.wait(lambda lines: "visible" in lines, "what is typed does what it should")
        terminal.press("fg", "Enter")
        terminal.wait(lambda lines: terminal.ask("alternate_on") == "1" and all_run(lines), "the screen is back")
        terminal.press("q")
        terminal.wait(lambda lines: "visible" in lines, "its keys work")


def test_without_a_keyboard_it_says_how_to_leave(start: Callable[[], object], config: Path, home: Path) -> None:
    start()
    with ExitStack() as stack:
        command = " ".join(monitor(config))
        terminal = Tmux(home, ["bash", "-c", f"exec {command} < /dev/null"], 104, 30)
        stack.callback(terminal.close)
        terminal.wait(lambda lines: all_run(lines) and lines[-1].startswith("Ctrl-C quits"), "it shows the pipeline")
        terminal.press("C-c")
        terminal.wait(lambda _: terminal.ask("pane_dead") == "1", "it has ended")
        assert (terminal.ask("alternate_on"), terminal.ask("pane_dead_status")) == ("0", "0")


def test_without_colour_there_is_none(start: Callable[[], object], open_terminal: Open) -> None:
    start()
    plain = open_terminal(80, 24, NO_COLOR="1", TERM="screen-256color")
    plain.wait(all_run, "the pipeline runs")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", "\n".join(plain.screen("-e")))
    coloured = open_terminal(81, 24, TERM="screen-256color")
    coloured.wait(all_run, "the pipeline runs")
    assert re.search(r"\x1b\[[0-9;]*3[0-7]", "\n".join(coloured.screen("-e")))


def test_a_dumb_terminal_gets_plain_text(start: Callable[[], object], open_terminal: Open) -> None:
    start()
    terminal = open_terminal(80, 40, "--timeout", "60", TERM="dumb")
    lines = terminal.wait(lambda lines: "\n".join(lines).count("STATE") >= 3, "one status below the other")
    assert terminal.ask("alternate_on") == "0"
    assert not re.search(r"\x1b", "\n".join(lines))


def test_a_recording_is_scrubbed_through(
    start: Callable[[], object], open_terminal: Open, config: Path, home: Path
) -> None:
    start()
    path = home / "r.ndjson"
    terminal = open_terminal(100, 30, "--record", str(path))
    terminal.wait(all_run, "the pipeline runs")
    terminal.wait(lambda _: path.read_text().count("\n") > 30, "some seconds are recorded")
    terminal.press("q")
    terminal.wait(lambda lines: not "".join(lines).strip(), "recorded")
    terminal = open_terminal(101, 30, "--replay", str(path))
    terminal.wait(lambda lines: "recorded" in lines[0] and "playing x1" in lines[0], "it plays")
    terminal.press("End")
    terminal.wait(lambda lines: all_run(lines) and "stopped" in lines[0], "the end is as it was")
    terminal.press("Home")
    terminal.wait(lambda lines: "+0.0 s of" in lines[0], "the beginning")
    terminal.press("Right")
    terminal.wait(lambda lines: re.search(r"\+0\.[1-9] s of", lines[0]) is not None, "one step on")
    terminal.press("p")
    terminal.wait(lambda lines: lines[-1].startswith("this is a recording"), "nobody can be paused")


@pytest.mark.stress
def test_twenty_stages_cost_the_monitor_one_percent_of_a_core(home: Path) -> None:
    """N10. Processor time, not wall time: the machine may have other work."""
    text = '[pipeline]\nname = "wide"\n[stages.s00]\nplugin = "generate"\noptions = { rate = 50 }\n'
    for n in range(1, 20):
        text += (
            f'[stages.s{n:02d}]\ninput = "s{n - 1:02d}"\nplugin = "python"\noptions = {{ function = "work.py:work" }}\n'
        )
    (home / "work.py").write_text(WORK)
    path = home / "wide.toml"
    path.write_text(text)
    run = subprocess.Popen(
        [sys.executable, "-m", "zpipe", "run", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    terminal = Tmux(home, monitor(path), 80, 40)
    try:
        began = time.monotonic()
        lines = terminal.wait(
            lambda lines: sum(" run " in line for line in lines) == 20, "all twenty are on the screen"
        )
        assert sum(f"s{n:02d} " in "\n".join(lines) for n in range(20)) == 20
        terminal.close()
        began = time.monotonic()
        terminal = Tmux(home, monitor(path), 80, 40)
        terminal.wait(lambda lines: sum(" run " in line for line in lines) == 20, "again, with all of them there")
        first_s, first_cpu_s = time.monotonic() - began, cpu_s(int(terminal.ask("pane_pid")))
        before, at = first_cpu_s, time.monotonic()
        threading.Event().wait(30.0)
        share = (cpu_s(int(terminal.ask("pane_pid"))) - before) / (time.monotonic() - at)
        print(f"first full screen {first_s:.2f} s ({first_cpu_s:.2f} s of processor), then {share:.2%} of a core")
        assert first_cpu_s <= 1.0
        assert share <= 0.01
    finally:
        terminal.close()
        for _ in range(2):
            run.send_signal(signal.SIGINT)
            threading.Event().wait(1.0)
        run.communicate(timeout=60)


def cpu_s(pid: int) -> float:
    """Processor time of the process and those that it waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
