"""A plugin whose hooks for what is finished fail: it goes on, and says so once and not each time."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from zpipe import plugin_loading
from zpipe.daemon.plugin.async_thread import AsyncThread
from zpipe.daemon.plugin.plugin_host import PluginHost
from zpipe.daemon.plugin.service_wait import ServiceWait
from zpipe.daemon.storage.store import Store
from zpipe.hookspecs import Context
from zpipe.runtime.logs import TRACEBACK

PLUGIN = """
import zpipe


class Rude(Exception):
    def __str__(self):
        raise RuntimeError


class Fails(zpipe.Source[None, int]):
    def source(self, context):
        yield 0, 0

    def commit(self, position, context):
        raise KeyError(position) if position < 9 else Rude()

    async def ack(self, ids, context):
        context.scratch.append(ids)
        raise OSError(f"{ids} are not known")
"""


def test_hooks_that_fail_at_each_call_are_a_line_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "fails.py").write_text(PLUGIN)
    log = logging.getLogger("test_plugin_host")
    context = Context("p", "s", 1, "a", None, tmp_path, tmp_path, log, scratch=[])
    on_loop = AsyncThread(log)
    host = PluginHost(
        plugin_loading.load("./fails.py", tmp_path),
        context,
        Store(tmp_path),
        "",
        log,
        on_loop,
        ServiceWait(log, "fails"),
    )
    for position in range(10):
        host.committed(position)
        host.acked([f"s:{position}"])
    host.close()
    on_loop.close()
    assert context.scratch == [[f"s:{position}"] for position in range(10)], "each is told, whatever came of the others"
    said = [record for record in caplog.records if record.name == "test_plugin_host"]
    assert sorted(record.getMessage() for record in said) == [
        "event=ack.failed reason=\"OSError: ['s:0'] are not known\" messages=1",
        'event=commit.failed reason="KeyError: 0"',
        'event=commit.failed reason="Rude (its text cannot be had)" left_out=8',
    ]
    assert all('fails.py", line' in getattr(record, TRACEBACK) for record in said)
