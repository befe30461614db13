"""`zpipe dead` on letters that a store was given by hand: nothing runs here."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_types import Call, Write
from click import Abort
from click.testing import Result

from zpipe.core.wire import cbor
from zpipe.core.work.stored_dead_letter import MESSAGE, RECORD, SECTION
from zpipe.daemon.storage.store import Store
from zpipe.errors import ExitCode, NoPeerError, OperatorError, TargetError, ZpipeError
from zpipe.runtime import dead_letter_table
from zpipe.runtime.dead_letter_table import LetterRow

TEXT = """
[pipeline]
name = "p"
[stages.read]
plugin = "generate"
[stages.work]
input = "read"
plugin = "discard"
instances = 2
"""
StoreLetter = Callable[..., None]


@pytest.fixture
def config(write: Write) -> Path:
    return write(TEXT)


@pytest.fixture
def store_letter(home: Path) -> StoreLetter:
    """store_letter("work", 1, payload, …): a letter in that instance's store."""

    def one(
        stage: str, instance: int, payload: Any, reason: str = "ValueError: no", kind: str = MESSAGE, **others: Any
    ) -> None:
        folder = home / "s" / f"p.{stage}.{instance}"
        folder.mkdir(parents=True, exist_ok=True)
        store = Store(folder)
        store.start()
        done = threading.Event()
        errors: list[Exception | None] = []
        facts: dict[str, Any] = {
            "id": f"read:{payload if isinstance(payload, int) else 'x'}",
            "origin": 1.7e9,
            "traceback": "Traceback…\n",
            "attempts": 5,
            "deaths": 0,
            "history": ("call 1: ValueError: no",),
            "headers": None,
            "source": "read",
        }
        row = LetterRow(stage=stage, kind=kind, reason=reason, payload=cbor.write(payload), **(facts | others))

        def told(error: Exception | None) -> None:
            errors.append(error)
            done.set()

        store.ask(lambda connection: dead_letter_table.add(connection, row, "life"), told)
        assert done.wait(30) and errors == [None]
        store.close()

    return one


def names(result: Result) -> list[str]:
    return [letter["letter"] for letter in json.loads(result.stdout)["letters"]]


def error(result: Result) -> ZpipeError:
    assert isinstance(result.exception, ZpipeError), result.output
    return result.exception


def test_ids_are_whole_in_a_pipe(call: Call, config: Path, store_letter: StoreLetter) -> None:
    longest = "read:" + "a/very/long/path/" * 40 + "7"
    store_letter("work", 1, 1, id=longest)
    row = call("dead", "list", config).stdout.splitlines()[1]
    assert longest in row.split()
    assert row.endswith("ValueError: no")


def test_list_by_stage_reason_and_age(call: Call, config: Path, store_letter: StoreLetter) -> None:
    store_letter("work", 1, 1)
    store_letter("work", 1, 2, "KeyError: 'id'")
    store_letter("work", 2, 3)
    store_letter("read", 1, "a line", kind=RECORD)

    def listed(*options: str) -> list[str]:
        return names(call("dead", "list", config, "--json", *options))

    assert listed() == ["read.1/1", "work.1/1", "work.1/2", "work.2/1"]
    assert listed("--stage", "work") == ["work.1/1", "work.1/2", "work.2/1"]
    assert listed("--stage", "work.2") == ["work.2/1"]
    assert listed("--reason", "Key") == ["work.1/2"]
    assert listed("--newer", "1h", "--stage", "work.1") == ["work.1/1", "work.1/2"]
    assert listed("--older", "1h") == []
    assert listed("--limit", "2") == ["read.1/1", "work.1/1"]
    table = call("dead", "list", config, "--limit", "3")
    assert "work.1/2" in table.stdout and "KeyError: 'id'" in table.stdout and "1 more" in table.stderr
    assert "no dead letters like that" in call("dead", "list", config, "--older", "1h").stderr


