"""The tap shows what passes, within its budget and for as long as somebody asks, and changes nothing."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.core import actions as act
from zpipe.core import events
from zpipe.core.policy import StagePolicy, TapPolicy
from zpipe.core.stage import Stage
from zpipe.core.telemetry.tap_publisher import Bucket, Passage
from zpipe.core.upstream.upstreams import Identity
from zpipe.core.wire import frames, section
from zpipe.testing import Faults, Node, Simulation, Spec, seeded_bytes


class Tapped(Simulation):
    """`tap`: policy and sections a second to ask every instance for, in every turn; None: nobody asks."""

    def __init__(
        self, specs: list[Spec], asked: int | None, seed: int = 0, faults: Faults | None = None, until: float = 1e9
    ) -> None:
        self.asked = asked
        self.until = until
        self.shown: list[tuple[float, frames.Tap]] = []
        super().__init__(specs, seed, faults)

    def _turned(self, node: Node) -> None:
        if self.asked is not None and self.now < self.until:
            node.stage.tap.ask(self.asked, self.now)
        super()._turned(node)

    def _perform_on_line(self, node: Node, action: act.Action) -> None:
        if isinstance(action, act.Publish) and action.topic == frames.TAP_TOPIC:
            frame = frames.read(action.frame)
            assert isinstance(frame, frames.Tap)
            assert (frame.stage, frame.instance) == node.key
            self.shown.append((self.now, frame))
        super()._perform_on_line(node, action)


def chain(messages: int, tap: TapPolicy | None = None, size: int = 0, seconds: float = 0.001) -> list[Spec]:
    policy = StagePolicy(tap=tap or TapPolicy())
    return [
        Spec("read", messages=messages, policy=policy, size=lambda id: size),
        Spec("map", (("read", ""),), instances=2, policy=policy, seconds=lambda instance: seconds),
        Spec("sink", (("map", ""),), policy=policy),
    ]


WHOLE = TapPolicy(sections=10**6, bytes=10**9)


def test_all_that_passes_is_shown_at_both_ends_within_the_budget() -> None:
    made = Tapped(chain(200, WHOLE), asked=10**6)
    assert made.run() and not made.problems
    wanted = Counter(f"read:{n}" for n in range(200))
    for upstream, consumer in (("read", "map"), ("map", "sink")):
        for stage in (upstream, consumer):
            seen: Counter[str] = Counter()
            for _, frame in made.shown:
                if (frame.stage, frame.upstream, frame.consumer) == (stage, upstream, consumer):
                    assert (frame.pipeline, frame.outlet, frame.attempt) == ("sim", "", 1)
                    assert frame.size == len(frame.body)
                    seen.update(section.decode(frame.body, frame.count)[0])
            assert seen == wanted, (stage, upstream, consumer)
    last: dict[tuple[str, int, str], frames.Tap] = {}
    for _, frame in made.shown:
        last[frame.stage, frame.instance, frame.consumer] = frame
    passed: Counter[tuple[str, str]] = Counter()
    for frame in last.values():
        passed[frame.stage, frame.consumer] += frame.passed
    assert set(passed.values()) == {200}


@pytest.mark.parametrize("seed", range(6))
def test_a_tap_changes_nothing(seed: int) -> None:
    """The same chance with and without: what is stored, when and by which way is the same, whatever goes wrong."""
    faults = Faults(drop=0.05, duplicate=0.05)
    plain = Tapped(chain(150), None, seed, faults)
    tapped = Tapped(chain(150), 1000, seed, faults)
    assert plain.run() and tapped.run()
    assert tapped.shown and not plain.shown
    assert tapped.stored == plain.stored
    assert tapped.now == plain.now
    assert tapped.problems == plain.problems == []


def test_a_redelivery_is_shown_with_its_attempt() -> None:
    made = Tapped(chain(100, WHOLE, seconds=0.01), asked=10**6)
    made.clock.later(0.2, lambda: made.kill(("map", 1)))
    made.clock.later(0.3, lambda: made.boot("map", 1) and None)
    assert made.run() and not made.problems
    again = {frame.attempt for _, frame in made.shown if (frame.upstream, frame.stage) == ("read", "map")}
    assert again == {1, 2}


def test_no_more_sections_than_asked_and_no_more_than_allowed() -> None:
    for asked, allowed in ((5, 5), (10**6, 20)):
        made = Tapped(chain(2000, TapPolicy(sections=20, bytes=10**9)), asked)
        assert made.run()
        by_link: Counter[tuple[str, int, str]] = Counter(
            (frame.stage, frame.instance, frame.consumer) for _, frame in made.shown
        )
        first, end = made.shown[0][0], made.shown[-1][0]
        assert max(by_link.values()) <= allowed * (end - first + 1) + 1
        assert by_link["read", 1, "map"] > allowed, "more than what is saved up: it goes on"


def test_a_large_section_is_mentioned_and_not_shown() -> None:
    made = Tapped(chain(30, TapPolicy(section_bytes=500), size=600), asked=1000)
    assert made.run()
    large = [frame for _, frame in made.shown if frame.upstream == "read"]
    assert {frame.body for frame in large} == {b""}
    assert all(frame.size > 500 for frame in large)


def test_nothing_is_shown_once_nobody_asks() -> None:
    lease_s = TapPolicy().lease_s
    made = Tapped(chain(3000, seconds=0.01), asked=1000, until=1002.0)  # the clock starts at 1000
    assert made.run()
    assert made.now > 1002 + lease_s + 1, "it ran on for long enough to tell"
    assert 1002 < max(at for at, _ in made.shown) < 1002 + lease_s


def test_the_tap_that_wants_most_decides_until_it_is_gone() -> None:
    stage = Stage(Identity("p", "read", 1, "r1"), [], [("", "store")], StagePolicy(), 0.0, seeded_bytes("random"))
    lease_s = stage.policy.tap.lease_s
    stage.tap.ask(50, 0.0)
    stage.tap.ask(5, 1.0)
    assert stage.tap._sections == 50
    stage.tap.ask(5, lease_s)
    assert stage.tap._sections == 5
    stage.tap.ask(10**9, lease_s + 1)
    assert stage.tap._sections == stage.policy.tap.sections


@pytest.mark.parametrize(
    ("what", "kind"),
    [("tap:1", "done"), ("tap:999999999", "done"), ("tap:0", "done")]
    + [
        (what, "refuse")
        for what in ("tap", "tap:", "tap:x", "tap:-1", "tap:1.5", "tap:9999999999", "tap:\u0661", "xtap:1")
    ],
)
def test_what_may_be_asked(what: str, kind: str) -> None:
    stage = Stage(Identity("p", "read", 1, "r1"), [], [("", "store")], StagePolicy(), 0.0, seeded_bytes("random"))
    stage.handle(events.FeedbackReceived(b"route", frames.write(frames.Request(4, what)), "uid 0, pid 1"), 0.0)
    answers = [frames.read(action.frame) for action in stage.turn(0.0) if isinstance(action, act.Reply)]
    assert [(one.kind, one.number) for one in answers] == [(kind, 4)]  # type: ignore[union-attr]


EVENTS = st.lists(st.tuples(st.floats(0, 2), st.integers(0, 2000)), max_size=80)


@given(st.integers(1, 20), st.integers(1, 1000), EVENTS)
def test_a_budget_holds_over_any_time(sections: int, bytes_: int, events: list[tuple[float, int]]) -> None:
    passage = Passage(sections, bytes_, 0.0)
    now = 0.0
    admitted: list[tuple[float, int]] = []
    for pause_s, size in events:
        now += pause_s
        passage.sections.refill(now)
        passage.bytes.refill(now)
        if passage.admits(size):
            admitted.append((now, size))
    for first in range(len(admitted)):
        sizes = 0
        for last in range(first, len(admitted)):
            seconds = admitted[last][0] - admitted[first][0]
            assert last - first + 1 <= sections * (1 + seconds) + 1e-6
            assert sizes <= bytes_ * (1 + seconds) + 1e-6, "but for the last one, which may pass it"
            sizes += admitted[last][1]


@given(st.floats(0.1, 1000), st.lists(st.floats(-1, 10), max_size=30))
def test_a_bucket_never_saves_more_than_a_second(rate: float, pauses: list[float]) -> None:
    bucket = Bucket(rate, 0.0)
    now = 0.0
    for pause_s in pauses:
        now += pause_s
        bucket.refill(now)
        assert bucket.tokens <= max(rate, 1.0)
