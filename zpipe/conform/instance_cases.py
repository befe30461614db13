"""Levels 2 and 3: leaving, requests, snapshots, kills; lowered credit and the tap. Cases 33 to 43.

Each function is a case: what it sends, and what has to come. Must not live here: how a neighbour speaks.
"""

from __future__ import annotations

from typing import Any

from zpipe.conform.cases import case
from zpipe.conform.downstream import Downstream
from zpipe.conform.scene import QUEUE_MESSAGES, START_S, Scene
from zpipe.conform.upstream import Upstream

LONG_S = 30.0
STRESS_S = 600.0
FLOOD_MESSAGES = 100_000
FLOOD_KILLS = 21


def _operated(scene: Scene) -> tuple[Upstream, Downstream]:
    """The usual scene, and somebody who can ask something of the stage: its consumer, or an operator where it has none."""
    up, down = scene.linked()
    if down is None:
        down = scene.downstream()
        down.habits.greeting = False
        scene.wait(lambda: down.connected and down.announcements, "a feedback and a control socket")
    return up, down


def _ask(scene: Scene, down: Downstream, what: str) -> None:
    """Waits for the answer of a request that has to be met."""
    number = len(down.dones) + 100
    down.request(what, number)
    scene.wait(lambda: any(one.number == number for one in down.dones), f"an answer `done` to {what!r}")


@case(33, "`returned` rows come once each, before the acks, with the attempt unchanged", section="8", level=2)
def returned(scene: Scene) -> None:
    up, down = _operated(scene)
    _ask(scene, down, "pause")
    up.feed([{"n": n} for n in range(10)])
    session = up.open_session
    scene.wait(lambda: session.newest.received == session.sequence > 0, "all received")
    scene.allow_exit()
    scene.programs[1].terminate()
    scene.wait(lambda: session.newest.leaving, "a statement that says `leaving`")
    scene.wait(lambda: len(up.unsent) == 10, "all ten messages handed back, since none was started")
    rows = [one for one in session.statements if one.returned]
    scene.require(all(one.reply for one in rows[:1]), "`reply`, until they are confirmed", rows[0])
    scene.require({one.attempt for one in up.unsent} == {1}, "attempt 1 as before", up.unsent[0].attempt)
    scene.require(
        [one.number for one in up.unsent] == list(range(1, 11)), "in order", [one.number for one in up.unsent]
    )
    scene.require(not up.acked, "no ack: nothing was done", up.acked)
    scene.wait_for_exit(scene.programs[1], "it exits when that is confirmed")


@case(34, "parcels that come after `leaving` are handed back", section="10", level=2)
def parcels_after_leaving(scene: Scene) -> None:
    up, down = _operated(scene)
    up.feed([{"n": 0}])
    scene.wait(lambda: up.acked == {1}, "an ack")
    _ask(scene, down, "pause")
    session = up.open_session
    scene.wait(
        lambda: session.newest.limit_messages >= session.sent_messages + 3,
        "credit for three messages more",
    )
    up.feed([{"n": 1}])
    scene.wait(lambda: session.newest.received == 2, "the second parcel received")
    up.habits.confirming = False
    scene.allow_exit()
    scene.programs[1].terminate()
    scene.wait(lambda: session.newest.leaving, "a statement that says `leaving`")
    up.send(up.make([{"n": 2}, {"n": 3}]), session)
    scene.wait(
        lambda: {2, 3, 4} <= {one.number for one in up.unsent}, "these two handed back as well as the one before"
    )
    up.habits.confirming = True
    scene.wait_for_exit(scene.programs[1], "it exits when that is confirmed")
    scene.require(up.acked == {1}, "no further ack: nothing was done", up.acked)


@case(35, "leaving without a consumer is over in 5 s, and acks nothing", section="10", level=2, kinds=("map",))
def leaving_alone(scene: Scene) -> None:
    up = scene.upstream()
    scene.start()
    scene.wait_for_session(up)
    up.feed([{"n": 1}, {"n": 2}, {"n": 3}])
    scene.wait(lambda: up.session is not None and up.session.newest.released, "work")
    scene.programs[1].terminate()
    scene.wait_for_exit(scene.programs[1], "it exits though nobody takes its outputs", LONG_S)
    scene.require(not up.acked, "no ack of what had outputs", up.acked)


