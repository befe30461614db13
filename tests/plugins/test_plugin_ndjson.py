from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from zpipe import Message, Throttled
from zpipe.errors import OperatorError
from zpipe_plugins.filesystem.ndjson import Ndjson, Options


def write(context: Any, *payloads: Any) -> Any:
    return context.scratch.process_batch([Message(p) for p in payloads], context)


def test_a_line_each(make_context: Any, opened: Any, tmp_path: Path) -> None:
    with opened(Ndjson, make_context(Options("new/out"))) as context:
        assert write(context, {"a": 1, "b": ["é\n\u2028"]}, b"\xff") is None
        assert context.scratch.process(Message([float("nan"), {"x": float("-inf")}, 1 << 70, None]), context) is None
    assert (tmp_path / "new" / "out").read_bytes().split(b"\n") == [
        '{"a":1,"b":["é\\n\u2028"]}'.encode(),
        b'"/w=="',
        b'[null,{"x":null},1180591620717411303424,null]',
        b"",
    ]
    with opened(Ndjson, make_context(Options("new/out"), last=False)) as context:
        assert [message.payload for message in write(context, 1, [2])] == [1, [2]]
        assert context.scratch.process(Message(None), context).payload is None
    assert (tmp_path / "new" / "out").read_bytes().endswith(b"null]\n1\n[2]\nnull\n")


