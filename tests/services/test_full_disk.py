"""Sinks that write files, on a disk that is full for a while: they wait, say so, and go on when there is room."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import needs
import pytest
from databases import Make
from pipeline import Pipeline
from rows import DEADLINE_S, waits_saying

COUNT = 30_000
CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
options = {{ count = {count}, fields = {{ name = "a name", price = 1.5 }} }}

[stages.store]
input = "read"
plugin = "{plugin}"
batch = {{ messages = 500, timeout = "50ms" }}
options = {{ {options} }}
"""
KIB = 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    needs.skip_without("mounts")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def ids_of_sqlite(pipeline: Pipeline, disk: Path) -> list[int]:
    return [row[0] for row in pipeline.query("SELECT id FROM t ORDER BY id", str(disk / "out.db"))]


def ids_of_ndjson(pipeline: Pipeline, disk: Path) -> list[int]:
    """Sorted: what is tried again comes after what was not."""
    return sorted(json.loads(line)["id"] for line in (disk / "out.ndjson").read_text().splitlines())


def ids_of_parquet(pipeline: Pipeline, disk: Path) -> list[int]:
    import pyarrow.parquet

    files = sorted((disk / "out").iterdir())
    return sorted(n for path in files for n in pyarrow.parquet.read_table(path)["id"].to_pylist())


@pytest.mark.parametrize(
    ("plugin", "options", "stored", "words"),
    [
        ("sqlite", 'path = "{disk}/out.db", table = "t", key = "id"', ids_of_sqlite, "database or disk is full"),
        ("ndjson", 'path = "{disk}/out.ndjson"', ids_of_ndjson, "No space left on device"),
        ("parquet", 'folder = "{disk}/out"', ids_of_parquet, "No space left on device"),
    ],
)
def test_a_full_disk_is_waited_for(
    make: Make,
    disk: Path,
    plugin: str,
    options: str,
    stored: Callable[[Pipeline, Path], list[int]],
    words: str,
) -> None:
    pipeline = make(CONFIG.format(plugin=plugin, count=COUNT, options=options.format(disk=disk)))
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - 256 * KIB)
    run = pipeline.run()
    waits_saying(pipeline, run, "store", words)
    ballast.unlink()
    ledger = run.ledger(DEADLINE_S)
    assert all(row["restarts"] == row["dead"] == 0 for row in ledger["stages"].values()), ledger
    assert stored(pipeline, disk) == list(range(COUNT))