@case(36, "pause stops work, not heartbeats", section="5.10", level=2)
def pause(scene: Scene) -> None:
    up, down = _operated(scene)
    _ask(scene, down, "pause")
    up.feed([{"n": 1}])
    scene.heartbeats(up)
    scene.announcements(down)
    arrived = down.ids if scene.kind == "map" else scene.stored()
    scene.require(not arrived and not up.acked, "no work while it is paused", arrived)
    _ask(scene, down, "resume")
    scene.wait(lambda: up.acked == {1}, "work again after `resume`")


@case(37, "an unknown request is refused", section="5.10", level=2)
def unknown_request(scene: Scene) -> None:
    _, down = _operated(scene)
    down.request("no-such-request", 77)
    scene.wait(lambda: any(one.number == 77 for one in down.refuses), "a refuse with the request's number")
    refuse = down.refuses[-1]
    scene.require(refuse.reason and refuse.session == b"", "a reason, and no session", refuse)


@case(38, "the identities hold in every snapshot, under kills too", section="5.9", level=2)
def identities(scene: Scene) -> None:
    up, down = _operated(scene)
    total = 3000
    up.feed([{"n": n} for n in range(total)])
    for kill in range(1, 4):
        scene.wait(lambda kill=kill: len(up.acked) >= kill * total // 4, "progress", LONG_S)  # type: ignore[misc]
        scene.programs[1].kill()
        scene.start()
    scene.wait(lambda: len(up.acked) == total, "acks of all", START_S)
    before = len(down.snapshots)
    scene.wait(lambda: len(down.snapshots) > before + 1, "snapshots")
    for snapshot in down.snapshots:
        _check_identities(scene, snapshot)


def _check_identities(scene: Scene, snapshot: dict[str, Any]) -> None:
    names = ("completed", "filtered", "dead", "returned", "in_process", "queued")
    missing = [name for name in ("received", "state", "incarnation", "links", *names) if name not in snapshot]
    scene.require(not missing, "every key that a snapshot has to have", f"without {missing}")
    parts = {name: snapshot[name] for name in names}
    scene.require(snapshot["received"] == sum(parts.values()), f"received = {snapshot['received']} in parts", parts)
    for link in snapshot["links"]:
        parts = {name: link[name] for name in ("acked", "in_flight", "unsent")}
        scene.require(link["produced"] == sum(parts.values()), f"produced = {link['produced']} in parts", parts)


@case(39, "paused, rates and time are in the snapshot", section="5.9", level=2)
def snapshot_keys(scene: Scene) -> None:
    _, down = _operated(scene)
    _ask(scene, down, "pause")
    before = len(down.snapshots)
    scene.wait(lambda: any(one.get("paused") for one in down.snapshots[before:]), "a snapshot that says `paused`")
    last = down.snapshots[-1]
    missing = [name for name in ("at", "rate_in", "rate_out", "pid", "version") if name not in last]
    scene.require(not missing, "the time, the rates, pid and version", f"without {missing}")
    _ask(scene, down, "resume")
    before = len(down.snapshots)
    scene.wait(
        lambda: any(not one.get("paused", False) for one in down.snapshots[before:]), "and one that does not any more"
    )


@case(40, "lowered credit is never granted twice", section="7", level=3)
def lowered_credit(scene: Scene) -> None:
    first, down = scene.linked()
    if down is not None:
        down.habits.acking = down.habits.granting = False
    scene.heartbeats(first)
    first.habits.confirming = False
    second = scene.upstream(2)
    scene.wait_for_session(second)
    second.feed([{"n": n} for n in range(3 * QUEUE_MESSAGES)])
    second.habits.need_bytes = 1
    sessions = (first.session, second.session)

    def total() -> int:
        return sum(one.held_or_granted for one in sessions if one is not None and one.open)

    most = 0

    def within() -> bool:
        nonlocal most
        most = max(most, total())
        return most > QUEUE_MESSAGES

    for _ in range(3):
        count = len(second.session.statements) if second.session is not None else 0
        scene.wait(
            lambda count=count: within() or second.session is None or len(second.session.statements) > count + 1,  # type: ignore[misc]
            "more statements",
        )
    scene.require(most <= QUEUE_MESSAGES, f"at most {QUEUE_MESSAGES} messages granted or held in both sessions", most)
    first.habits.confirming = True
    scene.wait(
        lambda: second.session is not None and second.session.newest.limit_messages > QUEUE_MESSAGES // 2,
        "once the lower limit of the first is confirmed, its room goes to the second",
        LONG_S,
    )
    scene.require(total() <= QUEUE_MESSAGES, f"still at most {QUEUE_MESSAGES}", total())


@case(41, "two instances, one of them killed: everything arrives, and the counts add up", section="8", level=2)
def two_instances(scene: Scene) -> None:
    up, down = scene.linked()
    downs = [down] if down is not None else []
    if down is not None:
        downs.append(scene.downstream(2, of=2))
    scene.start(2)
    scene.wait(lambda: {one.instance for one in up.hellos} == {1, 2}, "a hello of both instances", START_S)
    total = 2000
    up.feed([{"n": n} for n in range(total)])
    scene.wait(lambda: len(up.acked) >= total // 4, "progress", LONG_S)
    killed = scene.programs.pop(1)
    killed.kill()
    scene.wait(lambda: len(up.acked) == total, "acks of all, by the other instance", LONG_S)
    arrived = {id for one in downs for id in one.ids} if downs else set(scene.stored())
    scene.require(len(arrived) == total, f"all {total} messages", len(arrived))
    for one in downs:
        for snapshot in one.snapshots:
            _check_identities(scene, snapshot)


@case(
    42, f"{FLOOD_MESSAGES:,} messages under random kills of all three: a keyed sink has each once", section="8", level=2
)
def flood(scene: Scene) -> None:
    up, down = scene.linked()
    ids = [f"flood:{n}" for n in range(FLOOD_MESSAGES)]
    up.unsent.extend(up.make(({"n": n} for n in range(FLOOD_MESSAGES)), ids))
    arrived: set[str] = set()
    acked: set[str] = set()
    names = {item.number: item.id for item in up.unsent}

    def gather() -> int:
        acked.update(names[number] for number in up.acked)
        up.acked.clear()
        return len(acked)

    for kill in range(1, FLOOD_KILLS + 1):
        goal = kill * FLOOD_MESSAGES // (FLOOD_KILLS + 1)
        scene.wait(lambda goal=goal: gather() >= goal, f"acks of {goal} messages", STRESS_S)  # type: ignore[misc]
        if kill % 3 == 0:
            scene.programs[1].kill()
            scene.start()
        elif kill % 3 == 1 or down is None:
            left = [name for name in (one.id for one in _left(up)) if name not in acked]
            scene.remove(up)
            up = scene.upstream()
            up.unsent.extend(up.make(({"n": 0} for _ in left), left))
            names = {item.number: item.id for item in up.unsent}
        else:
            arrived.update(down.ids)
            scene.remove(down)
            down = scene.downstream()
    scene.wait(lambda: gather() == FLOOD_MESSAGES, "acks of all", STRESS_S)
    arrived.update(down.ids if down is not None else scene.stored())
    scene.require(arrived == set(ids), f"all {len(ids)} messages, and no other", f"{len(arrived)} ids")


def _left(up: Upstream) -> list[Any]:
    """What a restarted source would read again, in order."""
    items = [one for session in up.sessions for sent in session.parcels.values() for one in sent]
    return sorted([*items, *up.unsent], key=lambda one: one.number)


@case(43, "a tap shows sections that pass, for as long as it is asked for", section="5.11", level=3)
def tap(scene: Scene) -> None:
    up, down = _operated(scene)
    _ask(scene, down, "tap:100")
    up.feed([{"n": 1}])
    scene.wait(
        lambda: any(one.upstream == "up" and one.body for one in down.taps), "a copy of the section that came in"
    )
    shown = next(one for one in down.taps if one.upstream == "up")
    scene.require(shown.consumer == "work" and shown.count == 1 and shown.attempt == 1, "the link, and its row", shown)
