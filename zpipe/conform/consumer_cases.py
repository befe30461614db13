"""Level 1, the stage as a consumer: cases 1 to 20, 44 to 46, 48.

Each function is a case: what it sends, and what has to come. Must not live here: how a neighbour speaks.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

from zpipe.conform import other_writers
from zpipe.conform.cases import case
from zpipe.conform.scene import QUEUE_BYTES, QUEUE_MESSAGES, START_S, Scene
from zpipe.conform.upstream import Item, Upstream
from zpipe.core.wire import cbor

PEER_TIMEOUT_S = 5.0
LONG_S = 30.0
"""For what is due after the peer timeout."""


def _delivered(scene: Scene, up: Upstream, count: int) -> None:
    """Waits until `count` messages are acked."""
    scene.wait(lambda: len(up.acked) >= count, f"acks of {count} messages")


def _arrived(scene: Scene) -> list[str]:
    """The ids that have come out of the stage."""
    return scene.downstreams[0].ids if scene.kind == "map" else scene.stored()


@case(1, "a hello is repeated with the same number until it is answered", section="6.1")
def hello_is_repeated(scene: Scene) -> None:
    up = scene.upstream()
    up.habits.answering = False
    scene.start()
    scene.wait(lambda: len(up.hellos) >= 3, "a hello each second", START_S)
    first = up.hellos[0]
    scene.require(all(one == first for one in up.hellos), "the same hello again", [one.number for one in up.hellos])
    scene.require(first.version == 2 and first.pipeline == up.pipeline, "version 2 and the pipeline's name", first)
    scene.require(first.upstream == "up" and first.stage == "work" and first.instance == 1, "the right names", first)
    up.habits.answering = True
    scene.wait_for_session(up)


@case(2, "a welcome with another number is ignored", section="6.2")
def stale_welcome_is_ignored(scene: Scene) -> None:
    up = scene.upstream()
    up.habits.answering = False
    scene.start()
    scene.wait(lambda: up.hellos, "a hello", START_S)
    stale = {"session": os.urandom(16), "number": up.hellos[0].number + 7}
    up.welcome(up.hellos[0], up.last_route, **stale)
    up.habits.answering = True
    scene.wait_for_session(up)
    scene.heartbeats(up)
    scene.require(
        not up.unknown_statements, "no statement of that session", f"{up.unknown_statements} statements of it"
    )


@case(3, "a second welcome for a session is ignored", section="6.2")
def second_welcome_is_ignored(scene: Scene) -> None:
    up, _ = scene.linked()
    up.welcome(up.hellos[-1], up.last_route, session=os.urandom(16))
    scene.heartbeats(up)
    scene.require(not up.unknown_statements, "statements of the first session only", "statements of the second one")
    up.feed([{"n": 1}])
    _delivered(scene, up, 1)


@case(4, "the first statement comes at once, with all its fields", section="6.3")
def first_statement(scene: Scene) -> None:
    up, _ = scene.linked()
    first = up.open_session.statements[0]
    scene.require(first.number >= 1, "a number from 1 on", first.number)
    scene.require(first.received == first.released == first.floor == 0, "nothing received yet", first)
    scene.require(first.limit_messages <= QUEUE_MESSAGES, f"a limit of at most {QUEUE_MESSAGES}", first.limit_messages)
    scene.wait(
        lambda: up.session is not None and up.session.newest.limit_messages > 0,
        "credit for a message",
    )


@case(5, "it never holds more than it granted, and a parcel over the credit ends the session", section="7")
def credit_is_a_bound(scene: Scene) -> None:
    up, down = scene.linked()
    if down is not None:
        down.habits.acking = down.habits.granting = False
    up.feed([{"n": n} for n in range(2 * QUEUE_MESSAGES)])
    for _ in range(3):
        scene.heartbeats(up, 1)
        session = up.open_session
        scene.require(
            session.held_or_granted <= QUEUE_MESSAGES,
            f"at most the queue's {QUEUE_MESSAGES} messages held or granted",
            session.held_or_granted,
        )
    session = up.open_session
    up.unsent.clear()
    over = max(0, session.newest.limit_messages - session.sent_messages) + QUEUE_MESSAGES + 1
    number = session.hello.number
    up.send(up.make([{"n": n} for n in range(over)]), session)
    scene.wait(lambda: up.hellos[-1].number > number, "another hello: the session is given up", LONG_S)


@case(6, "a gap ends the session; a copy is ignored", section="6.4")
def gap_and_copy(scene: Scene) -> None:
    up, _ = scene.linked()
    session = up.open_session
    up.feed([{"n": 1}])
    _delivered(scene, up, 1)
    session.sequence = 0
    up.send(up.make([{"n": "copy"}])[:1], session)
    session.parcels.clear()
    scene.heartbeats(up)
    scene.require(len(_arrived(scene)) == 1, "a copied sequence is not taken", _arrived(scene))
    scene.require(up.session is session, "the session stays after a copy", "it was given up")
    number = session.hello.number
    session.sequence = 5
    up.send(up.make([{"n": 3}]), session)
    session.parcels.clear()
    scene.wait(lambda: up.hellos[-1].number > number, "another hello: sequence 6 after 1 is a gap")


@case(7, "a parcel of an unknown session is passed over", section="6.4")
def unknown_session(scene: Scene) -> None:
    up, _ = scene.linked()
    session = up.open_session
    body = cbor.write([["forged"], [1.7e9], [{"forged": True}], None])
    header = {"kind": "parcel", "session": os.urandom(16), "sequence": 1, "sections": [[1, len(body), 1, 1, 0]]}
    up.push([cbor.write(header), body], session)
    up.feed([{"n": 1}])
    _delivered(scene, up, 1)
    scene.require(up.session is session, "the session goes on", "it was given up")
    scene.require("forged" not in _arrived(scene), "the message is not taken", _arrived(scene))


@case(8, "garbage in the inbox, as one frame, two or three, costs nobody else a session", section="4")
def garbage_of_a_stranger(scene: Scene) -> None:
    up, _ = scene.linked()
    session = up.open_session
    garbage = (
        [b"\xff\xfe\xfd"],
        [b"\x9f" * 40, b"x"],
        [b"\x00", b"\x01", b"\x02"],
        [b"", b""],
        [b"\xa1\x64kind\x61x", b""],
    )
    scene.stranger(session.hello.inbox, *map(list, garbage))
    scene.heartbeats(up)
    up.feed([{"n": 1}])
    _delivered(scene, up, 1)
    scene.require(up.session is session, "the session goes on", "it was given up")


@case(9, "section bytes that do not add up end the session", section="5.6")
def bytes_do_not_add_up(scene: Scene) -> None:
    up, _ = scene.linked()
    session = up.open_session
    number = session.hello.number
    items = up.make([{"n": 1}])
    up.send(items, session, size=5)
    session.parcels.clear()  # or it would rightly be sent again, and taken, in the session that follows
    scene.wait(lambda: up.hellos[-1].number > number, "another hello: the session is given up")
    scene.require(not up.acked, "no ack of it", up.acked)
    scene.require(not _arrived(scene), "nothing of it is taken", _arrived(scene))


@case(10, "a malformed section is a dead letter, and the session lives", section="11")
def malformed_section(scene: Scene) -> None:
    up, _ = scene.linked()
    session = up.open_session
    up.send(up.make([{"n": 1}]), session, body=b"\x84\xff\xff\xff\xff\xff")
    up.feed([{"n": 2}])
    scene.wait(lambda: 2 in up.acked, "an ack of the sound message after it")
    scene.wait(lambda: 1 in up.acked, "an ack of the malformed one, once its dead letter is durable")
    scene.require(up.session is session, "the session goes on", "it was given up")
    scene.require(len(_arrived(scene)) == 1, "only the sound one comes out", _arrived(scene))


@case(11, "a message is acked only after its durable end, also when the stage is killed in between", section="8")
def acked_after_durable_end(scene: Scene) -> None:
    up, down = scene.linked()
    if down is None:
        up.feed([{"n": n} for n in range(20)])
        while len(up.acked) < 20:
            before = len(up.acked)
            scene.wait(lambda before=before: len(up.acked) > before, "more acks")  # type: ignore[misc]
            missing = {f"up:1-{n}" for n in up.acked} - set(scene.stored())
            scene.require(not missing, "what is acked is stored", f"acked and not stored: {missing}")
        return
    down.habits.acking = False
    up.feed([{"n": 1}, {"n": 2}])
    scene.wait(lambda: len(down.ids) == 2, "both messages downstream")
    scene.heartbeats(up)
    scene.require(not up.acked, "no ack while downstream has not acked", up.acked)
    scene.programs[1].kill()
    scene.remove(down)
    again = scene.downstream()
    scene.start()
    scene.wait(lambda: len(up.acked) == 2, "after a restart: both again, and their acks", START_S)
    scene.require(again.ids == ["up:1-1", "up:1-2"], "both messages again, by the same ids", again.ids)


@case(12, "the same number in a new session is a duplicate: in process and finished", section="8")
def duplicates(scene: Scene) -> None:
    up, down = scene.linked()
    up.feed([{"n": 1}])
    _delivered(scene, up, 1)
    if down is not None:
        down.habits.acking = False
    up.feed([{"n": 2}])
    scene.wait(lambda: len(_arrived(scene)) == 2, "the second message")
    session = up.open_session
    up.give_up(session)
    up.unsent.appendleft(Item(1, "up:1-1", {"n": 1}, attempt=2))
    scene.wait(lambda: up.session is not None and up.session is not session, "another hello")
    scene.wait_for_session(up)
    scene.heartbeats(up)
    if down is not None:
        down.habits.acking = True
        down.ack_all()
    scene.wait(lambda: up.idle, "acks of both in the new session")
    arrived = [one.id for one in down.received] if down is not None else scene.stored()
    scene.require(sorted(arrived) == ["up:1-1", "up:1-2"], "each message once", arrived)


@case(13, "a new incarnation's numbers are new", section="8")
def new_incarnation(scene: Scene) -> None:
    up, _ = scene.linked()
    up.feed([{"n": 1}])
    _delivered(scene, up, 1)
    scene.remove(up)
    again = scene.upstream()
    scene.wait_for_session(again)
    again.unsent.extend(again.make([{"n": "other"}], ["up:other"]))
    scene.wait(lambda: 1 in again.acked, "an ack of the new incarnation's number 1")
    scene.require(_arrived(scene)[-1] == "up:other", "its message is taken", _arrived(scene))


@case(14, "need_bytes is met; one that is older than what has arrived is ignored", section="7")
def need_is_met(scene: Scene) -> None:
    up, _ = scene.linked()
    session = up.open_session
    need = 2 * QUEUE_BYTES
    up.habits.need_bytes = need
    up.confirm(session)
    scene.wait(
        lambda: session.newest.limit_bytes >= session.sent_bytes + need,
        f"a limit of {need} bytes above what was sent: nothing is held, so there is room for one message",
    )
    up.habits.need_bytes = 0
    up.send(up.make([{"blob": b"x" * (need - 200)}]), session)
    _delivered(scene, up, 1)
    scene.require(up.session is session, "the session goes on", "it was given up")


@case(15, "unknown keys are ignored in every frame", section="4")
def unknown_keys(scene: Scene) -> None:
    up = scene.upstream()
    up.habits.extra = {"from_the_future": [1, {"x": None}]}
    scene.open(up, scene.downstream() if scene.kind == "map" else None)
    session = up.session
    up.feed([{"n": 1}])
    _delivered(scene, up, 1)
    scene.heartbeats(up)
    scene.require(up.session is session, "the session goes on", "it was given up")


@case(45, "integers and lengths in longer forms than they need are read", section="4")
def longer_forms(scene: Scene) -> None:
    _as_written(scene, other_writers.write_at_length)


@case(46, "what a frame may leave out is left out, by neighbours of a later minor version", section="4")
def left_out(scene: Scene) -> None:
    _as_written(scene, other_writers.write_sparingly)


def _as_written(scene: Scene, write: Callable[[Any], bytes]) -> None:
    """Payloads and the end pass, in one session, with neighbours that write so."""
    up = scene.upstream()
    up.habits.write = write
    down = scene.downstream() if scene.kind == "map" else None
    if down is not None:
        down.habits.write = write
    scene.open(up, down)
    payloads: list[Any] = [{"n": 1}, [0, -1, 23, 24, 2**32, 1.5, True, None], "text", b"bytes"]
    up.feed(payloads)
    _delivered(scene, up, len(payloads))
    if down is not None:
        came = [one.payload for one in down.received if one.new]
        scene.require(all(map(_same, payloads, came)), str(payloads), came)
    session = up.session
    scene.heartbeats(up)
    scene.require(session is up.sessions[0] is up.session, "one session", f"{len(up.sessions)} sessions")
    up.flush()
    up.end(session)
    scene.wait(lambda: up.idle, "an ack of the end")
    if down is not None:
        scene.wait(lambda: down.session is not None and down.session.ends, "the end of the stage's own stream")


@case(16, "silence for the peer timeout: it is given up, and a hello with a new number is said", section="9")
def silence(scene: Scene) -> None:
    up, _ = scene.linked()
    session = up.open_session
    up.habits.silent = True
    scene.wait(lambda: up.hellos[-1].number > session.hello.number, "another hello after 5 s without a frame", LONG_S)
    up.habits.silent = False
    scene.wait(lambda: up.session is not None and up.session is not session, "another session")
    up.feed([{"n": 1}])
    _delivered(scene, up, 1)


@case(17, "stopped for longer than that, and woken: its sessions are begun anew, and nothing is lost", section="6.5")
def frozen(scene: Scene) -> None:
    up, _ = scene.linked()
    session = up.open_session
    program = scene.programs[1]
    program.freeze()
    scene.after(PEER_TIMEOUT_S + 1.5)
    program.wake()
    scene.wait(lambda: up.hellos[-1].number > session.hello.number, "another hello after it stood still", LONG_S)
    scene.wait_for_session(up)
    up.feed([{"n": 1}])
    scene.wait(lambda: 1 in up.acked, "it works as before", LONG_S)


@case(18, 'a refuse "no such session" leads to a new hello', section="6.4")
def no_such_session(scene: Scene) -> None:
    up, _ = scene.linked()
    session = up.open_session
    up.give_up(session)
    scene.wait(lambda: up.hellos[-1].number > session.hello.number, "a hello with a new number")
    scene.wait_for_session(up)
    up.feed([{"n": 1}])
    _delivered(scene, up, 1)


@case(
    19, "STOPPED is answered by seen_stopped at once, and it exits when every upstream instance has ended", section="10"
)
def end_of_the_stream(scene: Scene) -> None:
    up, down = scene.linked()
    up.feed([{"n": 1}])
    _delivered(scene, up, 1)
    session = up.open_session
    up.flush()
    up.end(session)
    scene.wait(lambda: session.newest.floor == session.sequence, "an ack of the end")
    if down is not None:
        scene.wait(lambda: down.session is not None and down.session.ends, "the end of the stage's own stream")
    scene.allow_exit()
    up.stop()
    scene.wait(lambda: session.newest.seen_stopped, "seen_stopped")
    scene.wait_for_exit(scene.programs[1], "it exits")
    scene.require(len(_arrived(scene)) == 1, "the message came out", _arrived(scene))


@case(
    44,
    "a message of an old incarnation that finishes late does not finish the new one's number",
    section="8",
    kinds=("map",),
)
def late_finish(scene: Scene) -> None:
    up, down = scene.linked_map()
    down.habits.acking = False
    up.feed([{"n": 1}])
    scene.wait(lambda: down.ids, "the message")
    scene.remove(up)
    again = scene.upstream()
    scene.wait_for_session(again)
    down.habits.acking = True
    down.ack_all()
    session = down.open_session
    scene.wait(lambda: session.confirms and session.confirms[-1].number == session.statements, "a confirm of the ack")
    again.unsent.extend(again.make([{"n": "other"}], ["up:other"]))
    scene.wait(lambda: 1 in again.acked, "an ack of the new incarnation's number 1")
    scene.require(down.ids == ["up:1-1", "up:other"], "its message comes out", down.ids)


@case(20, "bignum, float, bytes, depth 30 and NaN pass unchanged", section="4", kinds=("map",))
def values_pass(scene: Scene) -> None:
    up, down = scene.linked_map()
    deep: object = 1
    for _ in range(29):
        deep = [deep]
    payloads = [
        [2**70, -(2**70), 2**64, 2**63, -1],
        [1.5, 0.1, -0.0, 1e300, math.inf],
        {"b": bytes(range(256)), "": "", "ä": "€😀"},
        deep,
        None,
        [True, False, [], {}],
        "text",
        math.nan,
    ]
    up.feed(payloads)
    _delivered(scene, up, len(payloads))
    came = [one.payload for one in down.received if one.new]
    for given, got in zip(payloads, came, strict=True):
        scene.require(_same(given, got), f"{given!r:.80}", f"{got!r:.80}")


def _same(given: Any, got: Any) -> bool:
    """Equal, and of the same type; but a language may have one type for 1 and 1.0, or for 0.0 and -0.0."""
    if isinstance(given, list):
        return isinstance(got, list) and len(given) == len(got) and all(map(_same, given, got))
    if isinstance(given, dict):
        return isinstance(got, dict) and list(given) == list(got) and all(map(_same, given.values(), got.values()))
    if isinstance(given, float) and math.isnan(given):
        return isinstance(got, float) and math.isnan(got)
    numbers = type(given) in (int, float) and type(got) in (int, float)
    return bool(given == got) and (numbers or type(given) is type(got))


@case(48, "malformed frames of neighbours, outside the inbox, are dropped and cost nobody a session", section="4")
def garbage_of_neighbours(scene: Scene) -> None:
    up, down = scene.linked()
    sessions = up.session, down.session if down is not None else None
    garbage = (b"", b"\xff\xfe\xfd", b"\x00", b"\xa0", b"\xa1\x64kind\x65hello", b"\xa1\x64kind\x69statement")
    up.garble(garbage)
    if down is not None:
        down.garble(garbage)
        scene.announcements(down)
    scene.heartbeats(up)
    up.feed([{"n": 1}])
    _delivered(scene, up, 1)
    now = up.session, down.session if down is not None else None
    scene.require(now == sessions, "the sessions go on", "one was given up")
