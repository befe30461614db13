"""Who finds what runs, by its name or its file: root all of it, a user their own, whatever has become of the file."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import CONFIGS, ENV, ZPIPE, MakePipeline, run, wait_until

CONFIG = """
[pipeline]
name = "{name}"
[stages.read]
plugin = "generate"
options = {{ rate = 100 }}
[stages.store]
input = "read"
plugin = "discard"
"""
USER = 65534
OTHER = 65533


def by(user: int, *arguments: str) -> list[str]:
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", ZPIPE, *arguments]


def ask(*arguments: str, user: int = 0) -> tuple[int, str, str]:
    command = by(user, *arguments) if user else [ZPIPE, *arguments]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def theirs(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The config of a pipeline that a user without a session runs, in /tmp/zpipe-UID."""
    config = CONFIGS / "theirs.toml"
    config.write_text(CONFIG.format(name="theirs"))
    env = {**ENV, "ZPIPE_STATE_DIR": f"/tmp/state-{USER}"}
    with subprocess.Popen(by(USER, "run", str(config), "-q"), env=env, stderr=subprocess.PIPE, text=True) as process:
        yield config
        process.terminate()
        process.communicate(timeout=60)
    config.unlink(missing_ok=True)


def test_root_asks_what_systemd_runs_by_its_name_while_its_file_is_broken(make: MakePipeline) -> None:
    pipeline = make("ours", CONFIG.format(name="ours"))
    pipeline.start()
    pipeline.config.write_text("[pipeline\n")
    for given in ("ours", str(pipeline.config)):
        code, said, notes = ask("monitor", given, "--check")
        assert (code, said[:3]) == (0, "OK "), notes
        assert "ours.toml is no config that can be run; pipeline 'ours' runs by what was read before" in notes
    code, said, notes = ask("monitor", "ours", "--check", user=OTHER)
    assert code == 1, said + notes
    assert "may not look into /run/zpipe/ours." in notes
    assert "belongs to zpipe: run this as zpipe or as root" in notes
    code, said, notes = ask("drain", "ours", "--json")
    assert code == 0, notes
    assert json.loads(said)["balanced"]


def test_root_finds_what_a_user_runs_and_another_user_does_not(theirs: Path) -> None:
    def running() -> bool:
        return ask("monitor", "theirs", "--check")[0] == 0

    wait_until(running, "root hears of the user's pipeline")
    theirs.write_text(CONFIG.format(name="theirs").replace("rate = 100", "rate = 101"))
    code, said, notes = ask("graph", str(theirs), "--json")
    assert (code, json.loads(said)["pipeline"]) == (0, "theirs")
    assert "theirs.toml is not what runs: [stages.read] differ" in notes
    code, said, notes = ask("monitor", "theirs", "--check", user=OTHER)
    assert code == 5, said + notes
    code, said, notes = ask("drain", "theirs", "--json")
    assert code == 0, notes
    assert json.loads(said)["balanced"]


def test_two_of_one_name_are_told_apart(make: MakePipeline, theirs: Path) -> None:
    wait_until(lambda: ask("monitor", "theirs", "--check")[0] == 0, "root hears of the user's pipeline")
    text = CONFIG.format(name="theirs")
    pipeline = make("theirs", text)
    pipeline.start()
    code, _, notes = ask("drain", "theirs")
    assert code == 2
    assert "there is more than one pipeline 'theirs': in " in notes
    assert "/run/zpipe" in notes and f"/tmp/zpipe-{USER}" in notes
    named = {**ENV, "ZPIPE_RUNTIME_DIR": f"/tmp/zpipe-{USER}"}
    done = subprocess.run([ZPIPE, "drain", "theirs", "--json"], env=named, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert pipeline.service("read").active, "nothing was asked of the other one"
    theirs.write_text(text)  # the fixture removes it
    assert run("systemctl", "is-active", pipeline.target).stdout == "active\n"
