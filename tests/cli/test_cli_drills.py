"""Five drills: something is wrong with a pipeline, and the screen alone says what and has it mended in at most five keys.

`ZPIPE_WRITE_DRILLS=1` puts the screens that were seen into docs/drills.md.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from tmux import Tmux, monitor

PAGE = Path(__file__).parents[2] / "docs" / "drills.md"
MOST_KEYS = 5
SIZE = (110, 30)
HEAD = """# Drills

What the screen of `zpipe monitor` shows when something is wrong, and the keys that were pressed: at most five. The screens
are of real runs (`ZPIPE_WRITE_DRILLS=1 pytest -m stress tests/cli/test_cli_drills.py` writes this page).
"""
CONFIG = """
[pipeline]
name = "drill"
[telemetry]
interval = "500ms"
[stages.read]
plugin = "generate"
options = {{ rate = {rate} }}
[stages.work]
input = "read"
plugin = "python"
{more}
options = {{ function = "work.py:{function}" }}
[stages.store]
input = "work"
plugin = "sqlite"
batch = {{ messages = 20, timeout = "200ms" }}
options = {{ path = "{folder}/out.db", table = "t", key = "id", columns = {{ id = "INTEGER", text = "TEXT" }} }}
"""
WORK = """
import time


def fine(payload):
    return {"id": payload["id"], "text": "x" * 100}


def picky(payload):
    if payload["id"] % 40 == 7:
        raise KeyError("customer")
    return fine(payload)


def slow(payload):
    time.sleep(0.05)
    return fine(payload)
"""
written: dict[str, list[str]] = {}
pytestmark = pytest.mark.stress


class Drill:
    """One run: its screen, and the keys that were pressed."""

    def __init__(self, name: str, terminal: Tmux, stages: dict[str, subprocess.Popen[bytes]]) -> None:
        self.name, self.terminal, self.stages = name, terminal, stages
        self.keys: list[str] = []
        self.parts: list[str] = []

    def see(self, words: str, *texts: str) -> None:
        """Waits until all of it is on the screen, and keeps the screen."""
        lines = self.terminal.wait(
            lambda lines: all(text in " ".join(" ".join(lines).split()) for text in texts), words
        )
        text = re.sub(r"/tmp/zp-\w+", "/srv/data", "\n".join(line.rstrip() for line in lines))
        self.parts.append(f"{words}:\n\n```text\n{text}\n```\n")

    def press(self, *keys: str) -> None:
        self.keys += keys
        self.parts.append("Keys: " + " ".join(f"`{key}`" for key in keys) + "\n")
        for key in keys:
            self.terminal.press(key)


@contextmanager
def drill(
    name: str, home: Path, rate: int, function: str, more: str = "", folder: Path | None = None
) -> Iterator[Drill]:
    (home / "work.py").write_text(WORK)
    path = home / "drill.toml"
    path.write_text(CONFIG.format(rate=rate, function=function, more=more, folder=folder or home))
    with ExitStack() as stack:
        stages = {}
        for stage in ("store", "work", "read"):
            command = [sys.executable, "-m", "zpipe", "stage", str(path), stage]
            stages[stage] = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(stages[stage].kill)
        terminal = Tmux(home, monitor(path), *SIZE, TERM="screen-256color", LANG="C.UTF-8", PYTHONUTF8="1")
        stack.callback(terminal.close)
        made = Drill(name, terminal, stages)
        yield made
        assert len(made.keys) <= MOST_KEYS, made.keys
        written[name] = made.parts


@pytest.fixture(scope="module", autouse=True)
def page() -> Iterator[None]:
    yield
    if os.environ.get("ZPIPE_WRITE_DRILLS"):
        texts = [f"## {name}\n\n" + "\n".join(parts) for name, parts in written.items()]
        PAGE.write_text("\n".join([HEAD, *texts]))


def test_the_disk_of_a_sink_is_full(home: Path, small_disk: Callable[[], Path]) -> None:
    folder = small_disk()
    with drill("The disk of a sink is full", home, 40, "fine", folder=folder) as seen:
        seen.terminal.wait(lambda lines: "read is the limit" in "\n".join(lines), "all is well")
        fill(folder / "ballast")
        seen.see("The sentence says which stage is held, and why", "store takes no more", "full")
        (folder / "ballast").unlink()
        seen.press("6")
        seen.see("Room was made: the stage goes on", "store.1 works again")
        seen.terminal.wait(lambda lines: "store takes no more" not in "\n".join(lines), "nothing is held any more")


def test_a_message_is_poison(home: Path) -> None:
    more = 'retry = { attempts = 2, delay = "50ms" }'
    with drill("A message is poison", home, 40, "picky", more) as seen:
        seen.see("Dead letters stand in the header and on the box of the stage", "✖")
        seen.press("5")
        seen.see("They are folded by reason", "KeyError: 'customer'")
        seen.press("r")
        seen.see("It asks first, in numbers", "Replay", "100 a second")
        seen.press("y")
        seen.terminal.wait(lambda lines: "to be replayed" in "\n".join(lines), "they are tried again")


def test_a_service_is_slow(home: Path) -> None:
    with drill("A service is slow", home, 60, "slow", "workers = { count = 1 }") as seen:
        seen.see("The sentence says what the time goes to, and what helps", "work is the limit")
        seen.press("Right", "Right", "Enter")
        seen.see("The stage: its workers, percentiles and histogram", "workers 1 thread", "since its start")


def test_a_flood(home: Path) -> None:
    with drill("A flood", home, 2000, "slow") as seen:
        seen.see("The link before the limit fills", "work is the limit", "read blocked")
        seen.press("4")
        seen.see("Its depth over time, with its bound", "read → work", "at the sender")
        seen.press("1", "[", "p")
        seen.see("It asks first, in numbers", "Pause read?")
        seen.press("y")
        seen.see("The source is paused, and the rest is worked off", "paused")


def test_a_stage_is_killed(home: Path) -> None:
    with drill("A stage is killed", home, 40, "fine") as seen:
        seen.see("All run", "● store")
        seen.stages["store"].send_signal(signal.SIGKILL)
        seen.see("The sentence says who is silent, and what to do", "store is silent", "restart store")
        seen.press("6")
        seen.see("And since when", "store.1 is silent")


def fill(path: Path) -> None:
    """Writes until nothing more fits."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)


@pytest.fixture
def small_disk(home: Path) -> Iterator[Callable[[], Path]]:
    """A tmpfs that a file fills, so that its removal makes room."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder = home / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "zpipe-test", str(folder)], check=True)

    yield lambda: folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
