"""`stdin` and `stdout`: alone on pipes of the test, and as a shell has them around `zpipe run`."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zpipe.errors import OperatorError
from zpipe.messages import BadRecord
from zpipe.testing import make_context
from zpipe_plugins.filesystem.stdin import Options, Stdin

COPY = """
[pipeline]
name = "copy"

[stages.read]
plugin = "stdin"
options = { format = "FORMAT" }

[stages.write]
input = "read"
plugin = "stdout"
batch = { messages = 100, timeout = "10ms" }
options = { format = "FORMAT" }
"""


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """What is written to it is the standard input."""
    read, write = os.pipe()
    monkeypatch.setenv("ZPIPE_STDIN", str(read))
    yield write
    os.close(read)


def given(pipe: int, data: bytes, **options: Any) -> list[tuple[Any, Any]]:
    os.write(pipe, data)
    os.close(pipe)
    plugin, context = Stdin(), make_context(Options(**options))
    plugin.open(context)
    return list(plugin.source(context))


def test_a_line_is_a_message(pipe: int) -> None:
    found = given(pipe, b"a\r\n\n\xff\nlast")
    assert [payload["text"] for _, payload in found] == ["a", "", "�", "last"]
    assert [payload["line"] for _, payload in found] == [1, 2, 3, 4]
    assert len({tuple(position) for position, _ in found}) == 4


def test_json_and_what_is_none(pipe: int) -> None:
    found = given(
        pipe, b'{"a": 1}\n\n{\n' + b"x" * 21 + b"\n" + b"1" * 20 + b"\n" + b"y" * 50_000, format="ndjson", max_line=20
    )
    payloads = [payload for _, payload in found]
    assert [p for p in payloads if not isinstance(p, BadRecord)] == [{"a": 1}, int("1" * 20)]
    reasons = [p.reason for p in payloads if isinstance(p, BadRecord)]
    assert reasons[0].startswith("line 3: not JSON") and reasons[1:] == [
        f"line {n}: longer than 20 bytes" for n in (4, 6)
    ]


def test_another_start_has_other_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads other lines, so an id of the first life must not come again."""
    positions = []
    for _ in range(2):
        read, write = os.pipe()
        monkeypatch.setenv("ZPIPE_STDIN", str(read))
        positions += [tuple(position) for position, _ in given(write, b"x\n")]
        os.close(read)
    assert len(set(positions)) == 2


def test_a_terminal_and_what_is_closed_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, terminal = pty.openpty()
    try:
        monkeypatch.setenv("ZPIPE_STDIN", str(terminal))
        with pytest.raises(OperatorError, match="is a terminal"):
            Stdin().open(make_context(Options()))
    finally:
        os.close(leader)
        os.close(terminal)
    with pytest.raises(OperatorError, match="no standard input: Bad file descriptor"):
        Stdin().open(make_context(Options()))


def run(folder: Path, format: str, data: str) -> subprocess.CompletedProcess[str]:
    (folder / "p.toml").write_text(COPY.replace("FORMAT", format))
    command = [sys.executable, "-m", "zpipe", "run", "-q", str(folder / "p.toml")]
    return subprocess.run(command, input=data, capture_output=True, text=True, timeout=60, check=False)


def test_a_pipeline_in_a_pipe_of_the_shell(home: Path) -> None:
    lines = [json.dumps({"n": n, "text": "ä" * (n % 50)}) for n in range(3000)]
    done = run(home, "ndjson", "".join(f"{line}\n" for line in lines))
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [json.loads(line) for line in lines]


def test_texts_go_through_as_lines(home: Path) -> None:
    done = run(home, "lines", "a\nb c\n")
    assert (done.returncode, done.stdout) == (0, "a\nb c\n"), done.stderr


def test_a_payload_without_text_is_a_dead_letter(tmp_path: Path) -> None:
    """In a process of its own, whose standard output is a file."""
    script = """
from zpipe.testing import stage
with stage("stdout", {"format": "lines", "field": "t"}, batch=3, last=True, retry={"attempts": 1}) as s:
    s.send_many([{"t": "a\\nb"}, {"t": 7}, "c"])
    s.advance("1m")
    assert [letter.payload for letter in s.dead] == [{"t": 7}], s.dead
"""
    with (tmp_path / "out").open("w") as out:
        done = subprocess.run([sys.executable, "-c", script], stdout=out, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert sorted((tmp_path / "out").read_text().splitlines()) == ["a b", "c"]


def test_a_reader_that_goes_ends_the_run(home: Path) -> None:
    (home / "p.toml").write_text(COPY.replace("FORMAT", "lines"))
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "zpipe", "run", str(home / "p.toml")]
    done = subprocess.run(command, input=b"a\n", stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write)
    assert done.returncode == 1 and b"nobody reads standard output any more" in done.stderr
