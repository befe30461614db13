"""Where an instance's addresses and files are, for itself and for its neighbours.

May live here: names of sockets and files in runtime folders, and the mark of an instance that stopped at the end of a run.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zpipe import folders
from zpipe.config import PipelineConfig, parse_address
from zpipe.errors import OperatorError

MARK = "stopped.json"
LOCK_S = 0.5


@dataclass(frozen=True)
class Addresses:
    """The well-known ones of an instance."""

    feedback: str
    control: str


class Places:
    """The places of one pipeline's instances. `run` is the run they all belong to ("" outside `zpipe run`)."""

    def __init__(self, config: PipelineConfig, env: Mapping[str, str]) -> None:
        self._config = config
        self._env = env
        self.root = folders.runtime_root(env)
        self.run = env.get("ZPIPE_RUN", "") or self._run_under_way()

    def _run_under_way(self) -> str:
        """The run of a `zpipe run` of this pipeline that is alive now: an instance started beside it belongs to it."""
        path = self.root / f"{self._config.name}.run"
        if not _locked(path):
            return ""
        try:
            return str(json.loads(path.read_text())["run"])
        except (OSError, ValueError, KeyError):
            return ""

    def alive(self, stage: str, instance: int) -> bool:
        """Whether a process of the instance holds its lock now (only an instance on this machine can be seen)."""
        return _locked(self.runtime(stage, instance) / "lock")

    def runtime(self, stage: str, instance: int) -> Path:
        return folders.runtime_folder(self._env, self._config.name, stage, instance)

    def state(self, stage: str, instance: int) -> Path:
        return folders.state_folder(self._env, self._config.name, stage, instance)

    def addresses(self, stage: str, instance: int) -> Addresses:
        """Raises OperatorError for an instance that `listen` has no address for."""
        listen = self._config.stages[stage].listen
        if not listen:
            folder = self.runtime(stage, instance)
            return Addresses(f"ipc://{folder}/feedback.sock", f"ipc://{folder}/control.sock")
        if instance > len(listen):
            raise OperatorError(
                f"stages.{stage}.listen in {self._config.path} has {len(listen)} addresses: add one for instance {instance}"
            )
        address = parse_address(listen[instance - 1])
        return Addresses(f"tcp://{address.host}:{address.port}", f"tcp://{address.host}:{address.port + 1}")

    def inbox(self, stage: str, instance: int, incarnation: str) -> str:
        """A fresh address for every incarnation, so that nothing sent to the last one reaches this one."""
        listen = self._config.stages[stage].listen
        if not listen:
            return f"ipc://{self.runtime(stage, instance)}/inbox-{incarnation}.sock"
        return f"tcp://{parse_address(listen[instance - 1]).host}:*"

    def instances(self, stage: str) -> set[int]:
        """Instances there may be: those of the config, and any with a folder (`zpipe stage … --instance N`)."""
        settings = self._config.stages[stage]
        if settings.listen:
            return set(range(1, len(settings.listen) + 1))
        found = set(range(1, settings.instances + 1))
        prefix = f"{self._config.name}.{stage}."
        try:
            names = [entry.name for entry in os.scandir(self.root) if entry.name.startswith(prefix)]
        except OSError:
            return found
        return found | {int(name[len(prefix) :]) for name in names if name[len(prefix) :].isdigit()}

    # ---- the mark of a stop at the end of a run

    def mark(self, stage: str, instance: int, ended: bool, snapshot: dict[str, Any]) -> None:
        """Leaves word that the instance stopped, for neighbours that start later and for the run's ledger."""
        path = self.runtime(stage, instance) / MARK
        text = json.dumps({"run": self.run, "ended": ended, "snapshot": snapshot})
        part = path.with_suffix(".part")
        part.write_text(text)
        part.replace(path)

    def marked(self, stage: str, instance: int) -> dict[str, Any] | None:
        """The last snapshot of an instance that stopped in this run; None if it has not, or outside a run."""
        if not self.run:
            return None
        try:
            mark = json.loads((self.runtime(stage, instance) / MARK).read_text())
        except (OSError, ValueError):
            return None
        if mark.get("run") != self.run or not mark.get("ended"):
            return None
        snapshot: dict[str, Any] = mark["snapshot"]
        return snapshot


def _locked(path: Path) -> bool:
    """Whether somebody holds the lock. The shared lock taken to find out is given back at once."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class InstanceLock:
    """Held while an instance lives: a second bind of an ipc address would steal it silently."""

    def __init__(self, folder: Path, name: str) -> None:
        """Makes the folder. Raises OperatorError if the instance runs already."""
        folders.make_private(folder)
        self._fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not self._take():
            pid = os.read(self._fd, 20).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise OperatorError(f"{name} is running already (pid {pid}, {folder})")
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode())
        for stale in [*folder.glob("inbox-*.sock"), folder / MARK]:
            stale.unlink(missing_ok=True)

    def _take(self) -> bool:
        """Tries for LOCK_S: a look by `_locked`, or the last moments of a killed process, may be in the way."""
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.02)
            else:
                return True

    def release(self) -> None:
        os.close(self._fd)
