"""Level 1, the stage as a producer: cases 21 to 32, and 47. A sink has no consumers, so only maps are asked.

Each function is a case: what it sends, and what has to come. Must not live here: how a neighbour speaks.
"""

from __future__ import annotations

from typing import Any

from zpipe.conform.cases import case
from zpipe.conform.downstream import Downstream
from zpipe.conform.scene import START_S, Scene
from zpipe.conform.upstream import Upstream
from zpipe.conform.verdicts import Kind

MAP: tuple[Kind, ...] = ("map",)
LONG_S = 30.0


def _beside(scene: Scene, down: Downstream) -> None:
    """The usual scene but for a downstream instance that has been set up otherwise."""
    scene.start()
    scene.wait(lambda: down.connected, "a feedback socket to connect to", START_S)


def _feed(scene: Scene, count: int) -> Upstream:
    up = scene.upstreams[0] if scene.upstreams else scene.upstream()
    up.feed([{"n": n} for n in range(count)])
    return up


@case(21, "another version, pipeline, upstream stage or link is refused, with the reason", section="6.2", kinds=MAP)
def wrong_hellos(scene: Scene) -> None:
    scene.upstream()
    down = scene.downstream()
    down.habits.greeting = False
    _beside(scene, down)
    of_this_version = ("incarnation", "secret", "outlet", "upstream", "inbox", "queue_messages", "codecs")
    wrong: list[dict[str, Any]] = [
        {"version": 99},
        {"version": 99, **dict.fromkeys((*of_this_version, "suspects_of", "suspects"))},
        {"pipeline": "another"},
        {"upstream": "another"},
        {"outlet": "no-such-outlet"},
        {"stage": "no-such-stage"},
        {"instance": 0},
    ]
    for changed in wrong:
        before = len(down.refuses)
        down.hello(**changed)
        scene.wait(lambda before=before: len(down.refuses) > before, f"a refuse of a hello with {changed}")  # type: ignore[misc]
        refuse = down.refuses[-1]
        scene.require(refuse.number == down.number, "the number of that hello", refuse.number)
        scene.require(refuse.reason and refuse.session == b"", "a reason, and no session", refuse)
    scene.require(not down.welcomes, "no welcome", down.welcomes)
    down.habits.greeting = True
    down.forget()
    scene.wait_for_downstream(down)


@case(
    22,
    "the same hello has the same welcome; a lower number is ignored; a new incarnation ends the old session",
    section="6.2",
    kinds=MAP,
)
def hellos_again(scene: Scene) -> None:
    scene.upstream()
    down = scene.downstream()
    scene.start()
    scene.wait_for_downstream(down)
    first = down.welcomes[-1]
    down.hello(number=down.number)
    scene.wait(lambda: len(down.welcomes) == 2, "a welcome again")
    scene.require(down.welcomes[-1] == first, "the same welcome", down.welcomes[-1])
    down.hello(number=down.number + 5)
    scene.wait(lambda: len(down.welcomes) == 3, "a welcome for a higher number")
    scene.require(down.welcomes[-1].session != first.session, "another session", "the same")
    down.hello(number=down.number - 2)
    scene.announcements(down)
    scene.require(len(down.welcomes) == 3, "no answer to a lower number", f"{len(down.welcomes)} welcomes")
    scene.remove(down)
    again = scene.downstream()
    scene.wait_for_downstream(again)
    _feed(scene, 1)
    scene.wait(lambda: again.ids, "messages for the new incarnation")


@case(23, "an inbox that is not the consumer's is refused", section="3", kinds=MAP)
def bad_inbox(scene: Scene) -> None:
    scene.upstream()
    down = scene.downstream()
    down.habits.greeting = False
    _beside(scene, down)
    for inbox in ("nonsense", "", "tcp://198.51.100.1:22", f"ipc://{scene.root}/elsewhere.sock"):
        before = len(down.refuses)
        down.hello(inbox=inbox)
        scene.wait(lambda before=before: len(down.refuses) > before, f"a refuse of inbox {inbox!r}")  # type: ignore[misc]
    scene.require(not down.welcomes, "no welcome", down.welcomes)


@case(24, "nothing is sent before the first statement, and never past either limit", section="6.3, 7", kinds=MAP)
def limits(scene: Scene) -> None:
    down = scene.downstream()
    down.habits.stating = down.habits.granting = down.habits.acking = False
    up = _feed(scene, 20)
    scene.start()
    scene.wait(lambda: down.session is not None, "a welcome", START_S)
    scene.wait_for_session(up)
    scene.announcements(down)
    scene.require(not down.received, "nothing before a statement", f"{len(down.received)} messages")
    session = down.open_session
    session.limit_bytes = 1 << 20
    for limit in (0, 1, 7):
        session.limit_messages = limit
        down.make_statement()
        scene.wait(lambda limit=limit: session.arrived_messages == limit, f"{limit} messages in all")  # type: ignore[misc]
        scene.announcements(down)
        scene.require(session.arrived_messages == limit, f"no more than {limit}", session.arrived_messages)
    session.limit_bytes, session.limit_messages = session.arrived_bytes + 3, 1000
    down.make_statement()
    scene.announcements(down)
    scene.require(session.arrived_messages == 7, "nothing past the limit of bytes", session.arrived_messages)
    session.limit_bytes = 1 << 20
    down.make_statement()
    scene.wait(lambda: session.arrived_messages == 20, "the rest")


