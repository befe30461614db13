"""Commands as a user calls them, and configs as real files."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from cli_types import Call, Write
from click.testing import CliRunner, Result

from zpipe.cli import group
from zpipe.errors import ZpipeError


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Calls `zpipe ARGUMENTS…` in tmp_path; `return_value` is the exit code. What main() would print is raised."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            result = CliRunner().invoke(group, [str(one) for one in arguments], standalone_mode=False)
        finally:  # `stage` blocks one, and what later tests start would have it blocked
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if result.exception is not None and not isinstance(result.exception, ZpipeError):
            raise result.exception
        return result

    return call


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "pipeline.toml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.fixture
def good(write: Write) -> Path:
    return write("""
[pipeline]
name = "good"
[stages.read]
plugin = "generate"
options = { count = 3 }
[stages.map]
input = "read"
plugin = "discard"
instances = 2
queue = { messages = 10, bytes = "1MiB" }
[stages.errors]
input = "read.bad"
plugin = "discard"
batch = { messages = 5, timeout = "2s" }
""")
