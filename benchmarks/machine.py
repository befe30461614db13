"""What a run is described by: the commit, the versions, the kind of machine. Does not belong here: what was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import zpipe

ROOT = Path(__file__).parents[1]
PACKAGES = ("pyzmq", "cbor2", "ormsgpack", "redis", "nats-py", "pika")


def describe() -> dict[str, Any]:
    return {
        "commit": _git("describe", "--always", "--dirty", "--abbrev=12"),
        "machine": {
            "system": f"{platform.system()} {platform.release()}",
            "processor": _from_proc("cpuinfo", "model name"),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "load": os.getloadavg()[0],
        },
        "versions": {
            "python": platform.python_version(),
            "zpipe": zpipe.__version__,
            **{name: _version(name) for name in PACKAGES},
        },
    }


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _from_proc(file: str, key: str) -> str:
    for line in Path("/proc", file).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
