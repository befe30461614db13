"""What a shell completes: asked as bash asks, and with a real tab in a real terminal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_types import Call
from click.shell_completion import BashComplete
from tmux import Tmux

from zpipe.cli import group
from zpipe.cli.preparing.completion import SHELLS
from zpipe.config import load
from zpipe.runtime import locks, running_pipelines
from zpipe.runtime.places import Places

BIN = Path(sys.executable).parent
CONFIG = """
[pipeline]
name = "watched"
[stages.read]
plugin = "generate"
[stages.sink]
input = "read"
plugin = "discard"
instances = 2
"""


@pytest.fixture
def folder(home: Path) -> Path:
    folder = home / "work"
    (folder / "configs").mkdir(parents=True)
    (folder / "one.toml").write_text(CONFIG)
    (folder / "configs" / "two.toml").write_text(CONFIG)
    (folder / "one.txt").touch()
    return folder


def offered(line: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the program answers to a shell for a tab at the end of the line."""
    words = [*line.split(), *([""] if line.endswith(" ") else [])]
    monkeypatch.setenv("COMP_WORDS", "\n".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    return BashComplete(group, {}, "zpipe", "_ZPIPE_COMPLETE").complete().splitlines()


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("zpipe pau", ["pause"]),
        ("zpipe dead re", ["replay"]),
        ("zpipe drain --ti", ["--timeout"]),
        ("zpipe drain ", ["one.toml"]),
        ("zpipe drain o", ["one.toml"]),
        ("zpipe drain configs/", ["configs/two.toml"]),
        ("zpipe run ", ["one.toml"]),
        ("zpipe pause one.toml ", ["read", "read.1", "sink", "sink.1", "sink.2"]),
        ("zpipe resume one.toml si", ["sink", "sink.1", "sink.2"]),
        ("zpipe tap configs/two.toml sink.", ["sink.1", "sink.2"]),
        ("zpipe drain one.toml re", ["read.1"]),
        ("zpipe stage one.toml r", ["read", "read.1"]),
        ("zpipe dead list one.toml --stage s", ["sink", "sink.1", "sink.2"]),
        ("zpipe pause missing.toml ", []),
        ("zpipe run one.toml --log-level w", ["warning"]),
    ],
)
def test_names_are_offered(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], line: str, names: list[str]
) -> None:
    monkeypatch.chdir(folder)
    assert offered(line, monkeypatch) == [f"plain,{name}" for name in names]
    assert capfd.readouterr() == ("", "")


def test_where_no_name_fits_the_shell_offers_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert offered("zpipe drain conf", monkeypatch) == ["file,conf"]


def test_a_pipeline_that_runs_is_offered_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    config = load(folder / "one.toml")
    places = Places(config, os.environ)
    lock = locks.InstanceLock(places.runtime("sink", 3), "sink.3")
    try:
        running_pipelines.write_record(places, config, "sink", 3)
        assert offered("zpipe monitor ", monkeypatch) == ["plain,one.toml", "plain,watched"]
        assert offered("zpipe pause watched sink.", monkeypatch)[-1] == "plain,sink.3"
    finally:
        lock.release()


@pytest.mark.needs("tmux", "bash")
def test_a_tab_in_a_terminal(folder: Path) -> None:
    env = {"PATH": f"{BIN}:{os.environ['PATH']}", "HISTFILE": "/dev/null"}
    with_home = {name: os.environ[name] for name in os.environ if name.startswith("ZPIPE_")}
    start = f"cd {folder} && exec env PS1='ready> ' bash --norc --noprofile -i"
    terminal = Tmux(folder.parent, ["bash", "-c", start], 80, 12, **env, **with_home)
    try:
        terminal.wait(lambda lines: "ready>" in lines, "a prompt")
        terminal.press("source <(zpipe completion show bash) && echo so''urced", "Enter")
        terminal.wait(lambda lines: "sourced" in lines, "the completion")
        terminal.press("zpipe paus", "Tab")
        terminal.wait(lambda lines: "ready> zpipe pause" in lines, "the command")
        terminal.press("o", "Tab")
        terminal.wait(lambda lines: "ready> zpipe pause one.toml" in lines, "the config")
        terminal.press("re", "Tab", ".", "Tab")
        terminal.wait(lambda lines: "ready> zpipe pause one.toml read.1" in lines, "the instance")
    finally:
        terminal.close()


@pytest.mark.parametrize("shell", SHELLS)
def test_it_is_installed_where_the_shell_looks(
    call: Call, home: Path, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    place = {
        "bash": ".local/share/bash-completion/completions/zpipe",
        "zsh": ".local/share/zsh/site-functions/_zpipe",
        "fish": ".config/fish/completions/zpipe.fish",
    }[shell]
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    told = json.loads(call("completion", "install", "--json").stdout)
    assert (told["shell"], told["path"]) == (shell, str(home / place)) and told["needs"]
    text = (home / place).read_text()
    assert text == call("completion", "show", shell).stdout and "_ZPIPE_COMPLETE=" in text
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(home / place)], check=True)
    assert call("completion", "install", shell).stdout == f"wrote {home / place}\n"


def test_a_shell_that_is_not_known_is_asked_for(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/dash")
    with pytest.raises(Exception, match="which shell"):
        call("completion", "install")
