"""Refuses a run whose instances run already, or whose folders belong to another user, and says who it is and which command helps.
Does not belong here: taking locks, making folders, asking instances."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from zpipe import folders
from zpipe.config import InstanceKey, PipelineConfig
from zpipe.errors import OperatorError
from zpipe.runtime import locks
from zpipe.runtime.places import Places

_UNIT = re.compile(r"/(zpipe@[^/\n]+\.service)$", re.MULTILINE)
_SHOWN = 3


@dataclass(frozen=True)
class RunningInstance:
    """An instance that runs. `pid` is 0 if it is not known; `unit` is the systemd unit that it runs as, "" if none."""

    name: str
    pid: int
    uid: int
    unit: str

    def __str__(self) -> str:
        pid = f"pid {self.pid}, " * bool(self.pid)
        return f"{self.name} ({pid}user {folders.user_name(self.uid)}{f', unit {self.unit}' * bool(self.unit)})"


def refuse(config: PipelineConfig, places: Places, wanted: Collection[InstanceKey]) -> None:
    """Raises OperatorError if a run cannot start the instances `wanted`, since the pipeline runs or a folder is somebody else's.

    One kind of running instance is no obstacle and joins the run: one of the same user that is not among those wanted and has no
    systemd unit.
    """
    running = [
        (key, _running_instance(places, key))
        for key in ((stage, n) for stage in config.stages for n in sorted(places.instances(stage)))
        if places.alive(*key)
    ]
    obstacles = [one for key, one in running if key in wanted or one.unit or one.uid != os.getuid()]
    if obstacles:
        raise OperatorError(_words_of_conflict(config, obstacles))
    for folder in (folder for key in wanted for folder in (places.runtime(*key), places.state(*key))):
        _refuse_folder(config, places, folder)


def _running_instance(places: Places, key: InstanceKey) -> RunningInstance:
    lock = places.runtime(*key) / "lock"
    pid = locks.holder(lock) or 0
    process = Path(f"/proc/{pid}")
    uid = _owner(process) if pid else None
    if uid is None:
        uid = _owner(lock)
    try:
        unit = _UNIT.search((process / "cgroup").read_text()) if pid else None
    except OSError:
        unit = None
    return RunningInstance(f"{key[0]}.{key[1]}", pid, os.getuid() if uid is None else uid, unit[1] if unit else "")


def _owner(path: Path) -> int | None:
    try:
        return path.stat().st_uid
    except OSError:
        return None


def _words_of_conflict(config: PipelineConfig, obstacles: list[RunningInstance]) -> str:
    more = f" and {len(obstacles) - _SHOWN} more" if len(obstacles) > _SHOWN else ""
    who = ", ".join(str(one) for one in obstacles[:_SHOWN]) + more
    units = any(one.unit for one in obstacles)
    stop = f"; `systemctl stop zpipe-{config.name}.target 'zpipe@{config.name}.*'` stops it" if units else ""
    drain = f"; `zpipe drain {config.path}` ends it in order"
    as_user = "" if all(one.uid == os.getuid() for one in obstacles) or os.getuid() == 0 else " (as that user or root)"
    return (
        f"pipeline {config.name!r} is running already, and a run takes over nothing: {who}. "
        f"`zpipe monitor {config.path}` shows it{drain}{stop}{as_user}"
    )


def _refuse_folder(config: PipelineConfig, places: Places, folder: Path) -> None:
    uid = _owner(folder)
    if uid is None or uid == os.getuid():
        return
    theirs, mine = folders.user_name(uid), folders.user_name(os.getuid())
    if places.of_system:
        cure = f"its units run this pipeline: `systemctl start zpipe-{config.name}.target`"
    else:
        cure = f"run this as {theirs}, or set $ZPIPE_RUNTIME_DIR and $ZPIPE_STATE_DIR to folders of {mine}"
    raise OperatorError(f"{folder} belongs to user {theirs}, not to {mine}: {cure}")
