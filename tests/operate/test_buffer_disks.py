"""Disk buffers that a disk of this machine has no room for are named before they fill it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from unprivileged import as_unprivileged_user, folder_for_anybody

from zpipe.config import PipelineConfig, load
from zpipe.config.loading import report_for
from zpipe.config.topology import advise
from zpipe.operate import buffer_disks
from zpipe.runtime.places import Places

CONFIG = """
[pipeline]
name = "p"

[stages.read]
plugin = "generate"
buffer = {{ bytes = "{size}" }}

[stages.one]
plugin = "discard"
input = "read"

[stages.two]
plugin = "discard"
input = "read"
{more}
"""


def made(folder: Path, size: str, more: str = "") -> tuple[PipelineConfig, Places]:
    path = folder / "p.toml"
    path.write_text(CONFIG.format(size=size, more=more))
    env = {"ZPIPE_STATE_DIR": str(folder / "state"), "ZPIPE_RUNTIME_DIR": "/run/z"}
    config = load(path, env=env)
    return config, Places(config, env)


def test_each_reader_has_a_buffer_of_its_own(tmp_path: Path) -> None:
    [one] = buffer_disks.examine(*made(tmp_path, "1MiB"))
    assert (one.instances, one.whose, one.needed_bytes, one.problem) == ((("read", 1),), "read.1", 2 << 20, "")


def test_a_disk_that_is_too_small_is_named(tmp_path: Path) -> None:
    half = shutil.disk_usage(tmp_path).free // (1 << 20) * 2 // 3
    [one] = buffer_disks.examine(*made(tmp_path, f"{half}MiB"))
    assert one.free_bytes < one.needed_bytes and f"for {tmp_path}/state/p.read.1/buffers" in one.problem


MORE = """
buffer = {{ bytes = "{size}" }}

[stages.parse]
plugin = "discard"
input = "two"
instances = 3
buffer = {{ bytes = "{size}" }}

[stages.end]
plugin = "discard"
input = "parse"
"""


def test_buffers_of_all_instances_on_a_disk_are_added_up(tmp_path: Path) -> None:
    [fits] = buffer_disks.examine(*made(tmp_path, "1MiB", MORE.format(size="1MiB")))
    assert (fits.whose, fits.needed_bytes, fits.problem) == ("read.1, two.1 and 3 instances of parse", 6 << 20, "")
    third = shutil.disk_usage(tmp_path).free // (1 << 20) // 3  # each fits by itself
    [one] = buffer_disks.examine(*made(tmp_path, f"{third}MiB", MORE.format(size=f"{third}MiB")))
    assert one.needed_bytes == 6 * third << 20
    assert f"for {tmp_path}/state/p.read.1/buffers and 4 more folders, all on one disk, which has" in one.problem


@pytest.mark.needs("another disk")
def test_buffers_on_several_disks_are_judged_apart(tmp_path: Path) -> None:
    config, places = made(tmp_path, "1MiB", MORE.format(size="1MiB"))
    other = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=other) as there:
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "p.two.1").symlink_to(there)
        found = {one.whose: one.needed_bytes for one in buffer_disks.examine(config, places)}
    assert found == {"read.1 and 3 instances of parse": 5 << 20, "two.1": 1 << 20}


def test_what_is_stored_already_is_part_of_the_bound(tmp_path: Path) -> None:
    config, places = made(tmp_path, "1MiB")
    [before] = buffer_disks.examine(config, places)
    folder = tmp_path / "state/p.read.1/buffers/_.one"
    folder.mkdir(parents=True)
    with (folder / "00000000000000000001.seg").open("wb") as file:
        file.truncate(1 << 40)  # sparse: it takes no room
    [after] = buffer_disks.examine(config, places)
    assert after.free_bytes > before.free_bytes + (1 << 39)


def test_a_segment_that_is_removed_meanwhile_is_passed_over(tmp_path: Path) -> None:
    config, places = made(tmp_path, "1MiB")
    folder = tmp_path / "state/p.read.1/buffers/_.one"
    folder.mkdir(parents=True)
    (folder / "00000000000000000001.seg").symlink_to("gone")
    [one] = buffer_disks.examine(config, places)
    assert one.problem == ""


def test_a_folder_that_cannot_be_written_is_named() -> None:
    with folder_for_anybody() as folder:
        config, places = made(folder, "1MiB")
        (folder / "state").mkdir(mode=0o555)
        with as_unprivileged_user():
            [one] = buffer_disks.examine(config, places)
    assert "cannot write to" in one.problem


def test_a_buffer_that_nobody_reads_from_is_advised_against(tmp_path: Path) -> None:
    config, _ = made(tmp_path, "1MiB", 'buffer = { bytes = "1MiB" }')
    report = report_for(config, "p.toml", {})
    advise(config, report)
    assert ["stores nothing: no stage reads from it" in str(one) for one in report.mistakes] == [True]
