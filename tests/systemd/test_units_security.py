"""The shipped units, as `systemd-analyze` sees them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from machine import ROOT, MakePipeline

from zpipe.config import load
from zpipe.units import install, unit_files

pytestmark = pytest.mark.needs("systemd-analyze")
GOLDEN = Path(__file__).parent / "golden"
IPC, TCP = 1.0, 1.5
"""What design N9 allows."""


ASKS = """
[pipeline]
name = "asks"
[stages.read]
plugin = "generate"
[stages.ask]
input = "read"
plugin = "http"
options = { url = "https://example.org/{id}" }
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the units of an ipc-only pipeline and of one with tcp."""
    root = tmp_path_factory.mktemp("root")
    env = {"ZPIPE_RUNTIME_DIR": "/run/zpipe"}
    asks = root / "asks.toml"
    asks.write_text(ASKS)
    for config in (
        ROOT / "configs" / "steady.toml",
        GOLDEN / "tcp.toml",
        GOLDEN / "metered.toml",
        GOLDEN / "hosts.toml",
        asks,
    ):
        pipeline = load(config, env={**env, "STDLIB": "/usr/lib/python3"}, ask_plugins=False)
        host = next(iter(pipeline.hosts), "")
        wanted = unit_files.files(pipeline, install.templates(), unit_files.PROGRAM, host)
        install.apply(root, install.find_changes(root, pipeline.name, wanted))
    return root


def analyze(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("unit", "most"),
    [
        ("steady.read.1", IPC),
        ("steady.square.8", IPC),
        ("tcp.read.1", TCP),
        ("hosts.read.1", TCP),
        ("tcp.join.1", TCP),
        ("tcp.far.3", TCP),
        ("asks.ask.1", TCP),
        ("asks.read.1", IPC),
    ],
)
def test_exposure(root: Path, unit: str, most: float) -> None:
    threshold = f"--threshold={round(most * 10)}"  # in tenths
    code, shown = analyze("security", "--offline=true", f"--root={root}", threshold, f"zpipe@{unit}.service")
    score = re.search(r"Overall exposure level.*: ([0-9.]+) ", shown)
    assert score, shown
    assert float(score[1]) <= most, shown
    assert code == 0, shown


@pytest.mark.parametrize(("address", "most"), [("127.0.0.1:9464", TCP), ("0.0.0.0:9464", TCP)])
def test_exposure_of_what_serves_metrics(tmp_path: Path, address: str, most: float) -> None:
    config = tmp_path / "metered.toml"
    config.write_text((GOLDEN / "metered.toml").read_text().replace("127.0.0.1:9464", address))
    pipeline = load(config, env={"ZPIPE_RUNTIME_DIR": "/run/zpipe"}, only="")
    wanted = unit_files.files(pipeline, install.templates(), unit_files.PROGRAM)
    install.apply(tmp_path, install.find_changes(tmp_path, pipeline.name, wanted))
    threshold = f"--threshold={round(most * 10)}"
    code, shown = analyze(
        "security", "--offline=true", f"--root={tmp_path}", threshold, "zpipe-monitor@metered.service"
    )
    assert code == 0, shown


def test_readme_has_the_scores(root: Path) -> None:
    page = " ".join((ROOT / "systemd" / "README.md").read_text().split())
    said = re.search(
        r"gives ([0-9.]+) to an instance that talks over ipc .* and ([0-9.]+) to one .* \(([0-9.]+) on", page
    )
    assert said, page
    for unit, score in zip(("steady.read.1", "tcp.far.1", "tcp.read.1"), said.groups(), strict=True):
        shown = analyze("security", "--offline=true", f"--root={root}", f"zpipe@{unit}.service")[1]
        assert f"zpipe@{unit}.service: {score} " in shown, shown


def test_every_opening_has_its_reason_beside_it() -> None:
    """What `security` counts against the template stands below a comment that says why, or is no setting of it."""
    common = ("SystemCallFilter=sched_setscheduler", "ProcSubset=all")
    for name, own in ((unit_files.TEMPLATE, "AF_UNIX"), (unit_files.MONITOR, "AF_UNIX AF_INET AF_INET6")):
        lines = install.templates()[name].splitlines()
        for setting in (*common, f"RestrictAddressFamilies={own}"):
            assert lines[lines.index(setting) - 1].startswith("# Open: "), (name, setting)


def test_verify_has_nothing_to_say(make: MakePipeline) -> None:
    make("steady", (ROOT / "configs" / "steady.toml").read_text())
    make("tcp", (GOLDEN / "tcp.toml").read_text())
    make("metered", (GOLDEN / "metered.toml").read_text())
    names = ["zpipe-metered.target", "zpipe-monitor@metered.service", "zpipe-steady.target", "zpipe-tcp.target"]
    names += ["zpipe@steady.read.1.service", "zpipe@tcp.far.1.service"]
    assert analyze("verify", "--man=no", *names) == (0, "")
