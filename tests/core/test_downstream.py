"""Whom a producer takes in, to whom a session belongs, and what ends it."""

from __future__ import annotations

from typing import Any

import pytest
from session_names import SECRET, named, numbered

from zpipe.core import section, wire
from zpipe.core.actions import Action, CloseSession, Note, OpenSession, Reply
from zpipe.core.downstream import Downstream
from zpipe.core.ledger import Derivation
from zpipe.core.policy import StagePolicy
from zpipe.core.work import Chunk

ROUTE, OTHER = b"route", b"another route"
UNIX = "uid 1000, pid 4321"
FOLDER = "/run/zpipe"


def hello(instance: int = 1, number: int = 1, secret: bytes = SECRET, inbox: str = "", **more: Any) -> wire.Hello:
    inbox = inbox or f"ipc://{FOLDER}/p.b.{instance}/inbox.sock"
    fields: dict[str, Any] = {
        "version": wire.VERSION,
        "pipeline": "p",
        "stage": "b",
        "instance": instance,
        "incarnation": f"b{instance}",
        "secret": secret,
        "outlet": "",
        "upstream": "a",
        "inbox": inbox,
        "number": number,
        "queue_messages": 100,
        "suspects_of": "",
        "suspects": [],
    }
    return wire.Hello(**fields | more)


def statement(session: bytes, number: int, **more: Any) -> wire.Statement:
    fields: dict[str, Any] = {
        "session": session,
        "number": number,
        "limit_messages": 100,
        "limit_bytes": 1 << 20,
        "received": 0,
        "released": 0,
        "floor": 0,
        "ranges": [],
        "returned": [],
        "finished": [],
        "rate": 0.0,
        "reply": False,
        "leaving": False,
        "seen_stopped": False,
    }
    return wire.Statement(**fields | more)


def make() -> Downstream:
    return Downstream("p", "a", "a1", [("", "b")], StagePolicy(), numbered())


def replies(actions: list[Action], kind: type[Any]) -> list[Any]:
    """Frames of this kind among the answers."""
    frames = [wire.read(action.frame) for action in actions if isinstance(action, Reply)]
    return [frame for frame in frames if isinstance(frame, kind)]


def notes(actions: list[Action]) -> list[tuple[str, str]]:
    return [(action.event, action.fields["reason"]) for action in actions if isinstance(action, Note)]


def welcomed(actions: list[Action]) -> bytes:
    [welcome] = replies(actions, wire.Welcome)
    session: bytes = welcome.session
    return session


def refused(actions: list[Action]) -> str:
    """The reason, which the consumer hears and the log shows; nothing was opened or closed."""
    [refuse] = replies(actions, wire.Refuse)
    assert not any(isinstance(action, OpenSession | CloseSession) for action in actions)
    assert [reason for _, reason in notes(actions)] == [refuse.reason]
    reason: str = refuse.reason
    return reason


def in_session(messages: int = 0) -> tuple[Downstream, bytes]:
    """A consumer that was sent so many messages in parcels of one."""
    made = make()
    session = welcomed(made.hello(ROUTE, hello(), 0.0, UNIX))
    made.ready(session)
    assert made.statement(ROUTE, statement(session, 1), 0.0, UNIX) == []
    for n in range(messages):
        body = section.encode([f"a:{n}"], [0.0], [n], None)
        derivation = Derivation([])
        made.offer([Chunk("", 1, body)], derivation)
        derivation.close()
        assert len(made.dispatch()) == 1
        made.outlets[0].sessions[session].received = n + 1  # so that the next one does not wait for company
    made.outlets[0].sessions[session].received = 0
    return made, session


# ---- names


def test_a_session_has_a_name_of_the_random_bytes_and_nothing_else() -> None:
    made = make()
    assert [welcomed(made.hello(ROUTE, hello(n), 0.0, UNIX)) for n in (1, 2)] == [
        (1).to_bytes(16),
        (2).to_bytes(16),
    ]


# ---- whose a session is


def test_a_hello_that_comes_again_is_welcomed_again() -> None:
    made = make()
    session = welcomed(made.hello(ROUTE, hello(), 0.0, UNIX))
    again = made.hello(ROUTE, hello(), 0.0, UNIX)
    assert welcomed(again) == session and len(again) == 1


@pytest.mark.parametrize("number", [0, 1, 2, 1 << 62])
@pytest.mark.parametrize("incarnation", ["b1", "b2"])
@pytest.mark.parametrize("route", [ROUTE, OTHER])
def test_nobody_without_the_secret_takes_a_session_over(number: int, incarnation: str, route: bytes) -> None:
    """Incarnation and instance are announced to everybody, and the number is easily guessed."""
    made, session = in_session()
    forged = made.hello(route, hello(number=number, secret=named("forged"), incarnation=incarnation), 0.0, UNIX)
    assert refused(forged) == "b.1 is in session by another connection"
    assert made.statement(ROUTE, statement(session, 2, reply=True), 0.0, UNIX) != []
    assert list(made.outlets[0].sessions) == [session]


def test_a_consumer_that_connects_anew_takes_its_session_over() -> None:
    made, session = in_session()
    actions = made.hello(OTHER, hello(number=2), 0.0, UNIX)
    assert actions[0] == CloseSession(session)
    after = welcomed(actions)
    assert after != session
    assert replies(made.statement(ROUTE, statement(after, 1), 0.0, UNIX), wire.Refuse)
    assert made.statement(OTHER, statement(after, 1), 0.0, UNIX) == []


