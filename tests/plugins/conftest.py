"""What tests of plugins have in common: a Context as the daemon would make it, and programs that get killed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from zpipe import Context

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "plugins"

try:
    import zpipe_plugins  # noqa: F401
except ImportError:
    sys.path.insert(0, str(PLUGINS))

MakeContext = Callable[..., Context]


@pytest.fixture
def make_context(tmp_path: Path) -> MakeContext:
    def make(options: Any = None, **more: Any) -> Context:
        given = {"config_dir": tmp_path, "state_dir": tmp_path / "state", "last": True} | more
        return Context(
            pipeline="test",
            stage="stage",
            instance=1,
            incarnation="1",
            options=options,
            log=logging.getLogger("zpipe.test"),
            **given,
        )

    return make


class Writer:
    """A process that drives a plugin and prints a line for each call that returned."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def wait_for_calls(self, count: int) -> None:
        assert self.process.stdout is not None
        for _ in range(count):
            assert self.process.stdout.readline(), self.errors()

    def kill(self) -> int:
        """`kill -9`. Returns how many more calls had returned by then."""
        self.process.kill()
        rest, _ = self.process.communicate(timeout=60)
        return rest.count("\n")

    def finish(self) -> None:
        _, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors

    def errors(self) -> str:
        return self.process.communicate(timeout=60)[1]


PREAMBLE = """
import logging, sys
from pathlib import Path
from zpipe import Context, Message
def context(options, folder):
    return Context("test", "stage", 1, "1", options, Path(folder), Path(folder), logging.getLogger("t"), last=True)
"""


@pytest.fixture
def start_writer() -> Iterator[Callable[..., Writer]]:
    started: list[Writer] = []

    def start(program: str, *arguments: object, stdout: int = subprocess.PIPE) -> Writer:
        process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + program, *map(str, arguments)],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{PLUGINS}"},
        )
        started.append(Writer(process))
        return started[-1]

    yield start
    for writer in started:
        if writer.process.poll() is None:
            writer.process.kill()
        if not all(stream is None or stream.closed for stream in (writer.process.stdout, writer.process.stderr)):
            writer.process.communicate()


@contextmanager
def opened(plugin: Any, context: Context) -> Iterator[Context]:
    """`plugin`: its class, of which an object is in `context.scratch` then."""
    context.scratch = plugin()
    context.scratch.open(context)
    try:
        yield context
    finally:
        context.scratch.close(context)


@pytest.fixture(name="opened")
def _opened() -> Any:
    return opened