@case(25, "an older statement is ignored, but answered if it asks", section="5.4", kinds=MAP)
def older_statement(scene: Scene) -> None:
    scene.upstream()
    down = scene.downstream()
    down.habits.granting = False
    scene.start()
    scene.wait_for_downstream(down)
    session = down.open_session
    down.habits.stating = False
    down.make_statement(number=50)
    down.make_statement(number=40, reply=True, limit_messages=1000, limit_bytes=1 << 20)
    scene.wait(lambda: session.confirms and session.confirms[-1].number == 50, "a confirm of statement 50")
    session.statements = 50
    _feed(scene, 3)
    scene.announcements(down)
    scene.require(not down.received, "the older statement's credit is not used", f"{len(down.received)} messages")
    scene.require(down.session is session, "the session goes on", "it was refused")


@case(26, "floor and ranges ack; sequences that were never sent end the session or are ignored", section="8", kinds=MAP)
def floor_and_ranges(scene: Scene) -> None:
    up, down = scene.linked_map()
    down.habits.acking = False
    for n in range(3):
        up.feed([{"n": n}])
        scene.wait(lambda n=n: len(down.received) == n + 1, "the next message")  # type: ignore[misc]
    session = down.open_session
    down.habits.stating = False
    last = session.received
    number = session.statements + 1
    down.make_statement(session, ranges=[[last, last + 1]], released=session.arrived_messages, reply=True)
    confirms = session.confirms
    scene.wait(lambda: any(one.number == number for one in confirms), "a confirm of that statement")
    scene.remove(down)
    down = scene.downstream()
    down.habits.acking = False
    scene.wait(lambda: len(down.ids) >= 2, "what is not acked again")
    scene.announcements(down)
    scene.require(down.ids == ["up:1-1", "up:1-2"], "not the third message, which the range has acked", down.ids)
    scene.require(not up.acked - {3}, "no ack of the others upstream", up.acked)
    down.ack_all()
    scene.wait(lambda: up.acked == {1, 2, 3}, "acks of all by the floor")
    session = down.open_session
    refuses = len(down.refuses)
    down.make_statement(session, floor=session.floor + 1000)
    scene.announcements(down)
    up.feed([{"n": 3}])
    scene.wait(lambda: len(down.refuses) > refuses or len(down.ids) == 3, "a refuse, or as if nothing had been said")
    scene.require(4 not in up.acked, "a sequence that was never sent acks nothing", up.acked)


@case(27, "after a disconnect: again in order, attempt + 1, the same numbers and ids", section="6.4, 8", kinds=MAP)
def redelivery(scene: Scene) -> None:
    up, down = scene.linked_map()
    down.habits.acking = False
    up.feed([{"n": n} for n in range(10)])
    scene.wait(lambda: len(down.ids) == 10, "ten messages")
    before = [(one.number, one.id) for one in down.received]
    scene.require({one.attempt for one in down.received} == {1}, "attempt 1", down.received[0])
    scene.remove(down)
    again = scene.downstream()
    scene.wait(lambda: len(again.ids) == 10, "all ten again")
    after = [(one.number, one.id) for one in again.received]
    scene.require(before == after, f"the same numbers and ids in order: {before}", after)
    scene.require({one.attempt for one in again.received} == {2}, "attempt 2", again.received[0])
    scene.wait(lambda: len(up.acked) == 10, "acks of all")


@case(47, "what a consumer hands back goes out again, and is not taken for acked", section="8", kinds=MAP)
def handed_back(scene: Scene) -> None:
    up, down = scene.linked_map()
    down.habits.acking = False
    up.feed([{"n": 1}])
    scene.wait(lambda: down.ids, "the message")
    session = down.open_session
    down.habits.stating = down.habits.greeting = False
    last = session.received
    row = [last, 0, 1]
    down.make_statement(session, returned=[row], floor=last, released=1, received=last, leaving=True, reply=True)
    statement, refuses = session.statements, len(down.refuses)
    scene.wait(
        lambda: len(down.refuses) > refuses or (session.confirms and session.confirms[-1].number == statement),
        "a confirm of the statement that hands it back, or the end of the session",
    )
    scene.remove(down)
    again = scene.downstream()
    scene.wait(lambda: again.ids == ["up:1-1"], "the message again, for the next consumer")
    scene.wait(lambda: up.acked == {1}, "its ack, once that one has acked it")


