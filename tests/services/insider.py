"""A program: a host of the pipeline, with a key that is trusted, attacks the instances of the others. Prints what it has sent.

It goes on for so many seconds, and until its standard input ends.

It speaks in maps of its own, not in the frames of `zpipe.core.wire.frames`, as a stranger's program would.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import zmq

from zpipe.core.wire import cbor

HUGE = (1 << 63) - 1
TURN = 500
Frame = dict[str, Any]


class Insider:
    """`plan`: `secret` and `public` of its own; `servers`: the public keys by host; `feedback` and `inbox`: by instance, [host,
    address, port]."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.chance = random.Random(3)
        self.sent: Counter[str] = Counter()
        self.context = zmq.Context()
        self.numbers = iter(range(1, 1 << 62))
        self.kept: list[socket.socket] = []

    def plug(self, kind: int, host: str, address: str, port: int) -> zmq.Socket[bytes]:
        made = self.context.socket(kind)
        made.setsockopt(zmq.LINGER, 1000)
        made.setsockopt(zmq.SNDTIMEO, 200)
        made.setsockopt(zmq.CURVE_SERVERKEY, self.plan["servers"][host].encode())
        made.setsockopt(zmq.CURVE_PUBLICKEY, self.plan["public"].encode())
        made.setsockopt(zmq.CURVE_SECRETKEY, self.plan["secret"].encode())
        made.connect(f"tcp://{address}:{port}")
        return made

    def hello(self, stage: str, upstream: str) -> Frame:
        return {
            "kind": "hello",
            "version": self.chance.choice([1, 2, 99]),
            "pipeline": "p",
            "stage": self.chance.choice([stage, "right", "store", "nobody"]),
            "instance": self.chance.choice([0, 1, 2, 99, HUGE]),
            "incarnation": self.chance.choice(["stale", "x" * 128]),
            "secret": self.chance.randbytes(16),
            "outlet": "",
            "upstream": upstream,
            "inbox": self.chance.choice(["tcp://198.51.100.1:22", "ipc:///tmp/x.sock", "nonsense"]),
            "number": next(self.numbers),
            "queue_messages": self.chance.choice([1, HUGE, 1_000_000_000]),
            "suspects_of": "stale",
            "suspects": [[1, HUGE, 1]],
        }

    def statement(self) -> Frame:
        """All that there ever was is acked, and there is room for as much as can be said."""
        return {
            "kind": "statement",
            "session": self.chance.randbytes(16),
            "number": next(self.numbers),
            **dict.fromkeys(("limit_messages", "limit_bytes", "received", "released", "floor"), HUGE),
            "ranges": [[0, HUGE]],
            "returned": [[n, 0, HUGE] for n in range(10)],
            "finished": [],
            "rate": 1e9,
            "reply": True,
            "leaving": False,
            "seen_stopped": True,
        }

    def garbage(self) -> bytes:
        return self.chance.choice(
            [
                self.chance.randbytes(300),
                b"\x9f" * 5000,
                b"\x81" * 5000 + b"\x00",
                cbor.write({"kind": "statement", "session": bytes(16), "number": -1}),
                cbor.write([[[[]]]] * 10_000),
                b"\x9a\xff\xff\xff\xff",
                b"",
            ]
        )

    def talk(self, instance: str, target: list[Any]) -> None:
        """Hellos, statements and garbage, by a connection of its own."""
        dealer = self.plug(zmq.DEALER, *target)
        with suppress(zmq.Again):
            for _ in range(TURN):
                dealer.send(cbor.write(self.hello("right", instance.partition(".")[0])))
                dealer.send(cbor.write(self.statement()))
                self.sent["hello"] += 1
                self.sent["statement"] += 1
            for _ in range(TURN // 10):
                dealer.send(self.garbage())
                dealer.send_multipart([b"three", b"frames", b"here"])
                self.sent["garbage"] += 2
        dealer.close()

    def push(self, target: list[Any]) -> None:
        """Parcels that were never sent here, or long ago, and ends of streams."""
        plug = self.plug(zmq.PUSH, *target)
        body = cbor.write([["forged:1"], [0.0], [{"id": -1}], None])
        with suppress(zmq.Again):
            for number in range(TURN):
                session = self.chance.randbytes(16)
                rows = [[1, len(body), 1, 1, 0]]
                plug.send_multipart(
                    [cbor.write({"kind": "parcel", "session": session, "sequence": 1, "sections": rows}), body]
                )
                plug.send_multipart([cbor.write({"kind": "parcel", "session": session, "sequence": number}), b""])
                self.sent["parcel"] += 2
            for _ in range(TURN // 10):
                plug.send_multipart([self.garbage(), b"x"])
                self.sent["garbage"] += 1
        plug.close()

    def linger(self, target: list[Any]) -> None:
        """Connections that say nothing, or half of a greeting, and stay."""
        _, address, port = target
        for said in (b"", b"\xff" + bytes(8) + b"\x7f"):
            with suppress(OSError):
                plug = socket.create_connection((address, port), timeout=2)
                plug.sendall(said)
                self.kept.append(plug)
                self.sent["silent"] += 1
        if len(self.kept) > 200:
            self.kept.pop(0).close()

    def turns(self) -> Iterator[None]:
        while True:
            for instance, target in self.plan["feedback"].items():
                self.talk(instance, target)
                if instance in self.plan["inbox"]:
                    self.push(self.plan["inbox"][instance])
                self.linger(target)
                yield


def main() -> None:
    plan = json.loads(sys.argv[1])
    insider, end = Insider(plan), time.monotonic() + plan["seconds"]
    for _ in insider.turns():
        if time.monotonic() > end and select.select([sys.stdin], [], [], 0)[0]:
            break
    insider.context.destroy(linger=0)
    print(json.dumps(insider.sent))


main()
