"""Whether the disks of this machine have room for the disk buffers that a config gives its instances here.

Must not live here: what is in the buffers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zpipe.config import InstanceKey, PipelineConfig
from zpipe.config.reading.values import show_size
from zpipe.core.policy import BufferPolicy
from zpipe.folders import BUFFERS
from zpipe.runtime.places import Places


class BufferDisk(NamedTuple):
    """A disk, with the buffers of all instances that have some on it. `problem`: what is wrong with it, said of
    `whose`; "" if nothing is."""

    instances: tuple[InstanceKey, ...]
    needed_bytes: int
    free_bytes: int
    problem: str

    @property
    def whose(self) -> str:
        """Its instances, in words."""
        of_stages: dict[str, list[int]] = {}
        for stage, instance in self.instances:
            of_stages.setdefault(stage, []).append(instance)
        *rest, last = (
            f"{stage}.{found[0]}" if len(found) == 1 else f"{len(found)} instances of {stage}"
            for stage, found in of_stages.items()
        )
        return f"{', '.join(rest)} and {last}" if rest else last


class _Buffers(NamedTuple):
    """The buffers of one instance. `nearest`: the nearest folder above them that exists."""

    key: InstanceKey
    folder: Path
    nearest: Path
    policy: BufferPolicy
    buffers: int

    @property
    def needed_bytes(self) -> int:
        return self.buffers * self.policy.bytes


def examine(config: PipelineConfig, places: Places) -> Iterator[BufferDisk]:
    """A look at each disk that is to have buffers of instances of this host. Blocks for some system calls. What is stored already
    counts as room, since it is part of the bound."""
    disks: dict[int, list[_Buffers]] = {}
    for one in _buffers(config, places):
        if not places.of_system and not os.access(one.nearest, os.W_OK | os.X_OK):
            problem = f"cannot write to {one.folder}: {one.nearest} belongs to another"
            yield BufferDisk((one.key,), one.needed_bytes, 0, problem)
        else:
            disks.setdefault(one.nearest.stat().st_dev, []).append(one)
    yield from map(_examine_disk, disks.values())


def _buffers(config: PipelineConfig, places: Places) -> Iterator[_Buffers]:
    for stage, instance in config.instances_on(places.host):
        buffer = config.stages[stage].buffer
        buffers = sum(config.stages[consumer].link is None for _, consumer in config.consumers(stage))
        if buffer is None or not buffers:
            continue
        folder = places.state(stage, instance) / BUFFERS
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        yield _Buffers((stage, instance), folder, nearest, buffer, buffers)


def _examine_disk(buffers: list[_Buffers]) -> BufferDisk:
    disk = shutil.disk_usage(buffers[0].nearest)
    stored = sum(_size(file) for one in buffers if one.folder.exists() for file in one.folder.glob("*/*.seg"))
    left = max(one.policy.left_bytes(disk.total) for one in buffers)
    free = max(disk.free + stored - left, 0)
    needed = sum(one.needed_bytes for one in buffers)
    problem = ""
    if free < needed:
        others = f" and {len(buffers) - 1} more folders, all on one disk," if len(buffers) > 1 else ", and its disk"
        has = f"which has {free >> 20:,} MiB for them" if len(buffers) > 1 else f"has {free >> 20:,} MiB for it"
        problem = f"may need {show_size(needed)} for {buffers[0].folder}{others} {has}"
    return BufferDisk(tuple(one.key for one in buffers), needed, free, problem)


def _size(file: Path) -> int:
    """0 for a file that its instance has removed meanwhile, or that cannot be looked at."""
    try:
        return file.stat().st_size
    except OSError:
        return 0
