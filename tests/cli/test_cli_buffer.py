"""`zpipe buffer` on buffers that were filled by hand: nothing runs here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_types import Call, Write
from click import Abort, UsageError

from zpipe.core.buffer.orders import Append
from zpipe.core.policy import BufferPolicy
from zpipe.core.wire import section
from zpipe.daemon.storage.segment_log import SegmentLog
from zpipe.errors import ExitCode, OperatorError, TargetError
from zpipe.folders import buffer_folder
from zpipe.runtime.locks import InstanceLock

TEXT = """
[pipeline]
name = "p"
[stages.read]
plugin = "generate"
buffer = { kind = "disk" }
[stages.store]
input = "read"
plugin = "discard"
[stages.errors]
input = "read.bad"
plugin = "discard"
"""


@pytest.fixture
def config(write: Write) -> Path:
    return write(TEXT)


@pytest.fixture
def folder(home: Path) -> Path:
    """The buffer of read.1 to store, with 30 messages; that of its outlet `bad` is empty."""
    state = home / "s" / "p.read.1"
    found = buffer_folder(state, "", "store")
    log = SegmentLog(found, BufferPolicy(), lambda event: None)
    log.open()
    for first in range(1, 31, 10):
        numbers = range(first, first + 10)
        body = section.encode([f"m{n}" for n in numbers], [1.0] * 10, [{"n": n} for n in numbers], None)
        log.turn([Append(first, 10, 1, body)], 1.0)
    log.close()
    buffer_folder(state, "bad", "errors").mkdir()
    return found


def test_buffers_are_listed(call: Call, config: Path, folder: Path) -> None:
    lines = call("buffer", "list", config).stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["read.1/store", "30"], ["read.1/bad.errors", "0"]]
    assert ", the oldest stored " in lines[0] and "stored" not in lines[1]
    found = json.loads(call("buffer", "list", config, "read.1", "--json").stdout)
    assert found["pipeline"] == "p"
    assert {one["buffer"]: one["messages"] for one in found["buffers"]} == {"read.1/store": 30, "read.1/bad.errors": 0}


def test_messages_that_wait_are_shown(call: Call, config: Path, folder: Path) -> None:
    result = call("buffer", "show", config, "read.1/store", "--limit", 2)
    assert result.stdout == '1  m1  {"n": 1}\n2  m2  {"n": 2}\n'
    (row,) = json.loads(call("buffer", "show", config, "read.1/store", "--from", 30, "--json").stdout)
    assert (row["number"], row["id"], row["attempt"], row["payload"]) == (30, "m30", 1, {"n": 30})


def test_a_damaged_record_is_found(call: Call, config: Path, folder: Path) -> None:
    assert call("buffer", "verify", config).return_value is ExitCode.DONE
    (path,) = folder.glob("*.seg")
    content = bytearray(path.read_bytes())
    content[170] ^= 1
    path.write_bytes(content)
    result = call("buffer", "verify", config, "read.1/store")
    assert result.return_value is ExitCode.FAILED
    assert "20 messages in 2 whole records" in result.stdout and "are damaged: 10 messages" in result.stdout
    (found,) = json.loads(call("buffer", "verify", config, "read.1/store", "--json").stdout)["buffers"]
    assert [place["messages"] for place in found["damages"]] == [10]


def test_a_segment_that_cannot_be_opened_is_found(call: Call, config: Path, folder: Path) -> None:
    path = folder / f"{1:020d}.seg"
    path.rename(folder / f"{31:020d}.seg")
    path.symlink_to(path)
    result = call("buffer", "verify", config, "read.1/store")
    assert result.return_value is ExitCode.FAILED
    assert f"{path.name}: cannot be opened: 30 messages" in result.stdout


def test_messages_are_dropped(call: Call, config: Path, folder: Path) -> None:
    with pytest.raises(Abort):
        call("buffer", "drop", config, "read.1/store")
    assert "5 messages dropped" in call("buffer", "drop", config, "read.1/store", "--until", 6, "--yes").stderr
    dropped = json.loads(call("buffer", "drop", config, "read", "--yes", "--json").stdout)["dropped"]
    assert (dropped["read.1/store"]["messages"], dropped["read.1/bad.errors"]["messages"]) == (25, 0)
    assert call("buffer", "list", config).stdout.split()[1] == "0"


def test_nothing_is_dropped_while_its_instance_runs(call: Call, config: Path, folder: Path, home: Path) -> None:
    runtime = home / "r" / "p.read.1"
    runtime.mkdir(parents=True)
    lock = InstanceLock(runtime, "p.read.1")
    try:
        result = call("buffer", "drop", config, "read.1/store", "--yes")
    finally:
        lock.release()
    assert isinstance(result.exception, OperatorError) and "read.1 runs" in str(result.exception)
    assert call("buffer", "list", config).stdout.split()[1] == "30"


def test_a_buffer_that_is_not_there_is_refused(call: Call, config: Path, folder: Path) -> None:
    result = call("buffer", "list", config, "read.1/stroe")
    assert isinstance(result.exception, TargetError) and "read.1/store" in str(result.exception)
    with pytest.raises(UsageError, match="has several disk buffers"):
        call("buffer", "show", config, "read.1")