def test_show_has_everything(call: Call, config: Path, store_letter: StoreLetter) -> None:
    payload = {"id": 1, "text": "ü", "raw": b"\xff\x00", "line": b"abc\n"}
    store_letter("work", 1, payload, headers=cbor.write({"from": "x"}), deaths=2)
    text = call("dead", "show", config, "work.1/1").stdout
    for part in (
        "work.1/1",
        "read:x",
        "5, and 2 deaths",
        '"$base64": "/wA="',
        '"$utf8": "abc\\n"',
        '"ü"',
        "Traceback…",
    ):
        assert part in text
    assert "call 1: ValueError: no" in text and '"from": "x"' in text
    value = json.loads(call("dead", "show", config, "work.1/1", "--json").stdout)
    assert value["payload"] == {"id": 1, "text": "ü", "raw": {"$base64": "/wA="}, "line": {"$utf8": "abc\n"}}
    assert (value["attempts"], value["deaths"], value["kind"], value["replaying"]) == (5, 2, "message", False)


def payload_of(call: Call, config: Path, name: str = "work.1/1") -> Any:
    return json.loads(call("dead", "show", config, name, "--json").stdout)["payload"]


def test_edit_by_field_and_by_file(call: Call, config: Path, store_letter: StoreLetter, tmp_path: Path) -> None:
    store_letter("work", 1, {"id": 1, "raw": b"\xff"})
    call("dead", "edit", config, "work.1/1", "--set", "id=2", "--set", 'name="a=b"')
    assert payload_of(call, config) == {"id": 2, "raw": {"$base64": "/w=="}, "name": "a=b"}
    (tmp_path / "new.json").write_text('{"id": 3, "raw": {"$base64": "/w=="}}')
    call("dead", "edit", config, "work.1/1", "--payload", tmp_path / "new.json")
    assert payload_of(call, config) == {"id": 3, "raw": {"$base64": "/w=="}}


def test_edit_in_an_editor(
    call: Call, config: Path, store_letter: StoreLetter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_letter("work", 1, {"id": 1})
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i s/1/41/ "$1"\n')
    editor.chmod(0o755)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", str(editor))
    assert "has a new payload" in call("dead", "edit", config, "work.1/1").stderr
    assert payload_of(call, config) == {"id": 41}
    monkeypatch.setenv("EDITOR", "true")
    assert "is as it was" in call("dead", "edit", config, "work.1/1").stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "id"], "--set takes FIELD=JSON"),
        (["--set", "id=x"], "is not JSON"),
        (["--set", "id=1" + "0" * 10_000], "not JSON"),
    ],
)
def test_edits_that_cannot_be(
    call: Call, config: Path, store_letter: StoreLetter, arguments: list[str], said: str
) -> None:
    store_letter("work", 1, {"id": 1})
    with pytest.raises(Exception, match=said):
        call("dead", "edit", config, "work.1/1", *arguments)
    assert payload_of(call, config) == {"id": 1}


def test_what_is_no_message_is_neither_edited_nor_replayed(call: Call, config: Path, store_letter: StoreLetter) -> None:
    store_letter("work", 1, b"\x84", kind=SECTION)
    store_letter("read", 1, "{", kind=RECORD)
    assert "can only be dropped" in str(error(call("dead", "edit", config, "read.1/1", "--set", "a=1")))
    assert "--fresh, or drop them" in str(error(call("dead", "replay", config, "read.1/1")))
    assert "could not be decoded" in str(error(call("dead", "replay", config, "work.1/1", "--dry-run")))
    assert error(call("dead", "replay", config, "--all")).exit_code is ExitCode.USAGE
    store_letter("work", 1, 5)
    dry = call("dead", "replay", config, "--all", "--dry-run")
    assert dry.stdout == "work.1/2\n" and "cannot be replayed" in dry.stderr


