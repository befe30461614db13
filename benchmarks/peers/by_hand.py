"""The first reference: the same stages as processes written by hand with pyzmq, a codec and blocking calls.

A message each, over ipc, with the default high-water marks: no acknowledgement, no bound in messages, no recovery. It is what one
writes in half an hour, written with care. With `batch` a frame has a list of so many messages.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import roles
from benchmarks.tally import Tally
from benchmarks.window import Load, Running

Codec = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]


def codec(name: str) -> Codec:
    """(encode, decode)"""
    module = importlib.import_module(name)
    return (module.dumps, module.loads) if name == "cbor2" else (module.packb, module.unpackb)


@dataclass(frozen=True)
class ByHand:
    """`middles`: stages between source and sink, one after another; `instances`: of the only one between them."""

    codec: str = "cbor2"
    middles: int = 1
    instances: int = 1
    batch: int = 0

    @property
    def name(self) -> str:
        return f"pyzmq + {self.codec}" + (f", lists of {self.batch}" if self.batch else "")

    @contextmanager
    def running(self, load: Load) -> Iterator[Running]:
        with roles.role_processes("benchmarks.peers.by_hand", load) as processes:
            how: dict[str, Any] = {"codec": self.codec, "batch": self.batch}
            processes.start("sink", number=self.middles, **how)
            for number in range(self.middles):
                for _ in range(self.instances):
                    last = number == self.middles - 1
                    processes.start("transform", "map", number=number, last=last, **how)
            processes.start("source", **how)
            yield processes


def source(folder: Path, load: Load, codec: str, batch: int) -> None:
    push = _socket("PUSH")
    push.bind(f"ipc://{folder}/0")
    send, dumps = push.send, _encode(codec)
    if batch:
        messages = roles.messages(load)
        while True:
            send(dumps([next(messages) for _ in range(batch)]))
    constant = load.payload.constant()
    if load.rate is None:
        n = 0
        while True:
            send(dumps({"id": n, **constant}))
            n += 1
    for n in roles.paced(load.rate):
        send(dumps({"id": n, **constant, "origin": time.time()}))


def transform(folder: Path, load: Load, codec: str, batch: int, number: int, last: bool) -> None:
    from benchmarks.touch import touch

    pull = _socket("PULL")
    pull.connect(f"ipc://{folder}/{number}")
    push = _socket("PUSH")
    (push.connect if last else push.bind)(f"ipc://{folder}/{number + 1}")
    recv, send, dumps, loads = pull.recv, push.send, _encode(codec), _decode(codec)
    if batch:
        while True:
            send(dumps([touch(payload) for payload in loads(recv())]))
    while True:
        send(dumps(touch(loads(recv()))))


def sink(folder: Path, load: Load, codec: str, batch: int, number: int) -> None:
    pull = _socket("PULL")
    pull.bind(f"ipc://{folder}/{number}")
    recv, loads = pull.recv, _decode(codec)
    tally, stride, timed = Tally(folder / "tally"), load.stride, load.rate is not None
    seen = 0
    if batch:
        while True:
            seen += len(loads(recv()))
            tally.note(seen)
    while True:
        payload = loads(recv())
        seen += 1
        if not seen % stride:
            tally.note(seen, time.time() - payload["origin"] if timed else None)


def _socket(kind: str) -> Any:
    import zmq

    return zmq.Context.instance().socket(getattr(zmq, kind))


def _encode(name: str) -> Callable[[Any], bytes]:
    return codec(name)[0]


def _decode(name: str) -> Callable[[bytes], Any]:
    return codec(name)[1]


if __name__ == "__main__":
    roles.main({"source": source, "transform": transform, "sink": sink})
