"""Watching a pipeline from outside: asking those for a snapshot that were not heard of yet."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import zmq

from zpipe.config import load
from zpipe.errors import OperatorError
from zpipe.folders import make_private
from zpipe.operate.watch import Watch
from zpipe.runtime.places import Places

CONFIG = """
[pipeline]
name = "slow-spoken"
[telemetry]
interval = "1h"
[stages.make]
plugin = "generate"
options = { rate = 1 }
[stages.sink]
input = "make"
plugin = "discard"
"""
DEADLINE_S = 60.0


def wait_until_it_runs(watch: Watch, stage: str) -> None:
    end = time.monotonic() + DEADLINE_S
    state = ""
    while state != "RUNNING":
        assert time.monotonic() < end, f"{stage} does not run: {state}"
        with suppress(OperatorError):
            state = watch.ask(stage, 1, "snapshot", 1.0)


def test_who_waits_long_for_a_snapshot_still_asks_for_it(home: Path) -> None:
    """Each wait is as long as the deadline: whoever waits it out before asking hears of nobody in time."""
    path = home / "p.toml"
    path.write_text(CONFIG)
    heard: list[dict[str, Any]] = []
    with ExitStack() as stack:
        for stage in ("sink", "make"):
            command = [sys.executable, "-m", "zpipe", "stage", str(path), stage]
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(process.kill)
        config = load(path, only="")
        places = Places(config, os.environ)
        for stage in ("sink", "make"):  # from then on it has nothing to say for an hour
            wait_until_it_runs(stack.enter_context(closing(Watch(config, places))), stage)
        watch = stack.enter_context(closing(Watch(config, places, ask_unheard=True)))

        def listen() -> None:
            while {one["stage"] for one in heard} != {"make", "sink"}:
                heard.extend(watch.poll(2 * DEADLINE_S))

        waiting = threading.Thread(target=listen, daemon=True)
        waiting.start()
        waiting.join(DEADLINE_S)
        assert {one["stage"] for one in heard} == {"make", "sink"}


def test_an_answer_that_is_no_frame_is_told_with_who_gave_it(home: Path) -> None:
    path = home / "p.toml"
    path.write_text(CONFIG)
    config = load(path, only="")
    places = Places(config, os.environ)
    make_private(places.runtime("sink", 1))
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router, closing(Watch(config, places)) as watch:
        router.bind(places.addresses("sink", 1).feedback)

        def answer() -> None:
            if router.poll(DEADLINE_S * 1000):
                router.send_multipart([router.recv_multipart()[0], b"\xff\xfe"])

        other = threading.Thread(target=answer)
        other.start()
        with pytest.raises(OperatorError, match=r"sink\.1 answers a request with what is no frame"):
            watch.ask("sink", 1, "snapshot", DEADLINE_S)
        other.join()
