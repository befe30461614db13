"""`tail`: a log that grows, is rotated in the ways that there are, and is read again after a restart."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zpipe.errors import ConfigError
from zpipe.messages import BadRecord
from zpipe.testing import make_context, read
from zpipe_plugins.filesystem.tail import Options, Tail


class Script(threading.Event):
    """What happens to the log each time the source has no more of it. Then the source is told to stop."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        super().__init__()
        self._steps = list(steps)

    def wait(self, timeout: float | None = None) -> bool:
        if self._steps:
            self._steps.pop(0)()
        else:
            self.set()
        return self.is_set()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "a.log"


def add(log: Path, text: str) -> Callable[[], object]:
    def write() -> None:
        with log.open("a") as file:
            file.write(text)

    return write


def rename(log: Path, to: str) -> Callable[[], object]:
    def move() -> None:
        moved = log.rename(log.with_name(to))
        os.utime(moved, (0, moved.stat().st_mtime - 60))  # nobody has written for a minute

    return move


def copy_and_truncate(log: Path, to: str) -> Callable[[], object]:
    def copy() -> None:
        log.with_name(to).write_bytes(log.read_bytes())
        os.utime(log.with_name(to), (0, log.stat().st_mtime - 60))
        os.truncate(log, 0)

    return copy


def follow(log: Path, *steps: Callable[[], object], position: Any = None, **options: Any) -> list[tuple[Any, Any]]:
    state_dir = Path(tempfile.mkdtemp(dir=log.parent))
    given = {"config_dir": log.parent, "state_dir": state_dir, "position": position}
    context = make_context(Options("a.log", **options), **given, stopping=Script(*steps))
    return list(Tail().source(context))


def texts(found: list[tuple[Any, Any]]) -> str:
    return " ".join(payload["text"] for _, payload in found)


def test_lines_as_they_are_written(log: Path) -> None:
    found = follow(log, add(log, "a\r\nb"), add(log, "c\n"), add(log, "\xe9\n"), lambda: None)
    assert [payload for _, payload in found] == [{"path": "a.log", "text": text} for text in ("a", "bc", "\xe9")]
    assert len({tuple(position[:2]) for position, _ in found}) == 1
    assert [position[2] for position, _ in found] == [3, 6, 9]


def test_it_goes_on_after_any_position(log: Path) -> None:
    log.write_text("".join(f"line {n}\n" for n in range(5)))
    whole = follow(log)
    for n, (position, _) in enumerate(whole):
        assert follow(log, position=position) == whole[n + 1 :]
    assert [m.position for m in read("tail", {"path": "a.log"}, folder=log.parent)] == [p for p, _ in whole]


def test_json_and_what_is_none(log: Path) -> None:
    log.write_text('{"a": 1}\n\n{"a"\n' + "x" * 50 + "\n7\n" + "y" * 50)
    found = follow(log, add(log, "y\n8\n"), format="ndjson", max_line=20)
    payloads = [payload for _, payload in found]
    assert [p for p in payloads if not isinstance(p, BadRecord)] == [{"a": 1}, 7, 8]
    reasons = [p.reason for p in payloads if isinstance(p, BadRecord)]
    assert "not JSON" in reasons[0] and [r.endswith("a line longer than 20 bytes") for r in reasons[1:]] == [True, True]
    for n, (position, _) in enumerate(found):
        assert len(follow(log, position=position, format="ndjson", max_line=20)) == len(found) - n - 1


def test_a_line_of_exactly_the_limit_is_no_longer_one(log: Path) -> None:
    log.write_text("x" * 19 + "\n" + "x" * 20 + "\n")
    first, second = [payload for _, payload in follow(log, max_line=20)]
    assert first["text"] == "x" * 19 and isinstance(second, BadRecord)


def test_it_begins_at_the_end_where_it_is_told_to(log: Path) -> None:
    log.write_text("old\nhalf")
    assert texts(follow(log, add(log, " a line\nnew\n"), start="end")) == "half a line new"


@pytest.mark.parametrize("late", [False, True])
def test_a_renamed_file_is_read_to_its_end(log: Path, late: bool) -> None:
    """Programs write to it until they have opened the new one."""
    log.write_text("1\n")
    old = log.with_name("a.log.1")

    def written_late() -> None:
        add(old, "late\n")()
        os.utime(old, (0, 0))

    steps = [rename(log, old.name), written_late if late else lambda: None, add(log, "2\n"), add(log, "3\n")]
    assert texts(follow(log, *steps, lambda: None)) == ("1 late 2 3" if late else "1 2 3")


def test_a_renamed_file_that_was_just_written_to_is_not_left(log: Path) -> None:
    log.write_text("1\n")
    moved = log.with_name("a.log.1")
    steps = [lambda: log.rename(moved), add(log, "3\n"), add(moved, "2\n"), lambda: os.utime(moved, (0, 0))]
    assert texts(follow(log, *steps, settle=5.0)) == "1 2 3"


def test_a_last_line_without_an_end_is_one_once_the_file_is_left(log: Path) -> None:
    log.write_text("1\n2")
    assert texts(follow(log, rename(log, "a.log.1"), add(log, "3\n"))) == "1 2 3"


def test_files_that_were_rotated_meanwhile_are_found_in_their_order(log: Path) -> None:
    log.write_text("1\n2\n")
    [(position, _), _] = follow(log)
    for number, text in ((12, ""), (11, "3\n"), (10, "4\n"), (9, "5\n")):
        add(log, text)()
        moved = log.rename(log.with_name(f"a.log.{number}"))
        os.utime(moved, (0, 1000))  # all at the same moment: their numbers tell
    log.write_text("6\n")
    log.with_name("a.log.13.gz").write_bytes(b"compressed")
    assert texts(follow(log, position=position)) == "2 3 4 5 6"


