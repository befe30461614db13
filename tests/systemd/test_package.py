"""The life of the Debian package on a machine: installed, upgraded under load, removed, purged; and zpipe without it. Commands
are those of systemd/README.md, word for word.

The tests are run in their order, and leave the package installed.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import CONFIGS, PACKAGES, UNITS, Pipeline, blocks, install_package, run, shell, wait_until

RATE = 5000
CONFIG = f"""
[pipeline]
name = "loaded"
[stages.read]
plugin = "generate"
options = {{ rate = {RATE} }}
[stages.work]
input = "read"
plugin = "python"
instances = 2
options = {{ function = "loaded.py:work" }}
[stages.store]
input = "work"
plugin = "sqlite"
batch = {{ messages = 2000, timeout = "200ms" }}
options = {{ path = "/var/lib/zpipe/data/loaded.db", table = "t", key = "id" }}
"""
MODULE = """
def work(payload):
    return payload
"""
ENVIRONMENT = Path("/opt/zpipe")
UPGRADE, REMOVE = blocks("Upgrade and remove zpipe")


@pytest.fixture(scope="module")
def loaded(installed: None) -> Iterator[Pipeline]:
    """A pipeline under load. Afterwards the package is as it was before these tests."""
    pipeline = Pipeline("loaded")
    pipeline.write(CONFIG, loaded=MODULE)
    pipeline.start()
    yield pipeline
    run("apt-get", "purge", "zpipe")
    pipeline.remove()
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    Path("/usr/local/bin/zpipe").unlink(missing_ok=True)
    for kind in ("sysusers", "tmpfiles"):
        Path(f"/etc/{kind}.d/zpipe.conf").unlink(missing_ok=True)
    install_package()


@pytest.fixture
def second_build(tmp_path: Path) -> Path:
    """A folder with a package of a higher version: the same files, made anew."""
    (first,) = PACKAGES.glob("zpipe_*.deb")
    tree = tmp_path / "tree"
    shell(f"dpkg-deb --raw-extract {first} {tree}")
    control = tree / "DEBIAN" / "control"
    text = control.read_text()
    version = installed_version()
    assert f"\nVersion: {version}\n" in text
    control.write_text(text.replace(f"\nVersion: {version}\n", f"\nVersion: {version}+second\n"))
    shell(f"dpkg-deb -Znone --root-owner-group --build {tree} {tmp_path}", deadline_s=120)
    shutil.rmtree(tree)
    return tmp_path


def test_an_upgrade_loses_nothing_and_leaves_no_old_process(loaded: Pipeline, second_build: Path) -> None:
    before = installed_version()
    example = CONFIGS / "example.toml"
    example.write_text(example.read_text() + "# changed here\n")
    loaded.wait_more(2 * RATE)
    old = running()
    assert len(old) == 4, old
    count, began = loaded.count(), time.monotonic()

    said = shell(UPGRADE, deadline_s=180, folder=second_build)

    stored, took_s = loaded.count() - count, time.monotonic() - began
    print(f"{stored} messages stored in the {took_s:.1f} s of the upgrade")
    assert installed_version() == f"{before}+second"
    unpacked = (ENVIRONMENT / "bin" / "zpipe").stat().st_ctime
    new = running()
    assert len(new) == 4, new
    assert not old.keys() & new.keys()
    assert min(new.values()) > unpacked, "a process is older than its package"
    ready = [line.split()[0] for line in said.splitlines() if " is ready again after " in line]
    assert ready == [f"zpipe@loaded.{one}.service" for one in ("store.1", "work.1", "work.2", "read.1")], said
    assert stored > 0, "messages flow while units are restarted"
    assert example.read_text().endswith("# changed here\n")

    loaded.wait_more(2 * RATE)
    drained = run("zpipe", "drain", "loaded", "--json")
    assert drained.returncode == 0, drained.stderr
    ledger = json.loads(drained.stdout.splitlines()[-1])
    assert ledger["balanced"], ledger
    assert loaded.assert_exactly_once() == loaded.position()


def test_a_removal_drains_first(loaded: Pipeline) -> None:
    remove = REMOVE.splitlines()[0]
    loaded.start()
    loaded.wait_more(2 * RATE)
    said = shell(remove)
    assert "zpipe: draining pipeline loaded, for at most 60 s\n" in said
    assert "loaded: the ledger balances after " in said
    assert not running()
    assert run("systemctl", "list-units", "--no-legend", "zpipe*").stdout == ""
    assert loaded.assert_exactly_once() == loaded.position()
    assert not ENVIRONMENT.exists()
    assert loaded.config.exists()
    assert (UNITS / loaded.target).exists()


def test_a_purge_keeps_what_was_stored_and_says_so(loaded: Pipeline) -> None:
    purge = REMOVE.splitlines()[1]
    said = shell(purge)
    assert "zpipe: /var/lib/zpipe is kept" in said
    assert "zpipe: /etc/zpipe is kept" in said
    assert loaded.assert_exactly_once() == loaded.position()
    assert loaded.config.exists()
    assert not (CONFIGS / "example.toml").exists()
    assert not list(UNITS.glob("zpipe*"))
    assert run("id", "zpipe").returncode == 0


def test_without_the_package(loaded: Pipeline) -> None:
    """The same pipeline goes on where its source was."""
    for block in blocks("Without the package"):
        shell(block, deadline_s=180)
    assert shell("command -v zpipe") == "/usr/local/bin/zpipe\n"
    shell(f"zpipe units {loaded.config} --install")
    assert f"ExecStart={ENVIRONMENT}/bin/zpipe stage" in (UNITS / "zpipe@.service").read_text()
    loaded.start()
    loaded.wait_more(RATE)
    loaded.stop()
    assert loaded.assert_exactly_once() == loaded.position()


def test_a_removal_stops_what_cannot_be_drained(loaded: Pipeline) -> None:
    """A head that is gone cannot begin a drain."""
    shutil.rmtree(ENVIRONMENT)
    (UNITS / "zpipe@.service").unlink()
    Path("/usr/local/bin/zpipe").unlink()
    install_package()
    loaded.start()
    loaded.wait_more(RATE)
    read = loaded.service("read")
    shell(f"systemctl kill -s KILL {read.name}; systemctl stop {read.name}")
    done = run("apt-get", "remove", "zpipe", deadline_s=180)
    assert done.returncode == 0, done.stderr
    assert (
        "zpipe: pipeline loaded is not drained; its next start goes on where its source was"
        in done.stderr + done.stdout
    )
    assert not running()
    install_package()
    loaded.start()
    wait_until(lambda: loaded.service("read").active, "the reinstalled package starts it")
    loaded.wait_more(RATE)
    loaded.stop()
    assert loaded.assert_exactly_once() == loaded.position()


def installed_version() -> str:
    return run("dpkg-query", "--show", "--showformat=${Version}", "zpipe").stdout


def running() -> dict[int, float]:
    """When each process of zpipe was started, by pid."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if not (folder / "cmdline").read_bytes().startswith(b"/opt/zpipe/"):
                continue
            ticks = int((folder / "stat").read_text().rpartition(")")[2].split()[19])
        except (FileNotFoundError, ProcessLookupError):
            continue
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        found[int(folder.name)] = time.time() - age_s
    return found