def test_drop_asks_and_deletes(call: Call, config: Path, store_letter: StoreLetter) -> None:
    for payload in range(5):
        store_letter("work", 1, payload)
    assert call("dead", "drop", config, "--all", "--dry-run").stdout.split() == [f"work.1/{n}" for n in range(1, 6)]
    with pytest.raises(Abort):  # there is nobody to ask
        call("dead", "drop", config, "--all")
    assert len(names(call("dead", "list", config, "--json"))) == 5
    assert "1 dropped" in call("dead", "drop", config, "work.1/2").stderr
    assert json.loads(call("dead", "drop", config, "--all", "--yes", "--json").stdout) == {"dropped": 4}
    store_letter("work", 1, 9)
    assert names(call("dead", "list", config, "--json")) == ["work.1/6"], "a number is never used again"


@pytest.mark.parametrize("what", ["replay", "drop"])
def test_nothing_is_touched_by_an_oversight(call: Call, config: Path, store_letter: StoreLetter, what: str) -> None:
    store_letter("work", 1, 1)
    for arguments, said in (
        ([], "which letters?"),
        (["work.1/1", "--all"], "not both"),
        (["work.1/1", "--reason", "x"], "not both"),
    ):
        with pytest.raises(Exception, match=said):
            call("dead", what, config, *arguments)
    assert names(call("dead", "list", config, "--json")) == ["work.1/1"]


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (["list", "--stage", "wrok"], TargetError, "did you mean 'work'"),
        (["show", "work.1/7"], TargetError, "there is no letter work.1/7"),
        (["show", "work.1"], TargetError, "no STAGE.N/NUMBER"),
        (["show", "work/1"], TargetError, "no STAGE.N/NUMBER"),
        (["show", "work.2/1"], TargetError, "there is no letter work.2/1"),
        (["drop", "work.1/1", "work.1/9"], TargetError, "there is no letter work.1/9"),
    ],
)
def test_what_is_not_there(
    call: Call, config: Path, store_letter: StoreLetter, arguments: list[str], kind: type[ZpipeError], said: str
) -> None:
    store_letter("work", 1, 1)
    found = error(call("dead", arguments[0], config, *arguments[1:]))
    assert isinstance(found, kind) and said in str(found) and found.exit_code is ExitCode.USAGE


def test_no_state_at_all(call: Call, config: Path, home: Path) -> None:
    found = error(call("dead", "list", config))
    assert isinstance(found, NoPeerError) and str(home / "s") in str(found)


def test_a_file_of_another_version_or_damaged(call: Call, config: Path, store_letter: StoreLetter, home: Path) -> None:
    store_letter("work", 1, 1)
    path = home / "s" / "p.work.1" / "state.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    found = error(call("dead", "list", config))
    assert isinstance(found, OperatorError) and "schema 1; this zpipe knows 2" in str(found)
    path.write_bytes(b"not a database" * 100)
    assert "cannot use the state file" in str(error(call("dead", "list", config)))


def test_a_file_of_an_earlier_zpipe_has_no_column_for_the_input(
    call: Call, config: Path, store_letter: StoreLetter, home: Path
) -> None:
    store_letter("work", 1, 1)
    with sqlite3.connect(home / "s" / "p.work.1" / "state.db") as connection:
        connection.execute("ALTER TABLE dead_letters DROP COLUMN source")
    connection.close()
    assert json.loads(call("dead", "show", config, "work.1/1", "--json").stdout)["source"] == ""
    store_letter("work", 1, 2)  # as an instance does, which opens the file for writing
    shown = json.loads(call("dead", "show", config, "work.1/1", "work.1/2", "--json").stdout)
    assert [letter["source"] for letter in shown] == ["", "read"]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--older", "soon", "a time such as"), ("--rate", "0/s", "a rate above 0"), ("--rate", "5/w", "a rate above 0")],
)
def test_options_that_make_no_sense(call: Call, config: Path, option: str, value: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        call("dead", "replay", config, option, value)
