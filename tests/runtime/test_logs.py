"""One event a line, whatever peers and plugins put into it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from zpipe.runtime import logs
from zpipe.runtime.logs import fields


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("store.1", "store.1"),
        ("no link", '"no link"'),
        ('a "b" \\', r'"a \"b\" \\"'),
        ("", '""'),
        ("Zürich", "Zürich"),
        ("\x1b[2J", r'"\x1b[2J"'),
        ("\x00.1", r'"\x00.1"'),
        ("a\nevent=ready\r\t", r'"a\nevent=ready\r\t"'),
        ("\x9b\u202e", r'"\x9b\u202e"'),
    ],
)
def test_a_value_moves_no_cursor_and_begins_no_line(value: str, shown: str) -> None:
    assert fields(consumer=value, left_out=None) == f"consumer={shown}"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    made = logs.start("read.1", "info", {logs.TERMINAL: ""})
    yield made
    made.handlers.clear()
    made.propagate = True


def test_what_a_plugin_logs_is_one_line_of_text_in_a_file_too(
    log: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    """journalctl shows a line with such characters as a blob, and nothing of its text."""
    log.info("row 5\n\x1b[31mred\x00")
    line = capfd.readouterr().err
    assert line.endswith(r" info read.1 row 5\n\x1b[31mred\x00" + "\n") and line.count("\n") == 1