def test_what_is_no_json_writes_nothing_of_its_batch(make_context: Any, opened: Any, tmp_path: Path) -> None:
    with (
        opened(Ndjson, make_context(Options("out"))) as context,
        pytest.raises(TypeError, match="a set cannot be written"),
    ):
        write(context, 1, {2})
    assert (tmp_path / "out").read_bytes() == b""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"a":1}\n{"a"', b'{"a":1}\n'),
        (b'{"a":1}\n{"a":2}', b'{"a":1}\n{"a":2}\n'),
        (b'{"a":1}\n12', b'{"a":1}\n'),
        (b'{"a"', b""),
        (b"", b""),
        (b"1\n", b"1\n"),
        (b"1\n" + b'"' + b"x" * 300_000, b"1\n"),
        (b'"' + b"x" * 300_000, b""),
        (b"1\n" + b"x" * 65_535, b"1\n"),
        (b"1\n" + b"x" * 65_536, b"1\n"),
    ],
)
def test_half_a_line_is_cut_off(
    make_context: Any, opened: Any, tmp_path: Path, before: bytes, after: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    out.write_bytes(before)
    with opened(Ndjson, make_context(Options("out"))) as context:
        assert out.read_bytes() == after
        assert ("never finished" in caplog.text) == (len(after) < len(before))
        # a sibling is killed while it writes
        out.write_bytes(after + b'{"half')
        write(context, 7)
    assert out.read_bytes() == after + b"7\n"


def test_a_write_that_fails_leaves_the_file_as_it_was(
    make_context: Any, opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    with opened(Ndjson, make_context(Options("out"))) as context:
        write(context, 1)

        def full(descriptor: int, content: Any) -> int:
            if len(content) < 10:
                raise OSError(28, "No space left on device")
            return real(descriptor, content[:10])

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(Throttled, match="out: No space"):
            write(context, "x" * 25)
        assert (tmp_path / "out").read_bytes() == b"1\n"
        monkeypatch.setattr(os, "write", lambda descriptor, content: real(descriptor, content[:3]))
        write(context, "x" * 25)
    assert (tmp_path / "out").read_bytes() == b'1\n"' + b"x" * 25 + b'"\n'


def test_a_path_that_cannot_be_written(make_context: Any, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"cannot write to \.: Is a directory"):
        Ndjson().open(make_context(Options(".")))
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="cannot write to file/x"):
        Ndjson().open(make_context(Options("file/x")))
    with pytest.raises(ValueError, match="path is empty"):
        Options("")


def test_threads_and_instances(make_context: Any, opened: Any, tmp_path: Path) -> None:
    with opened(Ndjson, make_context(Options("out"))) as one, opened(Ndjson, make_context(Options("out"))) as two:

        def work(worker: int) -> None:
            for n in range(20):
                write((one, two)[worker % 2], *([worker, n, "x" * 9000] for _ in range(2)))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    lines = [json.loads(line) for line in (tmp_path / "out").read_bytes().splitlines()]
    assert Counter((worker, n) for worker, n, _ in lines) == dict.fromkeys(
        ((w, n) for w in range(4) for n in range(20)), 2
    )


STDOUT = """
from zpipe_plugins.filesystem.ndjson import Ndjson, Options
ndjson, c = Ndjson(), context(Options("-"), ".")
ndjson.open(c)
for n in range(200):
    ndjson.process_batch([Message([sys.argv[1], n, "x" * 5000]) for _ in range(3)], c)
ndjson.close(c)
"""


def test_siblings_share_one_stdout(start_writer: Any) -> None:
    """Writes longer than a pipe takes at once do not mix."""
    reader, writer = os.pipe()
    siblings = [start_writer(STDOUT, n, stdout=writer) for n in range(2)]
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        lines = [json.loads(line) for line in pipe]
    for sibling in siblings:
        sibling.finish()
    assert len(lines) == 1200


def test_stdout_may_be_a_socket(start_writer: Any) -> None:
    """Under systemd it is a socket to the journal."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        writer = start_writer(STDOUT, 0, stdout=theirs.fileno())
        theirs.close()
        with ours.makefile("rb") as lines:
            assert sum(1 for _ in lines) == 600
        writer.finish()


BATCH, BATCHES = 20, 60
WRITER = f"""
import os, signal
from zpipe_plugins.filesystem.ndjson import Ndjson, Options
folder, name, first, calls = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
written, real_write = 0, os.write
def slow_write(descriptor, content):
    # In steps of part of a line; after so many calls it stands still amid one, with the lock, to be killed there.
    global written
    written += 1
    if calls == 0 and written > 5:
        print("amid a line", flush=True)
        signal.pause()
    return real_write(descriptor, content[:3000])
os.write = slow_write
ndjson, c = Ndjson(), context(Options("out"), folder)
ndjson.open(c)
for n in range(first, {BATCH * BATCHES}, {BATCH}):
    ids = range(n, min(n + {BATCH}, {BATCH * BATCHES}))
    written = 0
    ndjson.process_batch([Message({{"by": name, "id": i, "text": "x" * 10000}}) for i in ids], c)
    calls -= 1
    print(n, flush=True)
"""


def whole_lines(out: Path) -> list[Any]:
    """All that is in the file up to its last newline, read while no sibling cuts it."""
    with out.open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        return [json.loads(line) for line in handle.read().split(b"\n")[:-1]]


def of_victim(out: Path) -> list[int]:
    return [line["id"] for line in whole_lines(out) if line["by"] == "victim"]


@pytest.mark.parametrize("amid_a_line", [False, True])
def test_kill_9_never_leaves_half_a_line(start_writer: Any, tmp_path: Path, amid_a_line: bool) -> None:
    """A sibling writes to the same file all the while. A start after a kill goes on after the last whole line."""
    out = tmp_path / "out"
    survivor = start_writer(WRITER, tmp_path, "survivor", 0, -1)
    survivor.wait_for_calls(1)
    for calls in (1, 2, 3, 5, 8):
        before = of_victim(out)
        victim = start_writer(WRITER, tmp_path, "victim", len(before), calls if amid_a_line else -1)
        victim.wait_for_calls(calls + amid_a_line)
        if amid_a_line:
            assert not out.read_bytes().endswith(b"\n")
        returned = calls + victim.kill()
        after = of_victim(out)
        assert len(after) >= len(before) + returned * BATCH
        assert after == list(range(len(after)))
    survivor.finish()
    start_writer(WRITER, tmp_path, "victim", len(after), -1).finish()
    assert out.read_bytes().endswith(b"\n")
    written = Counter((line["by"], line["id"]) for line in whole_lines(out))
    assert written == dict.fromkeys(((by, n) for by in ("survivor", "victim") for n in range(BATCH * BATCHES)), 1)
