"""A program: a level-1 map, written from PROTOCOL.md with pyzmq and cbor2 alone. FAULT in its environment breaks one rule.

It sends every payload on as it is. Its credit is fixed shares of its queue, and comes back when what a message became is acked.
"""

from __future__ import annotations

import glob
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import cbor2
import zmq

FAULT = os.environ.get("FAULT", "")
ROOT, PIPELINE, STAGE = (os.environ[f"ZPIPE_{name}"] for name in ("RUNTIME_DIR", "PIPELINE", "STAGE"))
INSTANCE = int(os.environ["ZPIPE_INSTANCE"])
CONFIG = json.loads(os.environ["ZPIPE_CONFIG"])
UPSTREAM, DOWNSTREAM = CONFIG["inputs"][0]["stage"], CONFIG["outputs"][0]["to"]
SHARE, SHARE_BYTES = CONFIG["queue"]["messages"] // 2, CONFIG["queue"]["bytes"]
ME, SECRET = os.urandom(8).hex(), os.urandom(16)
FOLDER = f"{ROOT}/{PIPELINE}.{STAGE}.{INSTANCE}"
HEARTBEAT_S, PEER_TIMEOUT_S = 1.0, 5.0
MISSING = {
    "ranges": [],
    "returned": [],
    "reply": False,
    "leaving": False,
    "seen_stopped": False,
    "ended": False,
    "need_bytes": 0,
    "outlet": "",
}
MISSING |= {"session": b"", "sections": []}

context = zmq.Context()


NEEDED = {
    "hello": {"version", "pipeline", "stage", "instance", "number"},
    "welcome": {"session", "incarnation", "number"},
    "refuse": {"reason"},
    "statement": {"session", "number", "limit_messages", "limit_bytes", "received", "released", "floor"},
    "confirm": {"session", "number", "sequence", "lowest"},
    "request": {"number", "what"},
    "announcement": {"incarnation", "state"},
}
"""Fields without which a frame is malformed."""


def read(frame: bytes) -> dict[str, Any]:
    """With what it means that a field is missing."""
    return {**MISSING, **cbor2.loads(frame)}


def sound(encoded: bytes) -> Iterator[dict[str, Any]]:
    """The frame; nothing if it is malformed."""
    try:
        frame = read(encoded)
        kept = NEEDED[frame["kind"]] <= frame.keys()
    except Exception as error:
        kept = FAULT == "falls-over-garbage"
        log(f"malformed: {error!r}")
    if kept:
        yield frame


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def monitored(kind: int, address: str, events: int, **options: int) -> tuple[Any, Any]:
    """A socket that is connected, and the monitor that tells of its connection."""
    socket = context.socket(kind)
    for name, value in options.items():
        socket.setsockopt(getattr(zmq, name), value)
    monitor = socket.get_monitor_socket(events)
    socket.connect(address)
    return socket, monitor


def events(monitor: Any) -> list[int]:
    return [int.from_bytes(event[:2], "little") for event, _ in everything(monitor)]


