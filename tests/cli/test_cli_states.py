"""What `zpipe monitor` shows of real pipelines in real terminals, in each state that an operator meets, at three sizes.

`ZPIPE_WRITE_SCREENS=FOLDER` keeps each screen there, as text and with its colours, to look at.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import needs
import pytest
from tmux import Tmux, monitor

SIZES = ((80, 24), (120, 40), (200, 50))
FRAMES, FRAME_S = 4, 1.0
"""How many screens are compared in a steady state, and how far apart: two intervals."""
UPRIGHT = frozenset(
    chr(code) for code in range(0x2500, 0x2580) if {"UP", "DOWN", "VERTICAL"} & set(unicodedata.name(chr(code)).split())
)
"""Characters of boxes and lines that go up or down. Those across give way to figures, whose number of digits changes."""
HEAD = """
[pipeline]
name = "{name}"
[telemetry]
interval = "500ms"
"""
ORDERS = """
[stages.read]
plugin = "generate"
options = {{ rate = {rate} }}
[stages.parse]
input = "read"
plugin = "python"
options = {{ function = "work.py:{parse}" }}
[stages.check]
input = "parse"
plugin = "python"
instances = 2
retry = {{ attempts = 1 }}
options = {{ function = "work.py:{check}" }}
[stages.store]
input = "check"
plugin = "sqlite"
batch = {{ messages = 20, timeout = "200ms" }}
options = {{ path = "{folder}/out.db", table = "t", key = "id", columns = {{ id = "INTEGER", text = "TEXT" }} }}
[stages.audit]
input = ["check", "read"]
plugin = "discard"
"""
ORDERED = ("read", "parse", "check", "store", "audit")
KINDS = ("text", "image", "audio", "video")
TWENTY = {
    "ingest": ["source"],
    "decode": ["ingest"],
    "validate": ["decode"],
    **{
        f"{kind}-{step}": [source.format(kind)]
        for kind in KINDS
        for step, source in (("split", "validate"), ("model", "{}-split"), ("clean", "{}-model"))
    },
    "merge": [f"{kind}-clean" for kind in KINDS],
    "index": ["merge"],
    "archive": ["merge", "decode"],
    "audit": ["merge", "audio-clean"],
}
WORK = """
import time


def fine(payload):
    return {"id": payload["id"], "text": "x" * 100}


def slow(payload):
    time.sleep(0.02)
    return payload


def picky(payload):
    if payload["id"] % 200 == 7:
        raise KeyError("customer")
    return fine(payload)


def wrong(payload):
    if payload["id"] > 300:
        raise ConnectionRefusedError("the password is wrong")
    return fine(payload)