def test_the_next_life_of_a_consumer_is_let_in_when_the_connection_of_the_last_is_lost() -> None:
    made, session = in_session()
    reborn = hello(secret=named("new"), incarnation="b2")
    refused(made.hello(OTHER, reborn, 0.0, UNIX))
    made.close(session)
    welcomed(made.hello(OTHER, reborn, 0.0, UNIX))


def test_a_late_hello_is_ignored() -> None:
    made, _ = in_session()
    welcomed(made.hello(ROUTE, hello(number=5), 0.0, UNIX))
    assert made.hello(ROUTE, hello(number=4), 0.0, UNIX) == []


def test_a_statement_or_refuse_of_another_connection_changes_nothing() -> None:
    made, session = in_session(messages=3)
    forged = statement(session, 1 << 40, received=3, released=3, floor=3, leaving=True)
    said = made.statement(OTHER, forged, 0.0, "203.0.113.9")
    assert [frame.reason for frame in replies(said, wire.Refuse)] == [wire.NO_SESSION]
    assert notes(said) == [("statement.refused", "a statement came by another connection than its session's")]
    assert made.refused(OTHER, wire.Refuse(session, "go away", 1), "203.0.113.9") == []
    assert (made.in_flight, made.outlets[0].acked) == (3, 0)
    assert made.statement(ROUTE, statement(session, 2, received=3, released=3, floor=3), 0.0, UNIX) == []
    assert (made.in_flight, made.outlets[0].acked) == (0, 3)


def test_a_guess_is_answered_as_a_hit_is() -> None:
    made, session = in_session()
    answers = []
    for name in (session, named("guess")):
        [frame] = replies(made.statement(OTHER, statement(name, 2), 0.0, UNIX), wire.Refuse)
        answers.append((frame.reason, frame.number))
    assert answers[0] == answers[1] == (wire.NO_SESSION, 2)


def test_a_consumer_may_give_its_session_up_and_say_why() -> None:
    made, session = in_session(messages=2)
    actions = made.refused(ROUTE, wire.Refuse(session, "has sent 9 messages: more than its credit", 1), UNIX)
    assert actions[0] == CloseSession(session)
    assert notes(actions) == [("session.given_up", "has sent 9 messages: more than its credit")]
    assert (made.unsent, made.in_flight) == (2, 0)


# ---- statements that cannot be true


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"received": 4}, "states parcel 4 as received, of 3 sent"),
    ({"received": 3, "floor": 4}, "acks parcel 4, of 3 received"),
    ({"received": 1 << 62, "floor": 1 << 62, "released": 1 << 62}, f"states parcel {1 << 62} as received, of 3 sent"),
    ({"received": 2, "floor": 3}, "acks parcel 3, of 2 received"),
    ({"received": 2, "ranges": [[2, 4]]}, "acks parcel 3, of 2 received"),
    ({"received": 3, "released": 4}, "states 4 messages as released, of 3 sent"),
    ({"received": 1, "released": 1}, "goes back with `received` from 2 to 1"),
    ({"received": 3}, "goes back with `released` from 2 to 0"),
    ({"received": 3, "released": 3}, "goes back with `floor` from 1 to 0"),
    ({"received": 3, "released": 3, "floor": 1, "returned": [[4, 0, 1]]}, "names messages 0 to 1 of parcel 4"),
    ({"received": 3, "released": 3, "floor": 1, "returned": [[3, 0, 2]]}, "names messages 0 to 2 of parcel 3"),
    ({"received": 2, "released": 2, "floor": 1, "finished": [[3, 0, 1]]}, "names messages 0 to 1 of parcel 3"),
    ({"received": 3, "released": 3, "floor": 1, "finished": [[2, 1, 0]]}, "names messages 1 to 0 of parcel 2"),
]


@pytest.mark.parametrize(("lie", "reason"), IMPOSSIBLE, ids=[reason for _, reason in IMPOSSIBLE])
def test_a_statement_that_cannot_be_true_ends_the_session_and_a_hello_heals_it(
    lie: dict[str, Any], reason: str
) -> None:
    made, session = in_session(messages=3)
    assert made.statement(ROUTE, statement(session, 2, received=2, released=2, floor=1), 0.0, UNIX) == []
    acked = made.outlets[0].acked
    actions = made.statement(ROUTE, statement(session, 3, **lie), 0.0, UNIX)
    assert actions[0] == CloseSession(session)
    [refuse] = replies(actions, wire.Refuse)
    assert refuse.session == session and refuse.reason.startswith(reason)
    assert notes(actions) == [("session.broken", refuse.reason)]
    assert (made.unsent, made.in_flight, made.outlets[0].acked) == (2, 0, acked)
    healed = welcomed(made.hello(ROUTE, hello(number=2), 0.0, UNIX))
    made.ready(healed)
    made.statement(ROUTE, statement(healed, 1), 0.0, UNIX)
    assert len(made.dispatch()) == 1 and made.in_flight == 2


def test_an_old_copy_of_a_statement_is_no_lie() -> None:
    made, session = in_session(messages=3)
    made.statement(ROUTE, statement(session, 3, received=3, released=3, floor=3), 0.0, UNIX)
    assert made.statement(ROUTE, statement(session, 2, received=2, released=2, floor=2), 0.0, UNIX) == []
    assert list(made.outlets[0].sessions) == [session]
