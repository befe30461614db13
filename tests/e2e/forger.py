"""A program: another user of the machine attacks a pipeline whose addresses are on loopback. Prints what it was answered.

It knows what everybody can: the ports, and what the control sockets broadcast. It speaks in maps of its own, not in the frames of
`zpipe.core.wire.frames`, as a stranger's program would.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 -- what `socket` imports late may not be readable to another user
import json
import os
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import zmq

from zpipe.core.wire import cbor

NOBODY = 65534
HUGE = (1 << 63) - 1
HOST = "127.0.0.1"
LISTEN_S = 10.0
QUIET_MS = 500
ANSWER_MS = 10_000
OUTSTANDING = 100
INVENTED = 3000
Frame = dict[str, Any]


class Forger:
    """`feedback` and `control`: ports by the name of an instance; `links`: (producer, consumer) of instances in session."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.feedback: dict[str, int] = plan["feedback"]
        self.control: dict[str, int] = plan["control"]
        self.inboxes: list[int] = plan["inboxes"]
        self.links: list[list[str]] = plan["links"]
        self.chance = random.Random(65534)
        self.incarnations: dict[str, str] = {}
        self.answers: Counter[str] = Counter()
        self.context = zmq.Context()
        self.own = self.context.socket(zmq.PULL)
        self.inbox = f"tcp://{HOST}:{self.own.bind_to_random_port(f'tcp://{HOST}')}"

    def listen(self) -> None:
        """Who is there, by what they announce to everybody."""
        sub = self.context.socket(zmq.SUB)
        sub.subscribe(b"announcement")
        for port in self.control.values():
            sub.connect(f"tcp://{HOST}:{port}")
        end = time.monotonic() + LISTEN_S
        while len(self.incarnations) < len(self.control) and time.monotonic() < end:
            if sub.poll(100):
                said = cbor.read(sub.recv_multipart()[1])
                self.incarnations[f"{said['stage']}.{said['instance']}"] = said["incarnation"]
        sub.close(0)

    def ask(self, instance: str, frames: Iterable[Frame], each: bool = True) -> None:
        """Sends frames to a feedback socket, and counts the answers by kind and reason. `each`: every frame has one, and so few
        are outstanding that none is dropped."""
        dealer = self.context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 1000)
        dealer.connect(f"tcp://{HOST}:{self.feedback[instance]}")
        outstanding = 0
        for frame in frames:
            dealer.send(cbor.write(frame))
            outstanding += 1
            while dealer.poll(ANSWER_MS if each and outstanding >= OUTSTANDING else 0):
                self.count(dealer.recv())
                outstanding -= 1
        while dealer.poll(ANSWER_MS if each and outstanding > 0 else QUIET_MS):
            self.count(dealer.recv())
            outstanding -= 1
        dealer.close()

    def count(self, encoded: bytes) -> None:
        answer = cbor.read(encoded)
        reason = answer.get("reason", "")
        known = (
            "in session by another connection",
            "`listen` of stage",
            "inbox",
            "no such session",
            "no such request",
            "head",
        )
        self.answers[f"{answer['kind']}: {next((one for one in known if one in reason), reason)}"] += 1

    # ---- as a consumer

    def hello(self, upstream: str, consumer: str, number: int, inbox: str, incarnation: str = "") -> Frame:
        stage, instance = consumer.split(".")
        return {
            "kind": "hello",
            "version": 2,
            "pipeline": "p",
            "stage": stage,
            "instance": int(instance),
            "incarnation": incarnation or self.incarnations[consumer],
            "secret": self.chance.randbytes(16),
            "outlet": "",
            "upstream": upstream.split(".", maxsplit=1)[0],
            "inbox": inbox,
            "number": number,
            "queue_messages": 1000,
            "suspects_of": self.incarnations[upstream],
            "suspects": [[1, HUGE, 1]],
        }

    def take_places(self) -> None:
        """Says hello as each consumer that is in session, with its incarnation or a new one, and every likely number."""
        for upstream, consumer in self.links:
            numbers = [*range(20), 1 << 40]
            hellos = [self.hello(upstream, consumer, n, self.inbox) for n in numbers]
            hellos += [self.hello(upstream, consumer, n, self.inbox, "forged") for n in numbers]
            others = ["nonsense", "", "tcp://198.51.100.1:22", "ipc:///tmp/forged.sock", f"tcp://{HOST}:0"]
            self.ask(upstream, [*hellos, *(self.hello(upstream, consumer, 1, inbox) for inbox in others)])

    def invent(self) -> None:
        """Says hello as instances that there are none of."""
        upstream, consumer = self.links[0]
        stage = consumer.split(".")[0]
        some = self.hello(upstream, consumer, 1, self.inbox, "forged")
        self.ask(upstream, [some | {"stage": stage, "instance": n, "number": n} for n in range(3, 3 + INVENTED)])

    # ---- in a session that it does not have

    def guesses(self) -> Iterator[Any]:
        """Names of sessions: random ones, and those that could be built from what is broadcast."""
        for upstream, consumer in self.links:
            for number in range(1, 30):
                yield f"{self.incarnations[upstream]}:{self.incarnations[consumer]}:{number}"
        for _ in range(300):
            yield self.chance.randbytes(16)

    def speak(self) -> None:
        """Acks all that there ever was, hands it back, ends sessions."""
        everything: Frame = {
            "kind": "statement",
            "number": 1 << 40,
            **dict.fromkeys(("limit_messages", "limit_bytes", "received", "released", "floor"), HUGE),
            "ranges": [[0, HUGE]],
            "returned": [],
            "finished": [],
            "rate": 1e9,
            "reply": True,
            "leaving": False,
            "seen_stopped": True,
        }
        for upstream in dict.fromkeys(upstream for upstream, _ in self.links):
            statements = [everything | {"session": guess} for guess in self.guesses()]
            ends = [{"kind": "refuse", "session": guess, "reason": "go away", "number": 1} for guess in self.guesses()]
            self.ask(upstream, [*statements, *ends], each=False)

    def push(self) -> None:
        """Parcels, and the end of the stream, into every inbox."""
        body = cbor.write([["forged:1"], [0.0], [{"id": -1}], None])
        for port in self.inboxes:
            plug = self.context.socket(zmq.PUSH)
            plug.setsockopt(zmq.LINGER, 2000)
            plug.connect(f"tcp://{HOST}:{port}")
            for guess in self.guesses():
                rows = [[1, len(body), 1, 1, 0]]
                parcel = {"kind": "parcel", "session": guess, "sequence": 1, "sections": rows}
                end = {"kind": "parcel", "session": guess, "sequence": 1}
                for header, second in ((parcel, body), (end, b"")):
                    plug.send_multipart([cbor.write(header), second])
            plug.close()

    # ---- below ZeroMQ, and as an operator

    def raw(self) -> list[socket.socket]:
        """Bytes that are no ZMTP, and connections that say nothing; those are returned, to be kept open."""
        open_ones = []
        for port in (*self.feedback.values(), *self.control.values(), *self.inboxes):
            for data in (self.chance.randbytes(4096), b"\xff\0\0\0\0\0\0\0\x01\x7f\x03", b""):
                with suppress(OSError):
                    plug = socket.create_connection((HOST, port), timeout=5)
                    plug.sendall(data)
                    open_ones.append(plug)
        return open_ones

    def order(self) -> None:
        middle, last = self.links[0][1], self.links[-1][1]
        self.ask(middle, [{"kind": "request", "number": n, "what": what} for n, what in enumerate(("pause", "resume"))])
        self.ask(last, [{"kind": "request", "number": n, "what": what} for n, what in enumerate(("drain", "obey"))])


def main() -> None:
    plan = json.loads(sys.argv[1])
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    forger = Forger(plan)
    forger.listen()
    kept = forger.raw()
    forger.take_places()
    forger.invent()
    forger.speak()
    forger.push()
    forger.order()
    caught = 0
    while forger.own.poll(QUIET_MS):
        forger.own.recv_multipart()
        caught += 1
    print(json.dumps({"uid": os.getuid(), "answers": forger.answers, "caught": caught, "kept": len(kept)}))


main()
