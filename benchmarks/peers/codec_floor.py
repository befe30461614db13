"""The floor: what the codec alone takes for one message through three stages, encoded twice and decoded twice, by lists of 256.

No transport that leaves payloads to be read by each stage can be cheaper with that codec.
"""

from __future__ import annotations

import time

from benchmarks.benchmark import Effort, Side, Unavailable
from benchmarks.figures import Metrics
from benchmarks.payloads import Payload
from benchmarks.peers.by_hand import codec
from benchmarks.touch import touch

LIST = 256


def floor(name: str, payload: Payload) -> Side:
    return Side(f"codec's floor, {name}", lambda effort: _measure(name, payload, effort))


def _measure(name: str, payload: Payload, effort: Effort) -> Metrics:
    try:
        dumps, loads = codec(name)
    except ImportError as error:
        raise Unavailable(str(error)) from None
    constant, count = payload.constant(), 0
    end = time.monotonic() + effort.window_s / 2
    began = time.thread_time()
    while time.monotonic() < end:
        made = [{"id": n, **constant} for n in range(LIST)]
        loads(dumps([touch(one) for one in loads(dumps(made))]))
        count += LIST
    return {"cpu_us": (time.thread_time() - began) * 1e6 / count}
