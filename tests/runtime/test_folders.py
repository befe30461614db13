"""Where instances keep their things, and folders that are not safe to use."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

import pytest

from zpipe import folders
from zpipe.errors import OperatorError


@pytest.mark.parametrize(
    ("env", "root"),
    [
        ({"ZPIPE_RUNTIME_DIR": "/a", "RUNTIME_DIRECTORY": "/b", "XDG_RUNTIME_DIR": "/c"}, "/a"),
        ({"RUNTIME_DIRECTORY": "/run/zpipe/index.parse.1", "XDG_RUNTIME_DIR": "/c"}, "/run/zpipe"),
        ({"RUNTIME_DIRECTORY": "/run/zpipe"}, "/run/zpipe"),
        ({"RUNTIME_DIRECTORY": "/run/zpipe:/run/other"}, "/run/zpipe"),
        ({"RUNTIME_DIRECTORY": "/run/zpipe/a.b.2:/run/other"}, "/run/zpipe"),
        ({"ZPIPE_RUNTIME_DIR": "", "RUNTIME_DIRECTORY": "", "XDG_RUNTIME_DIR": "/c"}, "/c/zpipe"),
        ({"TMPDIR": "/d"}, f"/d/zpipe-{os.getuid()}"),
    ],
)
def test_the_runtime_root(env: Mapping[str, str], root: str) -> None:
    assert folders.runtime_root(env) == Path(root)


@pytest.mark.parametrize(
    ("env", "root"),
    [
        ({"ZPIPE_STATE_DIR": "/a", "STATE_DIRECTORY": "/b"}, "/a"),
        ({"STATE_DIRECTORY": "/var/lib/zpipe/index.parse.1:/x"}, "/var/lib/zpipe"),
        ({"XDG_STATE_HOME": "/c", "HOME": "/h"}, "/c/zpipe"),
        ({"HOME": "/h"}, "/h/.local/state/zpipe"),
        ({}, f"{pwd.getpwuid(os.getuid()).pw_dir}/.local/state/zpipe"),
    ],
)
def test_the_state_root(env: Mapping[str, str], root: str) -> None:
    assert folders.state_root(env) == Path(root)


def test_a_relative_folder_is_one_of_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert folders.runtime_root({"ZPIPE_RUNTIME_DIR": "run"}) == tmp_path / "run"


def test_no_home_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(OperatorError, match="set \\$ZPIPE_STATE_DIR"):
        folders.state_root({})


def test_folders_are_made_for_their_owner_only(tmp_path: Path) -> None:
    inner = tmp_path / "one" / "two"
    folders.make_private(inner)
    folders.make_private(inner)
    assert [path.stat().st_mode & 0o777 for path in (inner, inner.parent)] == [0o700, 0o700]


def test_a_folder_that_systemd_made_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "made"
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    folders.make_private(path)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_may_write(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(OperatorError, match="may be written by others"):
        folders.make_private(path)


def test_a_folder_in_one_that_everyone_may_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(OperatorError, match=r"may be written by everyone.*in a container.*ZPIPE_CONTAINER"):
        folders.make_private(tmp_path / "inner")


@pytest.mark.parametrize("mode", [0o770, 0o777])
def test_in_a_container_nobody_else_is_there_to_write(
    tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(mode)
    monkeypatch.setenv("ZPIPE_CONTAINER", "1")
    folders.make_private(path)
    path.rename(tmp_path / "moved")
    path.symlink_to("moved")
    with pytest.raises(OperatorError, match="symbolic link"):
        folders.make_private(path)


def test_a_link_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match="symbolic link"):
        folders.make_private(tmp_path / "link")
    with pytest.raises(OperatorError, match="is not a folder"):
        folders.make_private(tmp_path / "file")
    with pytest.raises(OperatorError, match="Not a directory"):
        folders.make_private(tmp_path / "file" / "inner")


def test_a_folder_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "theirs"
    path.mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(OperatorError, match="belongs to user"):
        folders.make_private(path)
