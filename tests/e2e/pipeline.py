"""Pipelines as their users have them: `zpipe` in processes of its own, watched, stopped and killed from outside.

Everything here that waits has a deadline; only `wait_until` polls.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from zpipe.config import PipelineConfig, load
from zpipe.core.telemetry.snapshot import broken
from zpipe.core.wire import cbor
from zpipe.operate.watch import Watch
from zpipe.runtime.places import Places

T = TypeVar("T")
Name = tuple[str, int]
"""(stage, instance)"""
Snapshot = dict[str, Any]

DEADLINE_S = 60.0
POLL_S = 0.02


def wait_until(condition: Callable[[], T], what: str, deadline_s: float = DEADLINE_S) -> T:
    """Polls until the condition is true; what it was then. Fails the test after the deadline."""
    end = time.monotonic() + deadline_s
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        pause.wait(POLL_S)
    return value


class Command:
    """A `zpipe` command under way. Its output goes to files, so that it never waits for a reader."""

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        env: Mapping[str, str],
        python: str = sys.executable,
        within: Sequence[str] = (),
    ) -> None:
        """`within`: a command that runs this one, such as one that enters a network namespace."""
        self.arguments = arguments
        self._env = dict(env)
        self._python = python
        number = len(list(folder.glob("*.err"))) + 1
        self._out, self._err = folder / f"{number}.out", folder / f"{number}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*within, python, "-m", "zpipe", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._env,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def over_within(self, seconds: float) -> bool:
        """Waits at most so long for its end."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """The exit code. Fails the test after the deadline, with what was logged."""
        if not self.over_within(deadline_s):
            name = " ".join(self.arguments)
            raise AssertionError(f"zpipe {name} still runs:\n{self.stderr[-4000:]}\n{self.holdings()}")
        return self.process.returncode

    def holdings(self) -> str:
        """What every instance of the config says of itself now: who holds what, and waits for whom."""
        command = [self._python, "-m", "zpipe", "monitor", self.arguments[1], "--once", "--json"]
        shown = subprocess.run(command, capture_output=True, text=True, env=self._env, timeout=30)
        return shown.stdout + shown.stderr

    def ledger(self, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """The ledger of a run that has to end well: exit code 0, balanced, identities hold."""
        code = self.wait(deadline_s)
        assert code == 0, f"exit code {code}:\n{self.stdout[-2000:]}\n{self.stderr[-4000:]}"
        ledger: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        assert ledger["balanced"], ledger
        for name, row in ledger["stages"].items():
            assert row["in_process"] == row["queued"] == 0, (name, row)
            assert row["received"] == row["completed"] + row["filtered"] + row["dead"] + row["returned"], (name, row)
        for link in ledger["links"]:
            assert link["in_flight"] == link["unsent"] == 0, link
        return ledger

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """Whatever it does, it is over after this."""
        if self.running:
            self.process.kill()
        self.process.wait()


class Pipeline:
    """One pipeline in a folder of its own: its config, the modules beside it, and the processes that run it."""

    def __init__(self, home: Path, text: str, **modules: str) -> None:
        """`modules`: source of Python files by name, without .py."""
        self.folder = home / "c"
        self.folder.mkdir()
        self.home = home
        self.held = ExitStack()
        """What is open for looks at the pipeline, until `kill_all`."""
        self.env = dict(os.environ)
        self.path = self.folder / "p.toml"
        self.path.write_text(text)
        for name, source in modules.items():
            (self.folder / f"{name}.py").write_text(source)
        self._commands: list[Command] = []

    @property
    def config(self) -> PipelineConfig:
        return load(self.path, env=self.env)

    # ---- starting and ending

    def zpipe(self, *arguments: str) -> Command:
        command = Command(list(arguments), self.home, self.env)
        self._commands.append(command)
        return command

    def run(self, *options: str) -> Command:
        return self.zpipe("run", str(self.path), "--json", *options)

    def stage(self, stage: str, instance: int = 1, *options: str) -> Command:
        return self.zpipe("stage", str(self.path), stage, "--instance", str(instance), *options)

    def kill_all(self) -> None:
        """`kill -9` of the whole tree at one moment: everybody is stopped first, so that nobody sees another die."""
        pids = [*(c.pid for c in self._commands if c.running), *self.instances().values()]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in dict.fromkeys(pids):
                send(pid, number)
        for command in self._commands:
            command.end()
        wait_until(lambda: not self.instances(), "every killed process is gone")
        self.held.close()

    # ---- its processes

    def instances(self) -> dict[Name, int]:
        """The pid of every instance of this pipeline that runs now, found by its command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if "stage" in words and str(self.path) in words and "--instance" in words:
                stage = words[words.index(str(self.path)) + 1]
                found[stage, int(words[words.index("--instance") + 1])] = int(entry.name)
        return found

    def pid_at_work(self, stage: str, instance: int = 1) -> int | None:
        """Its process, if that holds the lock of the instance."""
        lock = self.home / "r" / f"{self.config.name}.{stage}.{instance}" / "lock"
        pid = self.instances().get((stage, instance))
        return pid if pid is not None and lock.is_file() and lock.read_text().split()[:1] == [str(pid)] else None

    def pid(self, stage: str, instance: int = 1) -> int:
        """Its process, once it holds the lock of the instance: from then on it does its work."""
        return wait_until(lambda: self.pid_at_work(stage, instance), f"{stage}.{instance} runs")  # type: ignore[return-value]

    def has_ended(self, stage: str, instance: int = 1) -> bool:
        """Whether it has come to the end of its stream, and is not started again."""
        mark = self.home / "s" / f"{self.config.name}.{stage}.{instance}" / "stopped.json"
        return mark.is_file() and bool(json.loads(mark.read_text())["ended"])

    def kill(self, stage: str, instance: int = 1) -> None:
        send(self.pid(stage, instance), signal.SIGKILL)

    def kill_at_random(
        self, run: Command, chance: random.Random, kills: int, pauses: tuple[float, float]
    ) -> list[Name]:
        """`kill -9` of one instance after the other, at random moments, every one of them before any a second time.

        Ends after so many kills, or with the run; whom it killed."""
        names = [(s.name, i) for s in self.config.stages.values() for i in range(1, s.instances + 1)]
        turn: list[Name] = []
        killed: list[Name] = []
        while len(killed) < kills and not run.over_within(chance.uniform(*pauses)):
            turn = turn or chance.sample(names, len(names))
            name = turn.pop()
            alive = wait_until(lambda name=name: self.instances().get(name) or not run.running, f"{name} runs")
            if alive is not True:
                send(alive, signal.SIGKILL)
                killed.append(name)
        return killed

    # ---- what it says and leaves

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        watch = Watch(self.config, Places(self.config, self.env))
        try:
            yield watch
        finally:
            watch.close()

    def snapshots_until_end(self, run: Command, deadline_s: float = DEADLINE_S) -> list[Snapshot]:
        """Every snapshot published until the run ends; the identities hold in each."""
        seen: list[Snapshot] = []
        end = time.monotonic() + deadline_s
        with self.watch() as watch:
            while run.running:
                assert time.monotonic() < end, f"the run has not ended:\n{run.stderr[-4000:]}"
                seen += watch.poll(0.1)
        for snapshot in seen:
            assert broken(snapshot) == [], snapshot
        return seen

    def monitored(self, stage: str) -> dict[str, Any]:
        """The stage as `zpipe monitor` has it now."""
        shown = self.zpipe("monitor", str(self.path), "--once", "--json", "--timeout", "60")
        assert shown.wait() == 0, shown.stderr
        found: dict[str, Any] = json.loads(shown.stdout)["stages"][stage]
        return found

    def final(self, stage: str, instance: int = 1) -> Snapshot:
        """The last snapshot of an instance that stopped in order."""
        mark = self.home / "s" / f"{self.config.name}.{stage}.{instance}" / "stopped.json"
        snapshot: Snapshot = json.loads(mark.read_text())["snapshot"]
        return snapshot

    def query(self, sql: str, database: str = "out.db") -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.folder / database}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(sql).fetchall()

    def count(self, table: str = "t") -> int:
        """How many rows there are; 0 before there is a table."""
        try:
            return int(self.query(f"SELECT count(*) FROM {table}")[0][0])
        except sqlite3.OperationalError:
            return 0

    def state(self, sql: str, stage: str, instance: int = 1) -> list[tuple[Any, ...]]:
        """From the state file of an instance; nothing before there is one."""
        try:
            return self.query(sql, f"../s/{self.config.name}.{stage}.{instance}/state.db")
        except sqlite3.OperationalError:
            return []

    def position(self, stage: str) -> Any:
        """The committed position of a source; None before the first."""
        rows = self.state("SELECT position FROM position", stage)
        return cbor.read(rows[0][0]) if rows else None

    def letters(self, stage: str, instance: int = 1) -> list[tuple[str, str, str, int, Any]]:
        """(id, reason, traceback, attempts, payload) of the dead letters."""
        rows = self.state(
            "SELECT id, reason, traceback, attempts + deaths, payload FROM dead_letters ORDER BY number",
            stage,
            instance,
        )
        return [(*row[:4], cbor.read(row[4])) for row in rows]  # type: ignore[misc]

    def lines_so_far(self, name: str) -> list[Any]:
        """A file of ndjson that somebody may be writing, so that its last line may be cut. Nothing before there is one."""
        path = self.folder / name
        whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
        return [json.loads(line) for line in whole.splitlines()]

    def lines(self, name: str) -> list[Any]:
        """A file of ndjson; a torn line in it fails the test."""
        text = (self.folder / name).read_text()
        assert text == "" or text.endswith("\n"), text[-200:]
        return [json.loads(line) for line in text.splitlines()]


def send(pid: int, number: signal.Signals) -> None:
    """A signal to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def ids(rows: list[tuple[Any, ...]]) -> list[int]:
    return [int(row[0]) for row in rows]
