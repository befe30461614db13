"""The live screen of `zpipe monitor` in real terminals, on real daemons."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tmux import Tmux, monitor

pytestmark = pytest.mark.needs("tmux")

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
    return text.count("●") >= 3 and "make is the limit" in text and bool(re.search(r"\b\d\d+/s", text))


def test_screens_of_every_size_follow_the_same_terminal(start: Callable[[], object], open_terminal: Open) -> None:
    start()
    terminal = open_terminal(80, 24, TERM="screen-256color", LANG="C.UTF-8", PYTHONUTF8="1")
    for width, height in ((80, 24), (120, 40), (200, 60), (60, 16)):
        terminal.resize(width, height)
        # Only tall windows have tiles, only high ones what waits, and only wide ones a panel beside the graph.
        lines = terminal.wait(
            lambda lines, width=width, height=height: (
                all_run(lines)
                and len(lines) == height
                and all(f" {name} " in "\n".join(lines) for name in STAGES)
                and ("end to end p50" in "\n".join(lines[:3])) == (width >= 118)
                and ("what waits" in "\n".join(lines)) == (height >= 40)
                and ("in the stage" in "\n".join(lines) or "│ make" in "\n".join(lines)) == (width == 200)
                and "quit" in lines[-1]
            ),
            f"the screen fits {width}x{height}",
        )
        assert max(map(len, lines)) <= width
    terminal.press("d")
    for width, height in ((40, 16), (60, 20)):
        terminal.resize(width, height)
        terminal.wait(
            lambda lines: "Drain the whole pipeline" in "\n".join(lines) and "y: yes" in "\n".join(lines),
            f"the question is there in {width}x{height}",
        )
    terminal.press("n")
    terminal.wait(lambda lines: "y: yes" not in "\n".join(lines), "no is no")
    assert terminal.ask("alternate_on") == "1"
    terminal.press("q")
    terminal.wait(lambda lines: not "".join(lines).strip(), "the terminal is as it was")
    assert terminal.ask("alternate_on") == "0"


def shows(*texts: str) -> Callable[[list[str]], bool]:
    """Whether all of them are on the screen."""
    return lambda lines: all(text in "\n".join(lines) for text in texts)


def test_keys_pause_resume_details_help_and_a_drain_that_asks(start: Callable[[], object], open_terminal: Open) -> None:
    start()
    terminal = open_terminal(120, 40)
    terminal.wait(all_run, "the pipeline runs")
    terminal.press("j", "Right", "p")
    terminal.wait(shows("Pause sort?", "1 instance"), "it asks first, in numbers")
    terminal.press("y")
    terminal.wait(shows("sort is paused"), "the pause is shown, and what to do")
    terminal.press("6")
    terminal.wait(shows("sort.1 is paused"), "and it is an event")
    terminal.press("1", "Enter")
    terminal.wait(shows("sort.1", "options", "plugin python"), "the stage")
    terminal.press("r")
    terminal.wait(shows("Resume sort?"), "it asks first")
    terminal.press("y")
    terminal.press("6")
    terminal.wait(shows("sort.1 goes on"), "it was resumed")
    terminal.press("2", "s")
    terminal.wait(shows("sorted by name"), "sorted")
    terminal.press("/")
    terminal.wait(shows("words that must stand"), "the filter has the keys")
    terminal.press("s", "i", "n", "Enter")
    terminal.wait(lambda lines: "only: sin" in "\n".join(lines) and not shows("● sort")(lines), "filtered")
    terminal.press("Escape")
    terminal.wait(shows("● running", "sort  "), "all of them again")
    terminal.press("4")
    terminal.wait(shows("make → sort", "at the receiver"), "the links")
    terminal.press("?")
    terminal.wait(shows("deeper: a stage"), "help")
    terminal.press("Escape")
    terminal.wait(lambda lines: not shows("deeper: a stage")(lines), "the help is gone")
    terminal.press("d")
    terminal.wait(shows("Drain the whole pipeline"), "it asks first")
    terminal.press("n")
    terminal.wait(shows("nothing is done"), "no is no")
    terminal.press("d")
    terminal.wait(shows("Drain the whole pipeline"), "it asks again")
    terminal.press("y")
    stopped = "zpipe: every instance of pipeline 'watched' has stopped"
    terminal.wait(lambda lines: "".join(lines).strip() == stopped, "drained: the screen is left, with a word")


def test_a_pipeline_that_is_not_up_yet_is_waited_for_and_a_stage_that_vanishes_is_marked(
    start: Callable[[], dict[str, subprocess.Popen[bytes]]], open_terminal: Open
) -> None:
    terminal = open_terminal(120, 40)
    lines = terminal.wait(shows("Waiting for pipeline"), "it says what it waits for")
    assert "\n".join(lines).count("absent") == 3
    processes = start()
    terminal.wait(all_run, "then it is there")
    processes["sink"].send_signal(signal.SIGKILL)
    terminal.wait(shows("sink is silent", "┃ silent "), "the stage is silent")
    terminal.press("2")
    terminal.wait(shows("stale"), "the figures of its link are marked as stale")
    terminal.press("6")
    terminal.wait(shows("sink.1 is silent"), "and it is an event")


def test_a_click_chooses_and_a_second_one_opens(start: Callable[[], object], open_terminal: Open) -> None:
    start()
    terminal = open_terminal(120, 40)
    lines = terminal.wait(all_run, "the pipeline runs")
    y = next(at for at, line in enumerate(lines) if "● sort" in line)
    x = lines[y].index("● sort") + 3
    for _ in range(2):
        terminal.click(x, y)
    terminal.wait(shows("plugin python", "sort.1"), "the stage that was clicked")
    lines = terminal.screen()
    y = next(at for at, line in enumerate(lines) if "6 Events" in line)
    terminal.click(lines[y].index("6 Events") + 3, y)
    terminal.wait(shows("who and what happened"), "a tab")


BLOCKED = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP}); os.execv(sys.argv[1], sys.argv[1:])"
"""Starts what is given with a signal blocked, as some that start others leave it."""


@pytest.mark.parametrize("name", ["TERM", "HUP", "INT"])
def test_a_signal_that_ends_it_gives_the_terminal_back(
    start: Callable[[], object], config: Path, home: Path, name: str
) -> None:
    start()
    with ExitStack() as stack:
        terminal = Tmux(home, [sys.executable, "-c", BLOCKED, *monitor(config)], 100, 30)
        stack.callback(terminal.close)
        terminal.wait(all_run, "the pipeline runs")
        assert (terminal.ask("alternate_on"), terminal.ask("cursor_flag")) == ("1", "0")
        os.kill(int(terminal.ask("pane_pid")), getattr(signal, f"SIG{name}"))
        terminal.wait(lambda _: terminal.ask("pane_dead") == "1", "it has ended")
        assert terminal.ask("alternate_on") == "0"


def test_it_ends_when_its_terminal_goes(start: Callable[[], object], open_terminal: Open) -> None:
    start()
    terminal = open_terminal(100, 30)
    terminal.wait(all_run, "the pipeline runs")
    pid = int(terminal.ask("pane_pid"))
    with ExitStack() as stack:
        descriptor = os.pidfd_open(pid)
        stack.callback(os.close, descriptor)
        terminal.close()
        ended, _, _ = select.select([descriptor], [], [], 60.0)
        assert ended, "the screen runs on without a terminal"


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


def test_without_a_keyboard_it_is_text(start: Callable[[], object], config: Path, home: Path) -> None:
    start()
    with ExitStack() as stack:
        command = " ".join(monitor(config, "--timeout", "60"))
        terminal = Tmux(home, ["bash", "-c", f"exec {command} < /dev/null"], 104, 30)
        stack.callback(terminal.close)
        terminal.wait(shows("STAGE", "make is the limit"), "it prints the status")
        assert terminal.ask("alternate_on") == "0"
        terminal.press("C-c")
        terminal.wait(lambda _: terminal.ask("pane_dead") == "1", "it has ended")
        assert terminal.ask("pane_dead_status") == "0"


def test_without_colour_there_is_none(start: Callable[[], object], open_terminal: Open) -> None:
    start()
    plain = open_terminal(80, 24, NO_COLOR="1", TERM="screen-256color")
    plain.wait(all_run, "the pipeline runs")
    assert not (found := coloured(plain.screen("-e"))), found
    other = open_terminal(81, 24, TERM="screen-256color")
    other.wait(all_run, "the pipeline runs")
    assert coloured(other.screen("-e"))


def coloured(lines: list[str]) -> list[str]:
    """The sequences that choose a colour, of the foreground or the background."""
    found = re.findall(r"\x1b\[([0-9;]*)m", "\n".join(lines))
    return [one for one in found if re.search(r"(^|;)([34][0-8]|9[0-7]|10[0-7])(;|$)", one)]


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
    terminal.wait(lambda lines: "recorded" in lines[0] and "playing x1" in lines[-2], "it plays")
    terminal.press("End")
    terminal.wait(lambda lines: all_run(lines) and "stopped" in lines[-2], "the end is as it was")
    terminal.press("Home")
    lines = terminal.wait(lambda lines: "+0.0 s" in lines[-2], "the beginning")
    terminal.press("Right")
    terminal.wait(lambda lines: re.search(r"\+0\.[1-9] s", lines[-2]) is not None, "one step on")
    terminal.click(lines[-2].index("─") + 20, len(lines) - 2)
    terminal.wait(
        lambda lines: re.search(r"\+(0\.[4-9]|[1-9]\.[0-9]) s", lines[-2]) is not None, "the time line is clicked"
    )
    line, end = lines[-2].index("─"), lines[-2].rindex("─")
    terminal.drag(line + 20, end, len(lines) - 2)
    terminal.wait(lambda lines: "● " in lines[-2] and not set("─") & set(lines[-2]), "it is dragged to the end")
    terminal.drag(end, 0, len(lines) - 2)
    terminal.wait(lambda lines: "+0.0 s" in lines[-2], "and beyond the beginning")
    terminal.press("p")
    terminal.wait(shows("this is a recording"), "nobody can be paused")


def test_the_tap_of_a_link_shows_what_passes_and_can_be_held(start: Callable[[], object], open_terminal: Open) -> None:
    start()
    terminal = open_terminal(100, 30)
    terminal.wait(all_run, "the pipeline runs")
    terminal.press("Down", "Right", "t")
    terminal.wait(shows("tap of make", '{"id":'), "the messages that pass, with their payloads")
    terminal.press("Space")
    terminal.wait(shows("(held)"), "held")
    terminal.press("Space")
    terminal.wait(lambda lines: not shows("(held)")(lines), "it goes on")
    terminal.press("Escape")
    terminal.wait(lambda lines: all_run(lines) and not shows("tap of")(lines), "the pipeline again")


def test_a_dead_letter_is_edited_in_the_editor_and_replayed(
    start: Callable[[], object], open_terminal: Open, config: Path, home: Path
) -> None:
    config.write_text(CONFIG.replace('input = "make"', 'input = "make"\nretry = { attempts = 1 }', 1))
    (home / "work.py").write_text(
        'def work(payload):\n    if payload["id"] == 7:\n        raise ValueError("an unlucky one")\n    return payload\n'
    )
    editor = home / "editor.py"
    editor.write_text(
        "import pathlib, sys\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "assert sys.stdin.isatty() and sys.stdout.isatty()\n"
        "input('edited here, enter goes on ')\n"
        "path.write_text(path.read_text().replace('7', '8'))\n"
    )
    start()
    terminal = open_terminal(100, 30, EDITOR=f"{sys.executable} {editor}", VISUAL="")
    terminal.wait(all_run, "the pipeline runs")
    terminal.press("5")
    terminal.wait(shows("ValueError: an unlucky one"), "the letter")
    terminal.press("e")
    terminal.wait(shows("edited here"), "the editor has the terminal")
    terminal.press("Enter")
    terminal.wait(shows("has a new payload: replay it", "an unlucky one"), "the screen is back, and it is saved")
    terminal.press("r")
    terminal.wait(shows("Replay 1 dead letter?"), "it asks first")
    terminal.press("y")
    terminal.wait(shows("no dead letters are stored"), "with the other payload it is no letter any more")


@pytest.mark.stress
def test_twenty_stages_cost_the_monitor_three_percent_of_a_core(home: Path) -> None:
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

    def whole(lines: list[str]) -> bool:
        return sum(f"s{n:02d} " in "\n".join(lines) for n in range(20)) == 20 and "\n".join(lines).count("●") >= 20

    terminal = Tmux(home, monitor(path), 120, 40)
    try:
        terminal.wait(whole, "all twenty are on the screen")
        terminal.close()
        began = time.monotonic()
        terminal = Tmux(home, monitor(path), 120, 40)
        terminal.wait(whole, "again, with all of them there")
        pid = int(terminal.ask("pane_pid"))
        first_s, first_cpu_s = time.monotonic() - began, cpu_s(pid)
        threading.Event().wait(2.0)
        before, at = cpu_s(pid), time.monotonic()
        threading.Event().wait(30.0)
        share = (cpu_s(pid) - before) / (time.monotonic() - at)
        memory = rss_bytes(pid) / 2**20
        print(
            f"first screen {first_s:.2f} s ({first_cpu_s:.2f} s of processor), {share:.2%} of a core, {memory:.0f} MiB"
        )
        assert share <= 0.03
        assert memory <= 80
    finally:
        terminal.close()
        for _ in range(2):
            run.send_signal(signal.SIGINT)
            threading.Event().wait(1.0)
        run.communicate(timeout=60)


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """Processor time of the process and those that it waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