def everything(socket: Any) -> list[list[bytes]]:
    found = []
    while True:
        try:
            found.append(socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            return found


TOLD = {"dead": 0}


def tell_keeper(*told: dict[str, Any]) -> None:
    """Waits until the keeper has it all."""
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(os.environ["ZPIPE_DEAD_LETTERS"])
    for frame in told:
        dealer.send(cbor2.dumps(frame))
        assert dealer.poll(PEER_TIMEOUT_S * 1000) and cbor2.loads(dealer.recv())["kind"] == "done"
    dealer.close()


def bury(id: str, payload: bytes, reason: str) -> None:
    """Hands a dead letter to the keeper: it is durable then."""
    letter = {"number": 1, "id": id, "origin": time.time(), "payload": payload, "attempts": 1, "reason": reason}
    tell_keeper({"kind": "bury", **letter, "source": UPSTREAM})
    TOLD["dead"] += 1


class Message:
    """One that came, or waits, or is sent: all that this map holds."""

    def __init__(self, parcel: Parcel, id: str, origin: float, payload: Any) -> None:
        self.parcel, self.id, self.origin, self.payload, self.attempt, self.number = parcel, id, origin, payload, 1, 0


class Parcel:
    """One that came: `left` of its messages are not finished."""

    def __init__(self, producer: Producer, session: bytes, sequence: int, count: int) -> None:
        self.producer, self.session, self.sequence, self.left = producer, session, sequence, count

    def finished(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.producer.finished(self)


class Producer:
    """An upstream instance, to which this is a consumer."""

    def __init__(self, instance: int) -> None:
        folder = f"{ROOT}/{PIPELINE}.{UPSTREAM}.{instance}"
        up_or_down = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        self.dealer, self.monitor = monitored(zmq.DEALER, f"ipc://{folder}/feedback.sock", up_or_down, LINGER=0)
        self.sub = context.socket(zmq.SUB)
        self.sub.subscribe(b"announcement")
        self.sub.connect(f"ipc://{folder}/control.sock")
        self.connected, self.session, self.incarnation = False, b"", ""
        self.number, self.hello_at, self.heard_at, self.state_at = 0, 0.0, 0.0, 0.0
        self.seen: dict[int, Message | None] = {}
        self.stopped = self.ended = self.end_came = False
        self.reset()

    def reset(self) -> None:
        self.session = b""
        self.statements = self.received = self.floor = self.released = self.released_bytes = 0
        self.arrived = self.arrived_bytes = self.need = 0
        self.limits = (0, 0)
        self.done: set[int] = set()
        self.sizes: dict[int, tuple[int, int]] = {}

    def lost(self, again: bool = True) -> None:
        self.reset()
        self.hello_at = 0.0 if again and self.connected else float("inf")
        self.number += 1

    def turn(self, now: float) -> None:
        for event in events(self.monitor):
            self.connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self.heard_at = now
            self.lost()
        for _, frame in everything(self.sub):
            self.heard_at = now
            for said in sound(frame):
                if self.session and said["incarnation"] != self.incarnation:
                    self.lost()
                self.ended = said["ended"]
                if said["state"] == "STOPPED" and not self.stopped and FAULT != "never-sees-stopped":
                    self.stopped, self.state_at = True, 0.0
        for (frame,) in everything(self.dealer):
            self.heard_at = now
            for said in sound(frame):
                self.answer(said)
        if self.session and now - self.heard_at > PEER_TIMEOUT_S:
            self.lost()
        if self.connected and not self.session and now >= self.hello_at:
            self.hello_at = now + HEARTBEAT_S
            self.number += FAULT == "counts-hellos"
            self.hello()
        if self.session and now >= self.state_at:
            self.state()

    def hello(self) -> None:
        self.dealer.send(
            cbor2.dumps(
                {
                    "kind": "hello",
                    "version": 2,
                    "pipeline": PIPELINE,
                    "stage": STAGE,
                    "instance": INSTANCE,
                    "incarnation": ME,
                    "secret": SECRET,
                    "upstream": UPSTREAM,
                    "inbox": f"ipc://{FOLDER}/inbox-{ME}.sock",
                    "number": self.number,
                    "queue_messages": CONFIG["queue"]["messages"],
                }
            )
        )

    def answer(self, frame: dict[str, Any]) -> None:
        kind = frame["kind"]
        if kind == "welcome" and (not self.session or FAULT == "takes-any-welcome"):
            if frame["number"] != self.number and FAULT != "takes-any-welcome":
                return
            if frame["incarnation"] != self.incarnation:
                self.seen.clear()
            self.session, self.incarnation, self.state_at = frame["session"], frame["incarnation"], 0.0
        elif kind == "refuse":
            log(f"refused: {frame['reason']}")
            if frame["session"] == self.session != b"":
                self.lost()
        elif kind == "confirm" and frame["session"] == self.session:
            for number in [one for one in self.seen if one < frame["lowest"]]:
                del self.seen[number]
            current = frame["sequence"] >= self.received
            self.need, before = frame["need_bytes"] if current else self.need, self.need
            if self.need != before:
                self.state_at = 0.0

    def state(self) -> None:
        self.state_at = time.monotonic() + HEARTBEAT_S
        self.statements += 1
        share = SHARE * (20 if FAULT == "grants-too-much" else 1)
        room = self.need if self.need and self.arrived == self.released else 0
        size = max(self.released_bytes + SHARE_BYTES, self.arrived_bytes + room)
        self.limits = (max(self.limits[0], self.released + share), max(self.limits[1], size))
        changing = {
            "kind": "statement",
            "session": self.session,
            "number": self.statements,
            "limit_messages": self.limits[0],
            "limit_bytes": self.limits[1],
            "received": self.received,
            "released": self.released,
            "floor": self.floor,
            "seen_stopped": self.stopped,
        }
        self.dealer.send(cbor2.dumps(changing))

    def take(self, header: dict[str, Any], body: bytes) -> list[Message]:
        """What is new of a parcel or end."""
        if header["sequence"] <= self.received:
            return []
        if header["sequence"] != self.received + 1 and FAULT != "accepts-gaps":
            self.lost()
            return []
        rows = header["sections"]
        count, size = sum(row[0] for row in rows), sum(row[1] for row in rows)
        over = self.arrived + count > self.limits[0] or self.arrived_bytes + size > self.limits[1]
        if size != len(body) or (rows and over):
            self.lost()
            return []
        self.received, self.state_at = header["sequence"], 0.0
        self.arrived, self.arrived_bytes = self.arrived + count, self.arrived_bytes + size
        self.sizes[self.received] = (count, size)
        parcel = Parcel(self, self.session, self.received, max(1, count))
        self.end_came = not count
        if not count:
            parcel.finished()
        return [one for row in self.cut(rows, body) for one in self.unpack(parcel, *row)]

    def cut(self, rows: list[Any], body: bytes) -> list[Any]:
        at, found = 0, []
        for count, size, first, _, _ in rows:
            found.append((count, first, body[at : at + size]))
            at += size
        return found

    def unpack(self, parcel: Parcel, count: int, first: int, section: bytes) -> list[Message]:
        try:
            ids, origins, payloads, _ = cbor2.loads(section)
            assert len(ids) == len(origins) == len(payloads) == count
        except Exception as error:
            for number in range(first, first + count):
                bury(f"number {number}", cbor2.dumps(section), f"malformed section: {error!r}")
                parcel.finished()
            return []
        found = []
        for number, id, origin, payload in zip(range(first, first + count), ids, origins, payloads, strict=True):
            if number in self.seen and FAULT != "forgets-numbers":
                copy = self.seen[number]
                if copy is None:
                    parcel.finished()
                else:  # in process: its newest parcel waits for it
                    copy.parcel = parcel
                continue
            made = Message(parcel, id, origin, payload)
            made.number, self.seen[number] = number, made
            found.append(made)
        return found

    def finished(self, parcel: Parcel) -> None:
        if parcel.session != self.session:
            return
        self.done.add(parcel.sequence)
        while self.floor + 1 in self.done:
            self.floor += 1
            self.done.remove(self.floor)
            count, size = self.sizes.pop(self.floor)
            self.released, self.released_bytes = self.released + count, self.released_bytes + size
        self.state_at = 0.0


class Consumer:
    """A session with a downstream instance, to which this is the producer."""

    def __init__(self, route: bytes, hello: dict[str, Any]) -> None:
        down = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
        self.push, self.monitor = monitored(
            zmq.PUSH, hello["inbox"], down, LINGER=0, IMMEDIATE=1, RECONNECT_IVL=-1, SNDHWM=hello["queue_messages"] + 64
        )
        self.name, self.route, self.hello = os.urandom(16), route, hello
        self.sequence = self.sent = self.sent_bytes = 0
        self.newest: dict[str, Any] = {"number": 0, "received": 0, "seen_stopped": False}
        self.limits = (0, 0)
        self.parcels: dict[int, list[Any]] = {}
        self.heard_at = self.progress_at = time.monotonic()
        self.end_at = 0

    def room(self) -> int:
        if FAULT == "ignores-credit":
            return 100
        return self.limits[0] - self.sent if not self.newest.get("leaving") else 0

    def send(self, header: dict[str, Any], body: bytes) -> bool:
        try:
            self.push.send_multipart([cbor2.dumps(header), body], zmq.NOBLOCK)
        except zmq.Again:
            return False
        self.sequence = header["sequence"]
        self.progress_at = time.monotonic() if len(self.parcels) == 0 else self.progress_at
        return True


class Outlet:
    """Everything that is to be sent or acked downstream."""

    def __init__(self) -> None:
        self.router = context.socket(zmq.ROUTER)
        self.router.bind(f"ipc://{FOLDER}/feedback.sock")
        self.control = context.socket(zmq.PUB)
        self.control.bind(f"ipc://{FOLDER}/control.sock")
        self.unsent: deque[tuple[int, Message]] = deque()
        self.consumers: dict[int, Consumer] = {}
        self.gone: list[Consumer] = []
        self.made = 0
        self.state, self.ended, self.beat_at = "RUNNING", False, 0.0

    def put(self, message: Message) -> None:
        self.made += 1
        if FAULT == "changes-ids":
            message.id += "-mine"
        if FAULT == "acks-early":
            done(message)
        self.unsent.append((self.made, message))

    def in_flight(self) -> bool:
        return any(one.parcels for one in self.consumers.values())

    def turn(self, now: float) -> None:
        for route, frame in everything(self.router):
            for said in sound(frame):
                self.take(route, said)
        for instance, one in list(self.consumers.items()):
            stuck = one.newest["received"] < one.sequence and now - one.progress_at > PEER_TIMEOUT_S
            if events(one.monitor) or now - one.heard_at > PEER_TIMEOUT_S or stuck:
                self.give_up(instance)
        for one in list(self.consumers.values()):
            self.fill(one)
            if self.state != "RUNNING" and not self.unsent and one.end_at != one.sequence and one.newest["number"]:
                header = {"kind": "parcel", "session": one.name, "sequence": one.sequence + 1}
                if one.send(header, b""):
                    one.end_at, one.parcels[one.sequence] = one.sequence, []
        if now >= self.beat_at:
            self.beat_at = now + HEARTBEAT_S
            self.announce()
            for one in self.consumers.values():
                self.confirm(one)

    def move(self, state: str) -> None:
        if self.state != state:
            self.state = state
            self.announce()

    def announce(self) -> None:
        self.control.send_multipart([b"announcement", cbor2.dumps(self.announcement())])
        self.control.send_multipart([b"snapshot", cbor2.dumps(self.snapshot())])

    def announcement(self) -> dict[str, Any]:
        return {
            "kind": "announcement",
            "pipeline": PIPELINE,
            "stage": STAGE,
            "instance": INSTANCE,
            "incarnation": ME,
            "state": self.state,
            "ended": self.state == "STOPPED",
        }

    def snapshot(self) -> dict[str, Any]:
        unsent, in_flight = (
            len(self.unsent),
            sum(len(sent) for c in self.consumers.values() for sent in c.parcels.values()),
        )
        acked, dead = self.made - unsent - in_flight, TOLD["dead"]
        link = {"outlet": "", "to": DOWNSTREAM, "produced": self.made, "acked": acked}
        body = {
            "pipeline": PIPELINE,
            "stage": STAGE,
            "instance": INSTANCE,
            "incarnation": ME,
            "state": self.state,
            "run": os.environ.get("ZPIPE_RUN", ""),
            "pid": os.getpid(),
            "at": time.time(),
            "received": self.made + dead,
            "completed": acked,
            "filtered": 0,
            "dead": dead,
            "returned": 0,
            "in_process": unsent + in_flight,
            "queued": 0,
            "links": [{**link, "in_flight": in_flight, "unsent": unsent}],
        }
        return {"kind": "snapshot", "body": body}

    def take(self, route: bytes, frame: dict[str, Any]) -> None:
        if frame["kind"] == "hello":
            reason = self.wrong(frame)
            if reason:
                self.refuse(route, b"", reason, frame["number"])
                return
            one = self.consumers.get(frame["instance"])
            if one is not None and one.hello["incarnation"] == frame["incarnation"]:
                if frame["number"] < one.hello["number"]:
                    return
                if frame["number"] > one.hello["number"]:
                    self.give_up(frame["instance"])
            elif one is not None and one.hello["secret"] != frame["secret"]:
                self.refuse(route, b"", "in session by another connection", frame["number"])
                return
            one = self.consumers.get(frame["instance"])
            if one is None:
                one = self.consumers[frame["instance"]] = Consumer(route, frame)
            answer = {"version": 2, "session": one.name, "incarnation": ME, "number": frame["number"]}
            self.answer(route, {"kind": "welcome", **answer})
        elif frame["kind"] == "statement":
            one = next((c for c in self.consumers.values() if c.name == frame["session"] and c.route == route), None)
            if one is None:
                self.refuse(route, frame["session"], "no such session", frame["number"])
            else:
                self.stated(one, frame)
        elif frame["kind"] == "refuse":
            for instance, one in list(self.consumers.items()):
                if one.name == frame["session"]:
                    self.give_up(instance)
        else:
            self.refuse(route, b"", "no such request", frame.get("number", 0))

    def stated(self, one: Consumer, frame: dict[str, Any]) -> None:
        one.heard_at = time.monotonic()
        if frame["number"] > one.newest["number"]:
            if frame["returned"] and FAULT != "forgets-returned":  # closing is always safe: all of it comes again
                self.refuse(one.route, one.name, "the session is closed with what was handed back", frame["number"])
                self.give_up(frame_instance(one))
                return
            last = max([frame["received"], frame["floor"], *(stop - 1 for _, stop in frame["ranges"])])
            if last > one.sequence:
                self.refuse(one.route, one.name, f"sequence {last} was not sent", frame["number"])
                self.give_up(frame_instance(one))
                return
            if frame["received"] > one.newest["received"]:
                one.progress_at = one.heard_at
            one.newest = frame
            one.limits = (frame["limit_messages"], frame["limit_bytes"])
            acked = [range(1, frame["floor"] + 1), *(range(*row) for row in frame["ranges"])]
            for sequence in [s for s in one.parcels if any(s in some for some in acked)]:
                for _, message in one.parcels.pop(sequence):
                    done(message)
        if frame["reply"]:
            self.confirm(one)

    def wrong(self, hello: dict[str, Any]) -> str:
        folder = f"ipc://{ROOT}/{PIPELINE}.{DOWNSTREAM}.{hello['instance']}/"
        if FAULT == "believes-hellos":
            return ""
        checks = {
            "another version": hello["version"] == 2,
            "another pipeline": hello["pipeline"] == PIPELINE,
            "I am another stage": hello.get("upstream") == STAGE,
            "there is no such link": hello["stage"] == DOWNSTREAM and hello.get("outlet") == "",
            "no such instance": hello["instance"] >= 1,
            "the inbox is elsewhere": re.fullmatch(re.escape(folder) + r"[^/]+", hello.get("inbox", "")) is not None,
        }
        return next((reason for reason, sound in checks.items() if not sound), "")

    def refuse(self, route: bytes, session: bytes, reason: str, number: int) -> None:
        self.answer(route, {"kind": "refuse", "session": session, "reason": reason, "number": number})

    def answer(self, route: bytes, frame: dict[str, Any]) -> None:
        self.router.send_multipart([route, cbor2.dumps(frame)])

    def confirm(self, one: Consumer) -> None:
        numbers = [n for c in self.consumers.values() for sent in c.parcels.values() for n, _ in sent]
        lowest = min([*numbers, *(n for n, _ in self.unsent)], default=self.made + 1)
        need = 0
        if self.unsent and one.sent == one.newest.get("released", 0) and not self.fits(one):
            need = 64 + len(cbor2.dumps(self.unsent[0][1].payload))
        self.answer(
            one.route,
            {
                "kind": "confirm",
                "session": one.name,
                "number": one.newest["number"],
                "sequence": one.sequence,
                "sent_messages": one.sent,
                "sent_bytes": one.sent_bytes,
                "lowest": lowest,
                "need_bytes": need,
            },
        )

    def fits(self, one: Consumer) -> bool:
        size = len(section([self.unsent[0]]))
        return one.room() > 0 and one.sent_bytes + size <= one.limits[1]

    def fill(self, one: Consumer) -> None:
        while self.unsent and one.newest["number"]:
            attempt, taken, size = self.unsent[0][1].attempt, [], 0
            for entry in self.unsent:
                follows = not taken or entry[0] == taken[-1][0] + 1
                new = len(section([*taken, entry]))
                fits = len(taken) < one.room() and (FAULT == "ignores-credit" or one.sent_bytes + new <= one.limits[1])
                if entry[1].attempt != attempt or not follows or not fits or len(taken) == 50:
                    break
                taken.append(entry)
            if not taken:
                return
            body = section(taken)
            size = len(body)
            row = [len(taken), size, taken[0][0], attempt, 0]
            header = {"kind": "parcel", "session": one.name, "sequence": one.sequence + 1, "sections": [row]}
            if not one.send(header, body):
                return
            one.parcels[one.sequence] = taken
            one.sent, one.sent_bytes = one.sent + len(taken), one.sent_bytes + size
            for _ in taken:
                self.unsent.popleft()

    def give_up(self, instance: int) -> None:
        one = self.consumers.pop(instance)
        one.push.disable_monitor()
        one.monitor.close(0)
        one.push.close(0)
        back = sorted((entry for sent in one.parcels.values() for entry in sent), key=lambda entry: entry[0])
        for _, message in back:
            message.attempt += FAULT != "keeps-attempts"
        self.unsent.extendleft(reversed(back))


def frame_instance(one: Consumer) -> int:
    instance: int = one.hello["instance"]
    return instance


def section(entries: list[Any]) -> bytes:
    messages = [message for _, message in entries]
    columns = [one.id for one in messages], [one.origin for one in messages], [one.payload for one in messages], None
    return cbor2.dumps(list(columns))


def done(message: Message) -> None:
    """Acked downstream: so it is upstream, as far as its parcel goes."""
    producer, number = message.parcel.producer, message.number
    if producer.seen.get(number) is message or FAULT == "mixes-incarnations":
        producer.seen[number] = None
    message.parcel.finished()


def main() -> None:
    for stale in glob.glob(f"{FOLDER}/inbox-*"):
        os.unlink(stale)
    inbox = context.socket(zmq.PULL)
    inbox.bind(f"ipc://{FOLDER}/inbox-{ME}.sock")
    outlet = Outlet()
    producers: dict[int, Producer] = {}
    turn_at, stopped_at, look_at = time.monotonic(), 0.0, 0.0
    while True:
        now = time.monotonic()
        if now - turn_at > PEER_TIMEOUT_S:  # it stood still
            for producer in producers.values():
                producer.lost()
            for consumer in outlet.consumers.values():
                consumer.heard_at = consumer.progress_at = now
        turn_at = now
        if now >= look_at:
            look_at = now + HEARTBEAT_S / 4
            for found in glob.glob(f"{ROOT}/{PIPELINE}.{UPSTREAM}.*/feedback.sock"):
                instance = int(found.split(".")[-2].split("/")[0])
                if instance not in producers:
                    producers[instance] = Producer(instance)
        for producer in producers.values():
            producer.turn(now)
        for parts in everything(inbox):
            try:
                header, body = parts
                said = read(header)
                session, sequence = said["session"], said["sequence"]
                assert said["kind"] == "parcel" and isinstance(session, bytes) and isinstance(sequence, int)
            except Exception as error:
                if FAULT == "dies-of-garbage":
                    raise
                log(f"malformed: {error!r}")
                continue
            for producer in producers.values():
                if producer.session == session:
                    for message in producer.take(said, body):
                        outlet.put(message)
        ended = bool(producers) and all(one.end_came or one.ended for one in producers.values())
        if outlet.state == "RUNNING" and ended and not outlet.unsent:
            outlet.move("FLUSHED")
        outlet.turn(now)
        stopped = bool(producers) and all(one.stopped for one in producers.values())
        acked = not outlet.unsent and not outlet.in_flight()
        ends = bool(outlet.consumers) and all(one.end_at == one.sequence for one in outlet.consumers.values())
        if outlet.state == "FLUSHED" and stopped and acked and ends:
            outlet.move("STOPPED")
            stopped_at = now
        seen = all(one.newest["seen_stopped"] for one in outlet.consumers.values())
        if outlet.state == "STOPPED" and (seen or now - stopped_at > PEER_TIMEOUT_S):
            for producer in producers.values():
                producer.turn(now)
            tell_keeper(outlet.snapshot(), outlet.announcement())
            context.destroy(linger=500)
            return
        poller = zmq.Poller()
        for socket in (inbox, outlet.router, *(one.dealer for one in producers.values())):
            poller.register(socket, zmq.POLLIN)
        poller.poll(5)


main()
