"""Whether the disks of this machine have room for the disk buffers that a config gives its instances here.

Must not live here: what is in the buffers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zpipe.config import PipelineConfig
from zpipe.config.reading.values import show_size
from zpipe.runtime.places import Places

LEFT_PART = 20
"""A twentieth of the disk is left to others, whatever a config says."""


class BufferDisk(NamedTuple):
    """Of one instance, with all its buffers. `problem`: why they do not fit, in words; "" if they do."""

    stage: str
    instance: int
    needed_bytes: int
    free_bytes: int
    problem: str


def examine(config: PipelineConfig, places: Places) -> Iterator[BufferDisk]:
    """A look at the disk for each instance of this host that has buffers. Blocks for some system calls. What is stored already
    counts as room, since it is part of the bound."""
    for stage, instance in config.instances_on(places.host):
        buffer = config.stages[stage].buffer
        buffers = sum(config.stages[consumer].link is None for _, consumer in config.consumers(stage))
        if buffer is None or not buffers:
            continue
        folder = places.state(stage, instance) / "buffers"
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        needed = buffers * buffer.bytes
        if not places.of_system and not os.access(nearest, os.W_OK | os.X_OK):
            yield BufferDisk(stage, instance, needed, 0, f"{folder} cannot be written: {nearest} belongs to another")
            continue
        disk = shutil.disk_usage(nearest)
        stored = sum(map(_size, folder.glob("*/*.seg"))) if folder.exists() else 0
        free = max(disk.free + stored - disk.total // LEFT_PART, 0)
        problem = (
            f"{show_size(needed)} for {folder}, and its disk has {free >> 20:,} MiB for it" if free < needed else ""
        )
        yield BufferDisk(stage, instance, needed, free, problem)


def _size(file: Path) -> int:
    """0 of one that its instance has removed meanwhile, or that cannot be looked at."""
    try:
        return file.stat().st_size
    except OSError:
        return 0
