"""A machine with a systemd that runs, seen as its operator sees it: commands, states of units, the journal.

Everything here that waits has a deadline; only `wait_until` polls.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from zpipe.core.wire import cbor

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
CONFIGS = Path("/etc/zpipe")
UNITS = Path("/etc/systemd/system")
DATA = Path("/var/lib/zpipe/data")
PACKAGES = ROOT / "build" / "deb"
"""Where `make deb` puts the package."""
ZPIPE = "/opt/zpipe/bin/zpipe"
ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    # As on a machine with an index in reach, which is what README.md has in mind.
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": str(ROOT / "build" / "wheels"),
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    # Whoever types it says yes.
    "APT_CONFIG": str(Path(__file__).with_name("apt.conf")),
    "DEBIAN_FRONTEND": "noninteractive",
}
DEADLINE_S = 60.0
POLL_S = 0.05


def wait_until(condition: Callable[[], T], what: str, deadline_s: float = DEADLINE_S) -> T:
    """Polls until the condition is true; what it was then. Fails the test after the deadline, with the end of the journal."""
    end = time.monotonic() + deadline_s
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}\n{journal_end()}"
        pause.wait(POLL_S)
    return value


def run(*command: str, deadline_s: float = 60.0, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A command's outcome, whatever it is."""
    return subprocess.run(command, cwd=folder, env=ENV, capture_output=True, text=True, timeout=deadline_s, check=False)


def shell(block: str, deadline_s: float = 60.0, folder: Path = ROOT) -> str:
    """The output of a block of shell, as somebody would type it in that folder; each line has to succeed."""
    done = run("bash", "-e", "-c", block, deadline_s=deadline_s, folder=folder)
    assert done.returncode == 0, f"exit code {done.returncode}:\n{block}\n{done.stdout}\n{done.stderr}\n{journal_end()}"
    return done.stdout


def blocks(section: str) -> list[str]:
    """The shell blocks of a section of systemd/README.md."""
    return re.findall(r"^```sh\n(.*?)^```", sections()[section], re.MULTILINE | re.DOTALL)


