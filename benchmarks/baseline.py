"""The baseline: generate -> map -> discard as three processes, written by hand with pyzmq and cbor2.

It sends single messages over ipc, with blocking calls and the default high-water marks. It has no acknowledgement, no bound in
messages and no recovery. It is what one writes in half an hour, written with care.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cbor2
import zmq

from benchmarks.mapper import touch
from benchmarks.workload import (
    COUNT,
    FIELDS,
    LATENCY_COUNT,
    LATENCY_RATE,
    LATENCY_WARM_UP,
    WARM_UP,
    LatencyPercentiles,
    latency,
)

TIMEOUT_S = 300


def generate(folder: str) -> None:
    """Sends as fast as the next stage takes messages, until it is terminated."""
    push = zmq.Context().socket(zmq.PUSH)
    push.bind(f"ipc://{folder}/a")
    send, dumps = push.send, cbor2.dumps
    n = 0
    while True:
        send(dumps({"id": n, **FIELDS}))
        n += 1


def generate_paced(folder: str) -> None:
    """Sends one message a millisecond, with the time at which it was made, until it is terminated."""
    push = zmq.Context().socket(zmq.PUSH)
    push.bind(f"ipc://{folder}/a")
    n = 0
    due = time.monotonic()
    while True:
        push.send(cbor2.dumps({"id": n, **FIELDS, "origin": time.time()}))
        n += 1
        due += 1 / LATENCY_RATE
        time.sleep(max(0.0, due - time.monotonic()))


def transform(folder: str) -> None:
    context = zmq.Context()
    pull = context.socket(zmq.PULL)
    pull.connect(f"ipc://{folder}/a")
    push = context.socket(zmq.PUSH)
    push.connect(f"ipc://{folder}/b")
    recv, send, loads, dumps = pull.recv, push.send, cbor2.loads, cbor2.dumps
    while True:
        send(dumps(touch(loads(recv()))))


def discard(folder: str, count: int) -> None:
    """Prints how many messages a second arrived, over `count` messages after the warm-up."""
    pull = zmq.Context().socket(zmq.PULL)
    pull.bind(f"ipc://{folder}/b")
    recv, loads = pull.recv, cbor2.loads
    for _ in range(WARM_UP):
        loads(recv())
    start = time.monotonic()
    for _ in range(count):
        loads(recv())
    print(json.dumps(count / (time.monotonic() - start)))


def discard_timed(folder: str, count: int) -> None:
    """Prints the age of each message in seconds, for `count` messages after the warm-up."""
    pull = zmq.Context().socket(zmq.PULL)
    pull.bind(f"ipc://{folder}/b")
    ages = []
    for _ in range(LATENCY_WARM_UP + count):
        payload = cbor2.loads(pull.recv())
        ages.append(time.time() - payload["origin"])
    print(json.dumps(ages[LATENCY_WARM_UP:]))


ROLES: dict[str, Callable[..., None]] = {
    "generate": generate,
    "generate-paced": generate_paced,
    "transform": transform,
    "discard": discard,
    "discard-timed": discard_timed,
}


def throughput(count: int = COUNT) -> float:
    """Messages a second, at the sink."""
    return float(json.loads(_run("generate", "discard", count)))


def idle_latency(count: int = LATENCY_COUNT) -> LatencyPercentiles:
    return latency(json.loads(_run("generate-paced", "discard-timed", count)))


def _run(source: str, sink: str, count: int) -> str:
    with tempfile.TemporaryDirectory(prefix="zpipe-bench-") as folder:
        last = _start(sink, folder, str(count))
        others = [_start("transform", folder), _start(source, folder)]
        try:
            output, _ = last.communicate(timeout=TIMEOUT_S)
        finally:
            for process in (last, *others):
                process.terminate()
                process.wait()
    if last.returncode:
        raise RuntimeError(f"the baseline's sink ended with {last.returncode}")
    return output


def _start(role: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", __spec__.name, role, *arguments],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE if role.startswith("discard") else subprocess.DEVNULL,
        text=True,
    )


if __name__ == "__main__":
    role, folder, *numbers = sys.argv[1:]
    ROLES[role](folder, *(int(number) for number in numbers))
