"""Whom a producer takes in, to whom a session belongs, and what ends it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
from session_names import SECRET, named, numbered

from zpipe.core.actions import Action, CloseSession, LogEvent, OpenSession, Reply, SendParcel
from zpipe.core.downstream.downstream import Downstream
from zpipe.core.downstream.outlet import Outlet
from zpipe.core.downstream.outlet_sessions import OutletSessions
from zpipe.core.ledger import Derivation
from zpipe.core.policy import Codec, ConsumerPolicy, LinkPolicy, StagePolicy
from zpipe.core.wire import cbor, frames, section
from zpipe.core.work.task import Chunk
from zpipe.errors import PeerError

ROUTE, OTHER = b"route", b"another route"
UNIX = "uid 1000, pid 4321"
FOLDER = "/run/zpipe"
GOOD = StagePolicy(consumers={"b": ConsumerPolicy()})


def hello(instance: int = 1, number: int = 1, secret: bytes = SECRET, inbox: str = "", **more: Any) -> frames.Hello:
    inbox = inbox or f"ipc://{FOLDER}/p.b.{instance}/inbox.sock"
    fields: dict[str, Any] = {
        "version": frames.VERSION,
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
    return frames.Hello(**fields | more)


def statement(session: bytes, number: int, **more: Any) -> frames.Statement:
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
    return frames.Statement(**fields | more)


class Producer(OutletSessions):
    """The sessions of a stage that has one link, and that link."""

    def __init__(self, policy: StagePolicy) -> None:
        self.outlet = Outlet("", "b", policy.link)
        self.below = Downstream([self.outlet], policy)
        super().__init__("p", "a", "a1", [self.outlet], policy, numbered())


def make(policy: StagePolicy = GOOD) -> Producer:
    return Producer(policy)


def replies(actions: list[Action], kind: type[Any]) -> list[Any]:
    """Frames of this kind among the answers."""
    multipart = [frames.read(action.frame) for action in actions if isinstance(action, Reply)]
    return [frame for frame in multipart if isinstance(frame, kind)]


def log_events(actions: list[Action]) -> list[tuple[str, str]]:
    return [(action.event, action.fields["reason"]) for action in actions if isinstance(action, LogEvent)]


def welcomed(actions: list[Action]) -> bytes:
    [welcome] = replies(actions, frames.Welcome)
    session: bytes = welcome.session
    return session


def refused(actions: list[Action]) -> str:
    """The reason, which the consumer hears and the log shows; nothing was opened or closed."""
    [refuse] = replies(actions, frames.Refuse)
    assert not any(isinstance(action, OpenSession | CloseSession) for action in actions)
    assert [reason for _, reason in log_events(actions)] == [refuse.reason]
    reason: str = refuse.reason
    return reason


def in_session(messages: int = 0) -> tuple[Producer, bytes]:
    """A consumer that was sent so many messages in parcels of one."""
    made = make()
    session = welcomed(made.hello(ROUTE, hello(), 0.0, UNIX))
    made.ready(session)
    assert made.statement(ROUTE, statement(session, 1), 0.0, UNIX) == []
    for n in range(messages):
        body = section.encode([f"a:{n}"], [0.0], [n], None)
        derivation = Derivation([])
        made.below.offer([Chunk("", 1, body)], derivation)
        derivation.close()
        assert len(made.below.dispatch(0.0)) == 1
        made.outlet.sessions[session].received = n + 1  # so that the next one does not wait for company
    made.outlet.sessions[session].received = 0
    return made, session


# ---- names


def test_a_session_has_a_name_of_the_random_bytes_and_nothing_else() -> None:
    made = make()
    assert [welcomed(made.hello(ROUTE, hello(n), 0.0, UNIX)) for n in (1, 2)] == [
        (1).to_bytes(16),
        (2).to_bytes(16),
    ]


# ---- in which codec


@pytest.mark.parametrize(
    ("mine", "theirs", "codec"),
    [
        ("msgpack", ["cbor", "msgpack"], "msgpack"),
        ("msgpack", ["msgpack"], "msgpack"),
        ("msgpack", ["cbor"], "cbor"),
        ("msgpack", [], "cbor"),
        ("msgpack", ["cbor", "later"], "cbor"),
        ("cbor", ["cbor", "msgpack"], "cbor"),
    ],
)
def test_a_session_has_the_codec_that_both_ends_have(mine: Codec, theirs: list[str], codec: str) -> None:
    made = make(replace(GOOD, link=LinkPolicy(codec=mine)))
    [welcome] = replies(made.hello(ROUTE, hello(codecs=theirs), 0.0, UNIX), frames.Welcome)
    assert welcome.codec == codec
    [again] = replies(made.hello(ROUTE, hello(codecs=theirs), 0.0, UNIX), frames.Welcome)
    assert again == welcome


def test_a_consumer_that_says_nothing_of_codecs_is_sent_cbor() -> None:
    said = cbor.read(frames.write(hello()))
    del said["codecs"]
    old = frames.read(cbor.write(said))
    assert isinstance(old, frames.Hello)
    made = make()
    session = welcomed(made.hello(ROUTE, old, 0.0, UNIX))
    made.ready(session)
    made.statement(ROUTE, statement(session, 1), 0.0, UNIX)
    body = section.encode(["a:0"], [0.0], [{"n": [1]}], None, "msgpack")
    made.below.offer([Chunk("", 1, body)], Derivation([]))
    [sent] = made.below.dispatch(0.0)
    assert isinstance(sent, SendParcel)
    assert sent.body == section.encode(["a:0"], [0.0], [{"n": [1]}], None)


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
    assert list(made.outlet.sessions) == [session]


def test_a_consumer_that_connects_anew_takes_its_session_over() -> None:
    made, session = in_session()
    actions = made.hello(OTHER, hello(number=2), 0.0, UNIX)
    assert actions[0] == CloseSession(session)
    after = welcomed(actions)
    assert after != session
    assert replies(made.statement(ROUTE, statement(after, 1), 0.0, UNIX), frames.Refuse)
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
    assert [frame.reason for frame in replies(said, frames.Refuse)] == [frames.NO_SESSION]
    assert log_events(said) == [("statement.refused", "a statement came by another connection than its session's")]
    assert made.refused(OTHER, frames.Refuse(session, "go away", 1), "203.0.113.9") == []
    assert (made.outlet.in_flight_messages, made.outlet.acked) == (3, 0)
    assert made.statement(ROUTE, statement(session, 2, received=3, released=3, floor=3), 0.0, UNIX) == []
    assert (made.outlet.in_flight_messages, made.outlet.acked) == (0, 3)


def test_a_guess_is_answered_as_a_hit_is() -> None:
    made, session = in_session()
    answers = []
    for name in (session, named("guess")):
        [frame] = replies(made.statement(OTHER, statement(name, 2), 0.0, UNIX), frames.Refuse)
        answers.append((frame.reason, frame.number))
    assert answers[0] == answers[1] == (frames.NO_SESSION, 2)


def test_a_consumer_may_give_its_session_up_and_say_why() -> None:
    made, session = in_session(messages=2)
    actions = made.refused(ROUTE, frames.Refuse(session, "has sent 9 messages: more than its credit", 1), UNIX)
    assert actions[0] == CloseSession(session)
    assert log_events(actions) == [("session.given_up", "has sent 9 messages: more than its credit")]
    assert (made.outlet.unsent_messages, made.outlet.in_flight_messages) == (2, 0)


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
    acked = made.outlet.acked
    actions = made.statement(ROUTE, statement(session, 3, **lie), 0.0, UNIX)
    assert actions[0] == CloseSession(session)
    [refuse] = replies(actions, frames.Refuse)
    assert refuse.session == session and refuse.reason.startswith(reason)
    assert log_events(actions) == [("session.broken", refuse.reason)]
    assert (made.outlet.unsent_messages, made.outlet.in_flight_messages, made.outlet.acked) == (2, 0, acked)
    healed = welcomed(made.hello(ROUTE, hello(number=2), 0.0, UNIX))
    made.ready(healed)
    made.statement(ROUTE, statement(healed, 1), 0.0, UNIX)
    assert len(made.below.dispatch(0.0)) == 1 and made.outlet.in_flight_messages == 2


def test_an_old_copy_of_a_statement_is_no_lie() -> None:
    made, session = in_session(messages=3)
    made.statement(ROUTE, statement(session, 3, received=3, released=3, floor=3), 0.0, UNIX)
    assert made.statement(ROUTE, statement(session, 2, received=2, released=2, floor=2), 0.0, UNIX) == []
    assert list(made.outlet.sessions) == [session]


# ---- whom a producer takes in


TCP = ConsumerPolicy(most=2, highest=2, hosts=("192.0.2.7", "sink.example.org"), folders=())
LINKED = ConsumerPolicy(folders=("/run/user/7/zpipe", "/mnt/runtime/zpipe"))


@pytest.mark.parametrize(
    ("policy", "sender", "inbox"),
    [
        (ConsumerPolicy(), UNIX, "ipc:///run/zpipe/p.b.1/inbox-0123.sock"),
        (ConsumerPolicy(), "127.0.0.1", "ipc:///run/zpipe/p.b.1/x"),
        (LINKED, UNIX, "ipc:///mnt/runtime/zpipe/p.b.1/inbox-0123.sock"),
        (TCP, "127.0.0.1", "tcp://127.0.0.1:40000"),
        (TCP, "127.0.0.1", "tcp://localhost:40000"),
        (TCP, "::1", "tcp://[::1]:65535"),
        (TCP, "198.51.100.1", "tcp://192.0.2.7:1"),
        (TCP, UNIX, "tcp://Sink.Example.Org:40000"),
    ],
)
def test_an_inbox_where_a_consumer_can_be(policy: ConsumerPolicy, sender: str, inbox: str) -> None:
    made = make(StagePolicy(consumers={"b": policy}))
    actions = made.hello(ROUTE, hello(inbox=inbox), 0.0, sender)
    assert welcomed(actions)
    assert [action.address for action in actions if isinstance(action, OpenSession)] == [inbox]


@pytest.mark.parametrize(
    ("policy", "sender", "inbox"),
    [
        (ConsumerPolicy(), UNIX, inbox)
        for inbox in (
            "nonsense",
            "inproc://x",
            "ipc://",
            "ipc://*",
            "ipc://@abstract",
            "ipc:///tmp/x.sock",
            "ipc:///run/zpipe/p.b.1",
            "ipc:///run/zpipe/p.b.1/",
            "ipc:///run/zpipe/p.b.1/..",
            "ipc:///run/zpipe/p.b.1/../p.c.1/inbox.sock",
            "ipc:///run/zpipe/p.b.2/inbox.sock",
            "ipc:///run/zpipe/p.b.1/a\0b",
            "ipc:///run/zpipe/p.b.1/" + "x" * 91,
            "tcp://127.0.0.1:40000",
            "tcp://*:40000",
            "pgm://127.0.0.1;224.0.0.1:5555",
        )
    ]
    + [
        (TCP, "127.0.0.1", inbox)
        for inbox in (
            "tcp://127.0.0.1:0",
            "tcp://127.0.0.1:65536",
            "tcp://127.0.0.1",
            "tcp://127.0.0.2:40000",
            "tcp://198.51.100.1:22",
            "tcp://127.0.0.1;192.0.2.7:40000",
            "ipc:///run/zpipe/p.b.1/inbox.sock",
        )
    ],
)
def test_an_inbox_that_is_no_address_or_somewhere_else_is_refused(
    policy: ConsumerPolicy, sender: str, inbox: str
) -> None:
    made = make(StagePolicy(consumers={"b": policy}))
    assert "inbox" in refused(made.hello(ROUTE, hello(inbox=inbox), 0.0, sender))
    assert not made.outlet.sessions


def test_the_longest_path_of_an_inbox_is_taken() -> None:
    start = "ipc:///run/zpipe/p.b.1/"
    longest = start + "x" * (107 - len(start.removeprefix("ipc://")))
    welcomed(make().hello(ROUTE, hello(inbox=longest), 0.0, UNIX))
    assert "path" in refused(make().hello(ROUTE, hello(inbox=longest + "x"), 0.0, UNIX))


def test_instances_are_numbered_from_1_to_the_last_that_has_an_address() -> None:
    made = make(StagePolicy(consumers={"b": TCP}))
    for instance in (1, 2):
        welcomed(made.hello(ROUTE, hello(instance, inbox="tcp://192.0.2.7:1"), 0.0, "192.0.2.7"))
    assert "has 2 addresses" in refused(made.hello(ROUTE, hello(3, inbox="tcp://192.0.2.7:1"), 0.0, "192.0.2.7"))
    assert "numbered from 1" in refused(make().hello(ROUTE, hello(0), 0.0, UNIX))


@pytest.mark.parametrize("version", [1, frames.VERSION + 1])
def test_another_version_is_refused_by_name_at_both_ends(version: int) -> None:
    said = make().hello(ROUTE, hello(version=version), 0.0, UNIX)
    reason = f"b.1 speaks version {version} of the protocol and a version {frames.VERSION}: update the older one"
    assert [frame.reason for frame in replies(said, frames.Refuse)] == [reason]
    assert log_events(said) == [("hello.refused", reason)]


def test_a_hello_of_another_version_needs_only_what_all_versions_have() -> None:
    least = {"kind": "hello", "version": 3, "pipeline": "p", "stage": "b", "instance": 1, "number": 7}
    for more in ({}, {"secret": "a text", "inbox": 5, "new": True}):
        read = frames.read(cbor.write(least | more))
        assert isinstance(read, frames.Hello)
        [refuse] = replies(make().hello(ROUTE, read, 0.0, UNIX), frames.Refuse)
        assert (refuse.number, "version 3" in refuse.reason) == (7, True)
    for fault in ({"version": frames.VERSION}, {"number": -1}, {"version": "3"}, {"stage": None}):
        with pytest.raises(PeerError):
            frames.read(cbor.write(least | fault))


def test_a_later_minor_version_is_talked_with() -> None:
    welcomed(make().hello(ROUTE, hello(minor=frames.MINOR + 7), 0.0, UNIX))


def test_a_refusal_of_the_longest_texts_can_be_read() -> None:
    longest = "\N{SNOWMAN}" * frames.MAX_TEXT_CHARACTERS
    for more in (
        {"pipeline": longest},
        {"upstream": longest},
        {"outlet": longest},
        {"stage": longest},
        {"inbox": longest},
    ):
        refused(make().hello(ROUTE, frames.Hello(**asdict(hello()) | more), 0.0, UNIX))


def test_invented_instances_are_limited() -> None:
    most = 3
    made = make(StagePolicy(consumers={"b": ConsumerPolicy(most=most)}))
    sessions = [welcomed(made.hello(ROUTE, hello(n), 0.0, UNIX)) for n in range(1, most + 1)]
    assert "is the most there may be" in refused(made.hello(ROUTE, hello(most + 1), 0.0, UNIX))
    welcomed(made.hello(ROUTE, hello(1, number=2), 0.0, UNIX))  # one that is in session may come again
    made.close(sessions[1])
    welcomed(made.hello(ROUTE, hello(most + 1), 0.0, UNIX))
