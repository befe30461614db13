"""Refuses a run whose instances run already, or whose folders belong to another user, and says who it is and which command helps.
Waits for instances of a killed run, which are about to end. Does not belong here: taking locks, making folders, asking
instances."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from zpipe import folders
from zpipe.config import InstanceKey, PipelineConfig
from zpipe.errors import OperatorError
from zpipe.monitor.run.progress import LiveProgress, PlainProgress
from zpipe.runtime import locks
from zpipe.runtime.logs import fields
from zpipe.runtime.places import Places

ORPHANS_S = 5.0
"""How long a run waits for instances of a killed run. They notice within milliseconds. One that does not end in this time is
stopped, or hangs in a system call, and somebody has to look after it."""
LOOK_S = 0.02
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
    obstacles = _obstacles(config, places, wanted)
    if obstacles:
        raise OperatorError(_words_of_conflict(config, list(obstacles.values())))
    for folder in (folder for key in wanted for folder in (places.runtime(*key), places.state(*key))):
        _refuse_folder(config, places, folder)


def wait_for_orphans(
    config: PipelineConfig, places: Places, wanted: Collection[InstanceKey], display: LiveProgress | PlainProgress
) -> None:
    """Waits up to ORPHANS_S until no instance of a killed run is in the way, and says so on the display. Blocks. Returns at once
    if anything else is in the way too, since the run is refused then."""
    deadline = time.monotonic() + ORPHANS_S
    said = False
    while (obstacles := _obstacles(config, places, wanted)) and time.monotonic() < deadline:
        if not all(_is_orphan(places, key, one) for key, one in obstacles.items()):
            return
        if not said:
            names = _names(list(obstacles.values()))
            hint = "they are of a run that was killed, and are about to end"
            display.line(fields(event="run.waiting", instances=names, up_to_s=ORPHANS_S, hint=hint))
            said = True
        time.sleep(LOOK_S)


def _obstacles(
    config: PipelineConfig, places: Places, wanted: Collection[InstanceKey]
) -> dict[InstanceKey, RunningInstance]:
    keys = [(stage, n) for stage in config.stages for n in sorted(places.instances(stage))]
    running = {key: _running_instance(places, key) for key in keys if places.alive(*key)}
    return {key: one for key, one in running.items() if key in wanted or one.unit or one.uid != os.getuid()}


def _is_orphan(places: Places, key: InstanceKey, instance: RunningInstance) -> bool:
    """Whether the instance belongs to a run that is over: there is no other, and it does not say that it belongs to none."""
    of_this_user = not instance.unit and instance.uid == os.getuid()
    return of_this_user and places.run_of(*key) != "" and not places.live_run()


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
    who = _names(obstacles)
    units = any(one.unit for one in obstacles)
    stop = f"; `systemctl stop zpipe-{config.name}.target 'zpipe@{config.name}.*'` stops it" if units else ""
    drain = f"; `zpipe drain {config.path}` ends it in order"
    as_user = "" if all(one.uid == os.getuid() for one in obstacles) or os.getuid() == 0 else " (as that user or root)"
    return (
        f"pipeline {config.name!r} is running already, and a run takes over nothing: {who}. "
        f"`zpipe monitor {config.path}` shows it{drain}{stop}{as_user}"
    )


def _names(instances: list[RunningInstance]) -> str:
    more = f" and {len(instances) - _SHOWN} more" if len(instances) > _SHOWN else ""
    return ", ".join(str(one) for one in instances[:_SHOWN]) + more


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
