"""zpipe keys: private keys for their owner only, and which public ones are trusted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import click
import pytest
from cli_types import Call

from zpipe.errors import ExitCode
from zpipe.runtime import key_files
from zpipe.runtime.key_files import KeyFiles


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZPIPE_KEYS_DIR", str(tmp_path / "keys"))
    return tmp_path / "keys"


def public(call: Call, host: str) -> str:
    return str(json.loads(call("keys", "list", "--json").stdout)["own"][host]["public"])


def test_a_new_key_is_for_its_owner_only(call: Call, keys: Path) -> None:
    made = call("keys", "new", "web1")
    key = public(call, "web1")
    assert made.stdout == f"web1 = {key}\n"
    assert f"zpipe keys trust 'web1 = {key}'" in made.stderr
    private = keys / "web1.key"
    assert private.stat().st_mode & 0o777 == 0o600
    assert private.read_text().strip() not in made.stdout + made.stderr
    again = call("keys", "new", "web1")
    assert again.exit_code == ExitCode.FAILED
    assert "`zpipe keys rotate web1` makes another" in str(again.exception)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_private_key_that_others_may_read_is_refused(call: Call, keys: Path, mode: int) -> None:
    call("keys", "new", "web1")
    (keys / "web1.key").chmod(mode)
    listed = call("keys", "list")
    assert listed.exit_code == ExitCode.FAILED
    assert f"others may read (mode {mode:04o}): chmod 600 {keys / 'web1.key'}" in str(listed.exception)


def test_keys_are_trusted_and_dropped_one_by_one(call: Call, keys: Path) -> None:
    one, two = "a" * 40, "b" * 40
    assert call("keys", "trust", f"web2 = {one}").exit_code == 0
    assert call("keys", "trust", f"web2='{two}'").stdout == "web2 is trusted by 2 keys\n"
    assert call("keys", "trust", f"web2 = {two}").stdout == "web2 is trusted by 2 keys\n"
    refused = call("keys", "trust", f"web3 = {two}")
    assert refused.exit_code == ExitCode.FAILED and "as one of web2 already" in str(refused.exception)
    assert call("keys", "drop", f"web2 = {one}").stdout == "web2 is trusted by 1 key\n"
    assert json.loads(call("keys", "list", "--json").stdout)["trusted"] == {"web2": [two]}
    assert call("keys", "drop", "web2").stdout == "web2 is trusted by no key: nobody of it is let in\n"
    assert json.loads(call("keys", "list", "--json").stdout)["trusted"] == {"web2": []}
    assert call("keys", "drop", "web2").exit_code == ExitCode.FAILED


@pytest.mark.parametrize("given", ["web2", "web2 = short", "= " + "a" * 40, "we.b = " + "a" * 40])
def test_what_is_no_key_is_refused(call: Call, keys: Path, given: str) -> None:
    with pytest.raises(click.BadParameter):
        call("keys", "trust", given)
    assert not keys.exists()


def test_a_key_is_changed_in_two_steps(call: Call, keys: Path) -> None:
    call("keys", "new", "web1")
    old = public(call, "web1")
    assert call("keys", "rotate", "web1", "--finish").exit_code == ExitCode.FAILED
    first = call("keys", "rotate", "web1")
    [new] = re.findall(r"web1 = (\S{40})\n", first.stdout)
    assert public(call, "web1") == old != new
    assert json.loads(call("keys", "list", "--json").stdout)["trusted"] == {"web1": [old, new]}
    assert call("keys", "rotate", "web1").exit_code == ExitCode.FAILED, "a new key that nobody trusts would be lost"
    second = call("keys", "rotate", "web1", "--finish")
    assert f"zpipe keys drop 'web1 = {old}'" in second.stderr
    assert public(call, "web1") == new
    assert sorted(path.name for path in keys.iterdir()) == ["trusted.toml", "web1.key"]


def test_two_commands_at_once_lose_nothing(keys: Path) -> None:
    """Each reads the list, adds its own key, and writes the list."""
    command = [sys.executable, "-m", "zpipe", "keys", "trust", "web2 = " + "b" * 40]
    files = KeyFiles(keys)
    with files.locked():
        process = subprocess.Popen(command, env=os.environ | {"ZPIPE_KEYS_DIR": str(keys)})
        while process.poll() is None and not has_open(process.pid, keys):
            time.sleep(0.01)
        files.write_trusted({"web1": ("a" * 40,)})
        assert process.poll() is None, "it waits for its turn"
    assert process.wait(60) == 0
    assert sorted(files.trusted()) == ["web1", "web2"]
    assert [path.name for path in keys.iterdir()] == ["trusted.toml"]


def has_open(pid: int, folder: Path) -> bool:
    with suppress(OSError):  # it has ended, or just closed one
        return any(fd.readlink() == folder for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


def test_a_command_that_never_ends_is_named(call: Call, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_files, "LOCK_S", 0.0)
    with KeyFiles(keys).locked():
        refused = call("keys", "trust", "web1 = " + "a" * 40)
    assert str(refused.exception) == f"another `zpipe keys` is at work in {keys}: try again, or end it"
    assert call("keys", "trust", "web1 = " + "a" * 40).return_value == ExitCode.DONE