def sections() -> dict[str, str]:
    """By heading, in the order of the page."""
    text = (ROOT / "systemd" / "README.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def install_package() -> None:
    """Installs zpipe as README.md has an operator do it."""
    assert list(PACKAGES.glob("zpipe_*.deb")), f"there is no package in {PACKAGES}: make deb"
    for block in blocks("Install"):
        shell(block, deadline_s=180, folder=PACKAGES)


def journal_end() -> str:
    subprocess.run(["journalctl", "--sync"], check=False)
    return run("journalctl", "--no-pager", "-o", "short-precise", "-n", "60").stdout


def since() -> str:
    """A place in the journal: its end as it is now."""
    subprocess.run(["journalctl", "--sync"], check=True)
    shown = run("journalctl", "-n", "0", "--show-cursor", "--no-pager").stdout
    return shown.rpartition("-- cursor: ")[2].strip()


def journal(after: str, *filters: str) -> list[dict[str, Any]]:
    subprocess.run(["journalctl", "--sync"], check=True)
    lines = run("journalctl", "-o", "json", "--no-pager", f"--after-cursor={after}", *filters).stdout
    return [json.loads(line) for line in lines.splitlines()]


def events(after: str, unit: str) -> list[str]:
    """What a unit has logged, and what systemd has logged about it."""
    return [str(entry["MESSAGE"]) for entry in journal(after, "-u", unit)]


class Service:
    """One instance's unit."""

    def __init__(self, instance: str, template: str = "zpipe") -> None:
        self.instance = instance
        self.name = f"{template}@{instance}.service"

    def show(self, *properties: str) -> dict[str, str]:
        shown = run("systemctl", "show", self.name, *(f"--property={one}" for one in properties)).stdout
        return dict(line.split("=", 1) for line in shown.splitlines())

    def get(self, one: str) -> str:
        return self.show(one)[one]

    @property
    def active(self) -> bool:
        return self.get("ActiveState") == "active"

    @property
    def pid(self) -> int:
        return int(self.get("MainPID"))

    @property
    def status(self) -> str:
        return self.get("StatusText")

    def status_has(self, pattern: str) -> re.Match[str] | None:
        return re.search(pattern, self.status)

    def wait_active(self, other_than: int = 0) -> int:
        """Waits for its READY; the pid. `other_than`: a life that does not count."""

        def up() -> int:
            now = self.show("ActiveState", "MainPID")
            pid = int(now["MainPID"])
            return pid if now["ActiveState"] == "active" and pid not in (0, other_than) else 0

        return wait_until(up, f"{self.name} is up")

    def wait_state(self, *states: str) -> dict[str, str]:
        def there() -> dict[str, str] | None:
            now = self.show("ActiveState", "SubState", "Result", "NRestarts", "ExecMainStatus")
            return now if now["ActiveState"] in states else None

        return wait_until(there, f"{self.name} is {' or '.join(states)}")

    def kill(self) -> int:
        """`systemctl kill -s KILL`. Returns the pid that was killed."""
        pid = self.wait_active()
        shell(f"systemctl kill -s KILL {self.name}")
        return pid

    def hard_end(self) -> None:
        if self.pid > 1:
            os.kill(self.pid, signal.SIGKILL)

    def drop_in(self, text: str) -> None:
        folder = UNITS / f"{self.name}.d"
        folder.mkdir(exist_ok=True)
        (folder / "60-test.conf").write_text(f"[Service]\n{text}\n")


class Pipeline:
    """A pipeline whose results end in /var/lib/zpipe/data/NAME.db, table t, key id."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.config = CONFIGS / f"{name}.toml"
        self.target = f"zpipe-{name}.target"

    def write(self, text: str, **modules: str) -> None:
        """Config, and modules by name; not started."""
        self.config.write_text(text)
        for module, source in modules.items():
            (CONFIGS / f"{module}.py").write_text(source)
        shell(f"zpipe units {self.config} --install")

    def service(self, stage: str, n: int = 1) -> Service:
        return Service(f"{self.name}.{stage}.{n}")

    @property
    def monitor(self) -> Service:
        """What serves its metrics."""
        return Service(self.name, "zpipe-monitor")

    def start(self) -> None:
        shell(f"systemctl daemon-reload; systemctl start {self.target}")

    def stop(self, deadline_s: float = 60.0) -> None:
        """In order; returns when all of it has stopped."""
        shell(f"systemctl stop {self.target} 'zpipe@{self.name}.*'", deadline_s)

    def remove(self) -> None:
        """Whatever it does, it is gone after this."""
        run("systemctl", "kill", "-s", "KILL", f"zpipe@{self.name}.*")
        run("systemctl", "stop", self.target, f"zpipe@{self.name}.*", self.monitor.name)
        drop_ins = f"{UNITS}/zpipe@{self.name}.*.service.d {UNITS}/{self.monitor.name}.d"
        run("bash", "-c", f"rm -rf {UNITS}/{self.target} {drop_ins} {self.config}")
        run("systemctl", "daemon-reload")
        run("systemctl", "reset-failed", f"zpipe@{self.name}.*", self.monitor.name)

    # ---- results

    def query(self, sql: str, path: Path | None = None) -> list[tuple[Any, ...]]:
        uri = f"file:{path or DATA / f'{self.name}.db'}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
            return connection.execute(sql).fetchall()

    def count(self, table: str = "t") -> int:
        """How many rows there are; 0 before there is a table."""
        try:
            return int(self.query(f"SELECT count(*) FROM {table}")[0][0])
        except sqlite3.OperationalError:
            return 0

    def wait_more(self, more: int = 1, table: str = "t") -> int:
        """Waits until so many more rows than now are stored."""
        wanted = self.count(table) + more
        return wait_until(lambda: (now := self.count(table)) >= wanted and now, f"{more} more rows in {self.name}.db")

    def position(self, stage: str = "read") -> int:
        """What the source has committed; -1 before the first."""
        state = Path(f"/var/lib/zpipe/{self.name}.{stage}.1/state.db")
        try:
            rows = self.query("SELECT position FROM position", state)
        except sqlite3.OperationalError:
            return -1
        return -1 if not rows or rows[0][0] is None else int(cbor.read(rows[0][0]))  # type: ignore[call-overload]

    def assert_exactly_once(self, table: str = "t") -> int:
        """Each id is there once (it is the key), from 0 on without a gap, and everything that was committed. The last one."""
        count, least, most = self.query(f"SELECT count(*), min(id), max(id) FROM {table}")[0]
        assert (count, least) == (most + 1, 0), (
            f"{count} rows from {least} to {most}: {self._missing(table)} are missing"
        )
        assert self.position() <= most, "more is committed than is stored"
        return int(most)

    def _missing(self, table: str) -> list[Any]:
        gaps = f"SELECT id - 1 FROM {table} WHERE id > 0 AND id - 1 NOT IN (SELECT id FROM {table}) LIMIT 10"
        return [row[0] for row in self.query(gaps)]


MakePipeline = Callable[..., Pipeline]
"""make(name, config, module=source…): a pipeline in /etc/zpipe with its units; not started."""
