"""Random pipelines and what goes wrong in them, as plain data whose repr plays again.

`make` draws from a `random.Random`: one with a seed, or one of hypothesis, which can then shrink.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from zlib import crc32

from zpipe.core.policy import BatchPolicy, Bound, DeadPolicy, LinkPolicy, RetryPolicy, StagePolicy
from zpipe.testing import Faults, Spec

BIG = 10**6


@dataclass(frozen=True)
class Case:
    """One stage. `many`, `drop`, `fail`, `flaky`, `bad`, `side`, `big`: every n-th id is expanded, filtered, fails always,
    fails once, cannot be read, leaves by the outlet "side", has `big_bytes`, ends the process (0: none)."""

    name: str
    inputs: tuple[tuple[str, str], ...] = ()
    instances: int = 1
    messages: int = 0
    policy: StagePolicy = field(default_factory=StagePolicy)
    service_s: float = 0.001
    slow: float = 1.0
    many: int = 0
    drop: int = 0
    fail: int = 0
    flaky: int = 0
    bad: int = 0
    side: int = 0
    big: int = 0
    big_bytes: int = 0
    merge: bool = False
    early: bool = False
    poison: int = 0

    def hit(self, what: str, every: int, id: str) -> bool:
        return every > 0 and crc32(f"{self.name}/{what}/{id}".encode()) % every == 0

    def plan(self, id: str, attempt: int) -> list[str]:
        if self.hit("fail", self.fail, id) or (attempt == 1 and self.hit("flaky", self.flaky, id)):
            raise ValueError(id)
        if self.hit("drop", self.drop, id):
            return []
        if self.hit("many", self.many, id):
            return [f"{id}.{n}" for n in range(crc32(id.encode()) % 4)]
        return [id]

    def route(self, id: str) -> str:
        return "side" if self.hit("side", self.side, id) else ""

    def unreadable(self, id: str) -> bool:
        return self.hit("bad", self.bad, id)

    def size(self, id: str) -> int:
        return self.big_bytes if self.hit("big", self.big, id) else crc32(id.encode()) % 20

    def poisonous(self, id: str) -> bool:
        return self.hit("poison", self.poison, id)

    def seconds(self, instance: int) -> float:
        return self.service_s * (self.slow if instance == 1 else 1.0)

    def spec(self) -> Spec:
        return Spec(
            self.name,
            self.inputs,
            self.instances,
            self.policy,
            self.seconds,
            self.plan,
            self.messages,
            self.unreadable,
            self.route,
            self.size,
            self.merge,
            self.early,
            self.poisonous,
        )


@dataclass(frozen=True)
class Event:
    """`what` happens `at` seconds after the start: kill, freeze, leave, pause, join, session, line, drain.

    seconds  until a killed instance, or one that left, is started again; how long it is frozen, paused, its line down
    """

    at: float
    what: str
    stage: str
    instance: int
    seconds: float = 0.0


@dataclass(frozen=True)
class Scenario:
    seed: int
    cases: tuple[Case, ...]
    faults: Faults
    events: tuple[Event, ...]

    @property
    def gentle(self) -> bool:
        """Nothing happens by which a message may be done twice."""
        return not (self.faults.any or any(c.poison for c in self.cases)) and {e.what for e in self.events} <= set(
            GENTLE
        )

    @property
    def ordered(self) -> bool:
        """One consumer and one worker all the way, and nothing tried again."""
        cases = self.cases
        alone = all(
            c.instances == c.policy.workers == 1 and not c.fail and not c.flaky and len(c.inputs) < 2 for c in cases
        )
        return alone and self.gentle and {e.what for e in self.events} <= {"drain"}

    def without(self, index: int) -> Scenario:
        return replace(self, events=self.events[:index] + self.events[index + 1 :])


# ---- what has to come of it


@dataclass
class Expected:
    """(stage, id, path) that sinks store, and (stage, id) of dead letters, with how often."""

    stored: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    dead: Counter[tuple[str, str]] = field(default_factory=Counter)


class Expectation:
    """Follows each record through the stages."""

    def __init__(self, cases: tuple[Case, ...]) -> None:
        self._cases = cases
        self._stages = {case.name: case for case in cases}
        self._links = {c.name: [(o, d.name) for d in cases for up, o in d.inputs if up == c.name] for c in cases}

    def of(self, records: dict[str, tuple[int, int]]) -> Expected:
        """`records`: from and to which position each head reads."""
        expected = Expected()
        for head, (start, stop) in records.items():
            case = self._stages[head]
            for id in (f"{head}:{n}" for n in range(start, stop)):
                if case.unreadable(id):
                    expected.dead[head, id] += 1
                else:
                    self._send(case, id, head, expected)
        return expected

    def _send(self, case: Case, id: str, path: str, expected: Expected) -> None:
        for outlet, consumer in self._links[case.name]:
            if outlet == case.route(id):
                self._receive(self._stages[consumer], id, path, expected)

    def _receive(self, case: Case, id: str, path: str, expected: Expected) -> None:
        attempts = case.policy.retry.attempts
        if case.poisonous(id):
            expected.dead[case.name, id] += 1
            return
        try:
            made = case.plan(id, attempts)
        except ValueError:
            expected.dead[case.name, id] += 1
            return
        path = f"{path}>{case.name}"
        if not self._links[case.name]:
            expected.stored[case.name, id, path] += 1
        for one in made if self._links[case.name] else ():
            self._send(case, one, path, expected)


# ---- chance


def make(chance: random.Random, kinds: str = "all") -> Scenario:
    """A scenario by `chance`. `kinds`: all, storm (many events), broken (deep queues whose connections break),
    gentle (no faults, nothing violent), calm (gentle, and in order)."""
    cases: list[Case] = []
    count = chance.choice([2, 2, 3, 3, 4, 5])
    for number in range(count):
        cases.append(_case(chance, number, cases, count, kinds))
    cases = [_bounded(case, cases, chance) for case in cases]
    cases = [_merging(case, cases, chance) for case in cases]
    faults = Faults() if kinds in ("gentle", "calm") else _faults(chance)
    whats = {"gentle": GENTLE, "calm": ("drain",), "broken": ("session", "session", "line")}.get(kinds, VIOLENT)
    events = 60 if kinds == "storm" else 20 if kinds == "broken" else chance.choice([0, 1, 2, 3, 5, 10, 20])
    return Scenario(chance.randrange(10**6), tuple(cases), faults, tuple(_events(chance, cases, whats, events)))


DEATHS = 10
"""More than events would have a message be in a call for by chance, again and again."""
GENTLE = ("leave", "join", "drain", "pause")
VIOLENT = (
    ("kill",) * 6 + ("freeze",) * 3 + ("leave",) * 2 + ("session",) * 3 + ("line",) * 2 + ("join", "drain", "pause")
)


def _case(chance: random.Random, number: int, before: list[Case], count: int, kinds: str) -> Case:
    pick = chance.choice
    calm, deep = kinds == "calm", kinds == "broken"
    name = "abcdefgh"[number]
    head = number == 0 or (number == 1 and count > 2 and not calm and chance.random() < 0.15)
    inputs: list[tuple[str, str]] = []
    for _ in range(0 if head else 1 if calm else pick([1, 1, 1, 2])):
        upstream = before[-1] if calm or chance.random() < 0.5 else pick(before)
        link = (upstream.name, pick(["", "side"]) if upstream.side else "")
        if link not in inputs:
            inputs.append(link)
    wide = deep or chance.random() < 0.5
    policy = StagePolicy(
        unacked=Bound(1000, BIG) if wide else Bound(pick([1, 2, 20, 1000]), pick([300, BIG, BIG])),
        retry=RetryPolicy(attempts=3, delay_s=pick([0.001, 0.05, 1.0]), deaths=DEATHS),
        dead=DeadPolicy(storm=1.0),  # nobody is there to have a stage go on
        workers=1 if calm else pick([1, 1, 2, 4]),
        link=LinkPolicy(
            parcel_messages=pick([1, 4, 64, 512]),
            parcel_bytes=pick([100, 1000, BIG]),
            unsent_messages=1024 if wide else pick([1, 4, 1024]),
            unsent_bytes=BIG if wide else pick([200, BIG]),
            queue_time_s=0.5 if deep else pick([0.005, 0.05]),
            codec=pick(["msgpack", "msgpack", "cbor"]),
        ),
        batch=None if head or chance.random() < 0.65 else _batch(chance),
    )
    fails = 0 if calm else pick([0, 0, 7, 3])
    return Case(
        name,
        tuple(inputs),
        instances=1 if head or calm else pick([1, 1, 2, 3]),
        messages=(200 if deep else pick([0, 1, 7, 50, 50, 200, 200])) if head else 0,
        policy=policy,
        service_s=pick([0.0, 0.0001, 0.001, 0.02]),
        slow=pick([1, 1, 10]),
        many=0 if head else pick([0, 0, 5, 2]),
        drop=0 if head else pick([0, 0, 7, 2]),
        fail=fails,
        flaky=0 if calm else pick([0, 0, 4]),
        bad=pick([0, 0, 10]) if head else 0,
        side=pick([0, 0, 2]) if number < count - 1 else 0,
        big=pick([0, 0, 5, 20]),
        big_bytes=pick([50, 400, 3000]),
        early=pick([False, True]),
        poison=pick([0, 0, 0, 40]) if not (head or deep or kinds in ("gentle", "calm")) else 0,
    )


def _batch(chance: random.Random) -> BatchPolicy:
    return BatchPolicy(chance.choice([2, 3, 10, 100]), chance.choice([200, BIG]), chance.choice([0.05, 30.0, 600.0]))


def _bounded(case: Case, cases: list[Case], chance: random.Random) -> Case:
    """With a queue of at least one message a producer, those that may join included."""
    producers = sum(c.instances + 1 for c in cases for up, _ in case.inputs if up == c.name)
    queue = Bound(max(producers, chance.choice([1, 4, 10, 1000, 1000])), chance.choice([250, 1000, BIG, BIG]))
    return replace(case, policy=replace(case.policy, queue=queue))


def _merging(case: Case, cases: list[Case], chance: random.Random) -> Case:
    """A batch stage may merge if its only consumer is a sink that takes whatever id comes."""
    below = [c for c in cases if any(up == case.name for up, _ in c.inputs)]
    if (
        case.policy.batch is None
        or len(below) != 1
        or below[0] is not cases[-1]
        or case is cases[-1]
        or chance.random() < 0.5
    ):
        return case
    sink = cases[-1]
    if any(up == sink.name for c in cases for up, _ in c.inputs) or case.side:
        return case
    cases[-1] = replace(sink, fail=0, flaky=0, poison=0)
    return replace(case, merge=True, many=0)


def _faults(chance: random.Random) -> Faults:
    pick = chance.choice
    return Faults(
        drop=pick([0.0, 0.0, 0.1, 0.3]),
        duplicate=pick([0.0, 0.1]),
        delay_s=pick([0.0, 0.0, 0.01, 0.2]),
        reorder=pick([False, True]),
        connect_s=pick([0.0, 0.3]),
        disk=pick([0.0, 0.3]),
    )


def _events(chance: random.Random, cases: list[Case], whats: tuple[str, ...], count: int) -> Iterator[Event]:
    """Some events, as close together as chance has it; mostly few, so that failures are easy to read."""
    at = 0.0
    work_s = max(case.messages for case in cases) * sum(case.service_s for case in cases)
    spread_s = chance.choice([0.01, 0.1, 0.5, 2.0, work_s / (count + 1), work_s / (count + 1)])
    drained = False
    for _ in range(count):
        at += chance.random() * 2 * spread_s
        what = chance.choice(whats)
        if what == "drain" and drained:
            continue
        drained |= what == "drain"
        case = chance.choice(cases)
        instance = chance.randrange(case.instances) + 1
        seconds = {"freeze": 12.0, "line": 1.0}.get(what, chance.choice([0.02, 1.0, 8.0]))
        yield Event(round(at, 4), what, case.name, instance, round(chance.random() * seconds, 4))