@case(28, "no progress for the peer timeout: the session is given up", section="6.4", kinds=MAP)
def no_progress(scene: Scene) -> None:
    up, down = scene.linked_map()
    session = down.open_session
    down.habits.reading = False
    up.feed([{"n": 1}])
    scene.wait(
        lambda: down.session is not session,
        "the session is refused: what was sent 5 s ago was not received",
        LONG_S,
    )
    down.habits.reading = True
    scene.wait(lambda: up.idle, "the message in another session, and its ack", LONG_S)
    scene.require(down.ids == ["up:1-1"], "the message once", down.ids)


@case(29, "`lowest` is true", section="5.5", kinds=MAP)
def lowest(scene: Scene) -> None:
    up, down = scene.linked_map()
    session = down.open_session
    down.habits.acking = False
    up.feed([{"n": n} for n in range(4)])
    scene.wait(lambda: len(down.ids) == 4, "four messages")
    down.make_statement(session, reply=True)
    confirms = len(session.confirms)
    scene.wait(lambda: len(session.confirms) > confirms + 1, "confirms")
    scene.require(session.confirms[-1].lowest <= 1, "at most 1, since number 1 is unacked", session.confirms[-1].lowest)
    down.habits.acking = True
    down.ack_all()
    scene.wait(lambda: session.confirms[-1].lowest == 5, "5, once 1 to 4 are acked")
    scene.require(session.confirms[-1].sent_messages == 4, "4 messages sent", session.confirms[-1])


@case(
    30,
    "the end is said in every session, again after a redelivery; STOPPED only when all is acked and upstream has STOPPED;"
    " exit within 5 s if nobody answers",
    section="10",
    kinds=MAP,
)
def end_again(scene: Scene) -> None:
    up, down = scene.linked_map()
    down.habits.acking = False
    up.feed([{"n": 1}])
    scene.wait(lambda: down.ids, "the message")
    up.flush()
    up.end()
    scene.wait(lambda: down.session is not None and down.session.ends, "the end")
    scene.announcements(down)
    scene.require(down.state != "STOPPED", "not STOPPED: the message is unacked", down.state)
    scene.remove(down)
    again = scene.downstream()
    scene.wait(
        lambda: again.ids and again.session is not None and again.session.ends, "the message, and the end, again"
    )
    scene.announcements(again)
    scene.require(again.state != "STOPPED", "not STOPPED: upstream is FLUSHED and has not STOPPED", again.state)
    scene.allow_exit()
    up.stop()
    scene.wait(lambda: again.state == "STOPPED", "STOPPED, once all is acked and upstream has STOPPED")
    scene.require(again.announcements[-1].ended, "with `ended`", again.announcements[-1])
    again.habits.stating = again.habits.acking = False
    scene.wait_for_exit(scene.programs[1], "it exits within 5 s though nobody says seen_stopped", LONG_S)


@case(31, "ids: kept by one to one, `.n` by one to many, none for what is filtered", section="11", kinds=MAP)
def ids(scene: Scene) -> None:
    up, down = scene.linked_map()
    up.feed([{"n": 1}])
    scene.wait(lambda: down.ids, "a message")
    scene.require(down.ids == ["up:1-1"], "the id as it was: up:1-1", down.ids)
    scene.require(down.received[0].origin == 1.7e9, "the origin as it was", down.received[0].origin)
    scene.needs_many()
    up.feed([{"copies": 3}, {"copies": 0}])
    scene.wait(lambda: len(up.acked) == 3, "acks of all three")
    scene.require(down.ids[1:] == [f"up:1-2.{n}" for n in range(3)], "up:1-2.0 to up:1-2.2", down.ids)


@case(32, "an input is acked only after all of its outputs are", section="8", kinds=MAP)
def acked_after_outputs(scene: Scene) -> None:
    up = scene.upstream()
    down = scene.downstream(queue=2)
    down.habits.acking = False
    scene.start()
    scene.wait_for_session(up)
    up.feed([{"copies": 4}] if scene.many else [{"n": 1}])
    wanted = 4 if scene.many else 1
    scene.wait(lambda: len(down.ids) == min(2, wanted), "the first outputs")
    scene.heartbeats(up)
    scene.require(not up.acked, "no ack of the input", up.acked)
    if scene.many:
        down.ack_all()
        scene.wait(lambda: len(down.ids) == 4, "the other outputs")
        scene.heartbeats(up)
        scene.require(not up.acked, "no ack of the input while two of its outputs are unacked", up.acked)
    down.ack_all()
    scene.wait(lambda: up.acked == {1}, "an ack of the input")