"""
pytestmark = [pytest.mark.stress, pytest.mark.needs("tmux")]


class Screens:
    """A monitor of one pipeline in a terminal of each size."""

    def __init__(self, config: Path, terminals: dict[tuple[int, int], Tmux]) -> None:
        self.config, self.terminals = config, terminals

    def press(self, *keys: str) -> None:
        for terminal in self.terminals.values():
            terminal.press(*keys)

    def wait(self, *texts: str, gone: Sequence[str] = ()) -> None:
        for size, terminal in self.terminals.items():
            terminal.wait(
                lambda lines: has(lines, *texts) and not any(has(lines, one) for one in gone), f"{texts} at {size}"
            )

    def keep(self, name: str, names: Sequence[str], *texts: str, steady: bool = True) -> None:
        """Some screens of each size, one after the other: each is whole, and nothing in them jumps."""
        self.wait(*texts)
        frames: dict[tuple[int, int], list[list[str]]] = {size: [] for size in SIZES}
        pause = threading.Event()
        for _ in range(FRAMES):
            for size, terminal in self.terminals.items():
                frames[size].append(terminal.screen())
            pause.wait(FRAME_S)
        written(name, self.terminals)
        for size, seen in frames.items():
            for lines in seen:
                whole(lines, size, names, texts)
            if steady:
                assert len({skeleton(lines) for lines in seen}) == 1, f"{name} at {size} jumps:\n" + "\n".join(
                    "\n".join(lines) for lines in seen
                )


def has(lines: Sequence[str], *texts: str) -> bool:
    """Whether all of them are on the screen, wherever the lines are broken."""
    whole = " ".join(" ".join(lines).split())
    return all(text in whole for text in texts)


def whole(lines: Sequence[str], size: tuple[int, int], names: Sequence[str], texts: Sequence[str]) -> None:
    """Nothing is too wide, cut or no text at all; the sentence, every stage and the keys are there."""
    text = "\n".join(lines)
    width, height = size
    assert len(lines) == height, text
    assert max(map(len, lines)) <= width, text
    assert not {char for char in text if unicodedata.category(char) in ("Cc", "Co", "Cn")} - {"\n"}, text
    assert has(lines, *texts), text
    assert "1 Pipeline" in text or "1 Pipe" in text
    assert "help" in lines[-1] and "quit" in lines[-1], text
    for name in names:
        assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text), f"{name} is not there\n{text}"
    for line in lines:
        assert "…" not in line and "..." not in line, f"{line!r} is cut\n{text}"


def skeleton(lines: Sequence[str]) -> str:
    """Where boxes, panels and lines are."""
    return "\n".join("".join("|" if char in UPRIGHT else " " for char in line).rstrip() for line in lines)


def written(name: str, terminals: dict[tuple[int, int], Tmux]) -> None:
    folder = os.environ.get("ZPIPE_WRITE_SCREENS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for (width, height), terminal in terminals.items():
            stem = Path(folder) / f"{name}-{width}x{height}"
            stem.with_suffix(".txt").write_text("\n".join(terminal.screen()) + "\n")
            stem.with_suffix(".ansi").write_text("\n".join(terminal.screen("-e")) + "\n")


Watch = Callable[..., Screens]


@pytest.fixture
def watch(home: Path) -> Iterator[Watch]:
    """Starts a monitor in a terminal of each size; they are closed after the test."""
    with ExitStack() as stack:

        def watch(config: Path, *options: str) -> Screens:
            terminals = {}
            for width, height in SIZES:
                command = monitor(config, *options)
                terminal = Tmux(home, command, width, height, TERM="tmux-256color", LANG="C.UTF-8", PYTHONUTF8="1")
                stack.callback(terminal.close)
                terminals[width, height] = terminal
            return Screens(config, terminals)

        yield watch


@pytest.fixture
def run(home: Path) -> Iterator[Callable[[str], Path]]:
    """Runs a pipeline of this text; it is ended after the test."""
    (home / "work.py").write_text(WORK)
    with ExitStack() as stack:

        def run(text: str) -> Path:
            config = home / "p.toml"
            config.write_text(text)
            command = [sys.executable, "-m", "zpipe", "run", str(config)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(end, process)
            return config

        yield run


def end(process: subprocess.Popen[bytes]) -> None:
    """Twice, so that nothing is waited for."""
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(2.0)
    process.wait(60.0)


def orders(home: Path, rate: float = 50, parse: str = "fine", check: str = "fine", folder: Path | None = None) -> str:
    made = ORDERS.format(rate=rate, parse=parse, check=check, folder=folder or home)
    return HEAD.format(name="orders") + made


def test_load_in_every_view(home: Path, run: Callable[[str], Path], watch: Watch) -> None:
    screens = watch(run(orders(home, 200, "slow", "picky")))
    screens.wait("parse is the limit", "✖")
    screens.keep("load", ORDERED, "parse is the limit", "the limit", "workers.count")
    for key, view, texts in (
        ("2", "table", ("link", "read → parse", "running")),
        ("3", "stage", ("parse.1", "workers 1 thread")),
        ("4", "links", ("read → parse", "at the receiver")),
        ("5", "letters", ("KeyError: 'customer'",)),
        ("6", "events", ("dead letter",)),
    ):
        screens.press(key)
        screens.keep(f"load-{view}", (), *texts, steady=False)


def test_idle(home: Path, run: Callable[[str], Path], watch: Watch) -> None:
    screens = watch(run(orders(home, 0.01)))
    # The first message goes through once all are there.
    screens.wait("nothing flows and nothing waits", gone=["not heard"])
    screens.keep("idle", ORDERED, "nothing flows and nothing waits")


def test_a_stage_is_down(home: Path, watch: Watch) -> None:
    (home / "work.py").write_text(WORK)
    config = home / "p.toml"
    config.write_text(orders(home))
    with ExitStack() as stack:
        stages = {}
        for name in ("store", "audit", "check.1", "check.2", "parse", "read"):
            command = [sys.executable, "-m", "zpipe", "stage", str(config), name]
            stages[name] = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
            stack.callback(stages[name].kill)
        screens = watch(config)
        screens.wait("read is the limit")
        stages["store"].send_signal(signal.SIGKILL)
        screens.keep("down", ORDERED, "store is silent", "restart store")


def test_a_storm(home: Path, run: Callable[[str], Path], watch: Watch) -> None:
    screens = watch(run(orders(home, 100, check="wrong")))
    screens.keep("storm", ORDERED, "check takes no more", "zpipe resume")


def test_a_disk_is_full(home: Path, run: Callable[[str], Path], watch: Watch, small_disk: Path) -> None:
    screens = watch(run(orders(home, folder=small_disk)))
    screens.wait("read is the limit")
    with (small_disk / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    screens.keep("disk-full", ORDERED, "store takes no more", "full")


def test_paused(home: Path, run: Callable[[str], Path], watch: Watch) -> None:
    config = run(orders(home))
    screens = watch(config)
    screens.wait("read is the limit")
    subprocess.run([sys.executable, "-m", "zpipe", "pause", str(config), "check"], check=True, capture_output=True)
    screens.keep("paused", ORDERED, "check is paused", "resume check")


def test_twenty_stages(home: Path, run: Callable[[str], Path], watch: Watch) -> None:
    text = HEAD.format(name="media") + '[stages.source]\nplugin = "generate"\noptions = { rate = 20 }\n'
    for name, inputs in TWENTY.items():
        takes = '"' + inputs[0] + '"' if len(inputs) == 1 else str(inputs).replace("'", '"')
        function = "slow" if name == "video-model" else "fine"
        text += (
            f'[stages.{name}]\ninput = {takes}\nplugin = "python"\noptions = {{ function = "work.py:{function}" }}\n'
        )
    names = ("source", *TWENTY)
    assert len(names) == 20
    screens = watch(run(text))
    screens.wait("is the limit", gone=["not heard"])
    screens.keep("twenty", names, "is the limit")
    screens.press("2")
    screens.keep("twenty-table", names[:10], steady=False)
    screens.press("1", "v")
    screens.keep("twenty-list", names[:10], steady=False)


def test_sixty_four_instances(home: Path, run: Callable[[str], Path], watch: Watch) -> None:
    text = HEAD.format(name="many").replace("500ms", "1s")
    text += '[stages.read]\nplugin = "generate"\noptions = { rate = 200 }\n'
    text += (
        '[stages.work]\ninput = "read"\nplugin = "python"\ninstances = 64\noptions = { function = "work.py:fine" }\n'
    )
    text += '[stages.sink]\ninput = "work"\nplugin = "discard"\n'
    screens = watch(run(text))
    screens.wait("is the limit", gone=["not heard"])
    screens.keep("many", ("read", "work", "sink"), "64", "is the limit")
    screens.press("Right", "Right", "Enter")
    screens.keep("many-stage", ("work.1", "work.2", "work.3", "work.4"), "64 instances", steady=False)
    screens.press("End")
    screens.keep("many-stage-end", (), "work.64", steady=False)


def test_a_replay(home: Path, run: Callable[[str], Path], watch: Watch) -> None:
    config, file = run(orders(home, 200, "slow")), home / "r.ndjson.gz"
    command = [sys.executable, "-m", "zpipe", "monitor", str(config), "--json", "--record", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as recording:
        assert recording.stdout is not None
        for at, _ in enumerate(recording.stdout):
            if at == 30:
                recording.terminate()
    screens = watch(config, "--replay", str(file))
    screens.wait("recorded", "playing x1")
    screens.press("End")
    screens.keep("replay", ORDERED, "parse is the limit", "stopped", "recorded")


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    needs.skip_without("mounts")
    folder = home / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "zpipe-test", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