def test_dated_files_are_read_in_the_order_of_their_last_change(log: Path) -> None:
    log.write_text("1\n")
    [(position, _)] = follow(log)
    for n, name in enumerate(("log-20260102", "log-20251231", "log-20260101")):
        log.with_name(name).write_text(f"{n}\n")
        os.utime(log.with_name(name), (0, {"0": 200, "1": 100, "2": 150}[str(n)]))
    moved = log.rename(log.with_name("log-20251230"))
    os.utime(moved, (0, 50))
    log.write_text("now\n")
    assert texts(follow(log, position=position, rotated="log-*")) == "1 2 0 now"


def test_a_file_that_is_copied_and_truncated(log: Path) -> None:
    log.write_text("1\n2\n")
    found = follow(log, copy_and_truncate(log, "a.log.1"), add(log, "3\n"))
    assert texts(found) == "1 2 3"
    assert len({str(position) for position, _ in found}) == 3, (
        "the first line has another position than the one it replaced"
    )


def test_what_was_not_read_before_a_truncation_is_read_from_the_copy(log: Path) -> None:
    log.write_text("1\n2\n3\n")
    whole = follow(log)
    copy_and_truncate(log, "a.log.1")()
    add(log, "4\n")()
    found = follow(log, position=whole[0][0])
    assert texts(found) == "2 3 4" and found[:2] == whole[1:], "at the positions that they would have had"

    log.write_text("1\n2\n")

    def late() -> None:
        add(log, "3\n")()
        copy_and_truncate(log, "a.log.1")()
        add(log, "longer than what was there before\n")()

    assert texts(follow(log, late)) == "1 2 3 longer than what was there before"


def test_a_truncated_file_without_a_copy_is_read_from_its_start(log: Path) -> None:
    log.write_text("1\n2\n")
    position = follow(log)[0][0]
    log.write_text("3\n")
    assert texts(follow(log, position=position)) == "3"
    assert texts(follow(log, lambda: log.write_text("4\n5\n6\n7\n"))) == "3 4 5 6 7"


def test_another_file_with_the_inode_is_another_file(log: Path) -> None:
    log.write_text("1\n2\n")
    inode, mark, _ = follow(log)[0][0]
    assert texts(follow(log, position=[inode, mark ^ 1, 2])) == "1 2"


def test_a_file_that_is_gone_is_said(log: Path, caplog: pytest.LogCaptureFixture) -> None:
    log.with_name("a.log.1").write_text("1\n")
    os.utime(log.with_name("a.log.1"), (0, 0))
    log.write_text("2\n")
    with caplog.at_level(logging.WARNING):
        assert texts(follow(log, position=[1, 2, 3])) == "1 2"
    assert "is gone: goes on with" in caplog.text


def test_it_begins_where_it_began_if_nothing_was_committed(log: Path) -> None:
    """It was killed soon, and the log was rotated then."""
    log.write_text("1\n2\n")
    for start, expected in (("beginning", "1 2 3"), ("end", "3")):
        context = make_context(Options("a.log", start=start), config_dir=log.parent, stopping=Script())
        list(Tail().source(context))
        rename(log, "a.log.1")()
        log.write_text("3\n")
        context.stopping = Script()
        assert texts(list(Tail().source(context))) == expected
        log.with_name("a.log.1").unlink()
        context.state_dir.joinpath("begun.json").unlink()


def test_a_file_that_was_truncated_and_then_renamed(log: Path) -> None:
    log.write_text("1\n")
    steps = [copy_and_truncate(log, "a.log.2"), add(log, "2\n"), rename(log, "a.log.1"), add(log, "3\n")]

    def at_once() -> None:
        for step in steps:
            step()
        os.utime(log.with_name("a.log.2"), (0, 0))

    assert texts(follow(log, at_once)) == "1 2 3"


def test_a_file_that_is_not_there_is_waited_for_and_that_is_said_once(
    log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert texts(follow(log, lambda: None, lambda: None, add(log, "1\n"))) == "1"
    assert caplog.text.count("No such file") == 1


@pytest.mark.parametrize("options", [{"path": ""}, {"path": "a", "every": 0}, {"path": "a", "max_line": 0}])
def test_wrong_options(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="allowed is"):
        read("tail", options, folder=tmp_path)


def test_threads_that_write_and_rotate_lose_nothing(log: Path) -> None:
    """A writer rotates as it likes, while the source reads with its own waits."""
    stopping = threading.Event()
    context = make_context(Options("a.log", every=0.001, settle=0.01), config_dir=log.parent, stopping=stopping)

    def write() -> None:
        for n in range(1, 2000):
            with log.open("a") as file:
                file.write(f"{n}\n")
            if n % 250 == 249:
                log.rename(log.with_name(f"a.log.{100 - n // 250}"))

    log.write_text("0\n")
    writer = threading.Thread(target=write)
    found: Iterator[tuple[Any, Any]] = Tail().source(context)
    read_lines = []
    for _, payload in found:
        read_lines.append(int(payload["text"]))
        if len(read_lines) == 1:
            writer.start()
        if len(read_lines) == 2000:  # the last file has nobody after it
            log.write_text("2000\n")
        if payload["text"] == "2000":
            stopping.set()
    writer.join()
    assert read_lines == list(range(2001))
