"""A source's thread and the stage that it feeds: what is worth a turn of the loop, and how the stage hears of the end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from zpipe.core import events
from zpipe.core.actions import LimitOutputs, StoreDeadLetter
from zpipe.core.policy import StagePolicy
from zpipe.core.stage import Stage
from zpipe.core.upstream.upstreams import Identity
from zpipe.core.wire import section
from zpipe.daemon.plugin import source_thread
from zpipe.daemon.plugin.service_wait import FIRST_S, MAX_S, WORKS_AFTER_S, ServiceWait
from zpipe.daemon.plugin.source_thread import NEVER, SourceThread
from zpipe.errors import Retry, Throttled
from zpipe.hookspecs import Context
from zpipe.messages import BadRecord, Message

DEADLINE_S = 60.0


class Fed:
    """A head stage without a consumer that takes anything, so that all it has emitted stays unsent."""

    def __init__(self, folder: Path, singly: bool = False) -> None:
        self.policy = StagePolicy()
        self.worth_a_turn = min(self.policy.link.section_messages, self.policy.unacked.messages // 4)
        me = Identity("p", "read", 1, "abc", "ipc:///nowhere")
        self.stage = Stage(me, [], [("", "work")], self.policy, 0.0, lambda count: bytes(count))
        self.given: SimpleQueue[Any] = SimpleQueue()
        self.woken = threading.Event()
        self.wakes = self.turns = 0
        self.failures: list[BaseException] = []
        self.opened_after: list[Any] = []
        context = Context("p", "read", 1, "abc", None, folder, folder, logging.getLogger("zpipe"))
        self.wait = ServiceWait(context.log, "postgres")
        self.context = context
        source, woken, turn, failed = self._items, self._wake, self._turn, self.failures.append
        self.source = SourceThread(source, context, self.stage, (), woken, turn, failed, self.wait, singly=singly)
        self.stage.handle(events.Opened(), 0.0)
        for action in self.stage.turn(0.0):
            if isinstance(action, LimitOutputs):
                self.source.raise_limit(action.limit)
        self.source.start()
        self._yielded = 0

    def _wake(self) -> None:
        self.wakes += 1
        self.woken.set()

    def _turn(self) -> None:
        self.turns += 1
        self.woken.set()

    def _items(self, context: Context) -> Iterator[Any]:
        """What it is given; exceptions are raised."""
        self.opened_after.append(context.position)
        for item in iter(self.given.get, None):
            if isinstance(item, Exception):
                raise item
            yield item

    def give(self, count: int, payload: Any = "", yielded: int | None = None) -> None:
        """Until the source has yielded so many more."""
        for number in range(count):
            self.given.put((number, {"n": number, "payload": payload}))
        self._yielded += count if yielded is None else yielded
        pause = threading.Event()
        for _ in range(int(DEADLINE_S / 0.001)):
            if self.source.read[0] == self._yielded:
                return
            pause.wait(0.001)
        raise AssertionError(f"{self.source.read[0]} of {self._yielded} messages were yielded")

    def end(self) -> None:
        self.woken.clear()
        self.given.put(None)
        assert self.woken.wait(DEADLINE_S), "the end wakes the loop"


def taken_in(monkeypatch: pytest.MonkeyPatch) -> list[events.SourceYielded]:
    """What the stage is handed from now on."""
    taken: list[events.SourceYielded] = []
    handle = Stage.handle

    def keep(stage: Stage, event: events.Event, now: float) -> bool:
        if isinstance(event, events.SourceYielded):
            taken.append(event)
            return True
        return handle(stage, event, now)

    monkeypatch.setattr(Stage, "handle", keep)
    return taken


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Fed]:
    made = Fed(tmp_path)
    yield made
    made.given.put(None)


def test_with_nothing_unsent_one_message_is_worth_a_turn(fed: Fed) -> None:
    assert fed.source.turn(1.0) == NEVER
    fed.give(1)
    assert fed.woken.wait(DEADLINE_S) and fed.source.turn(1.0) == 1.0
    fed.source.feed(-1.0)
    assert (fed.stage.counts.received, fed.stage.downstream.unsent, fed.source.turn(1.0)) == (1, 1, NEVER)


def test_with_something_unsent_a_section_is_worth_a_turn_and_no_message_less(fed: Fed) -> None:
    fed.give(1)
    fed.source.feed(-1.0)
    fed.source.turn(1.0)
    fed.woken.clear()
    fed.give(fed.worth_a_turn - 1)
    fed.source.feed(-1.0)
    assert (fed.source.turn(1.0), fed.woken.is_set(), fed.stage.counts.received) == (NEVER, False, 1)
    fed.give(1)
    assert fed.woken.wait(DEADLINE_S) and fed.source.turn(1.0) == 1.0
    fed.source.feed(-1.0)
    assert fed.stage.counts.received == 1 + fed.worth_a_turn


def test_only_a_message_that_comes_alone_may_be_sent_by_the_source(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_thread, "QUICK_S", 0.0)
    fed.give(1)
    assert (fed.turns, fed.wakes) == (1, 0)
    fed.give(1)
    assert (fed.turns, fed.wakes) == (1, 1), "the one before has not been taken"
    fed.source.feed(-1.0)
    fed.give(fed.worth_a_turn)
    assert fed.turns == 1, "something is unsent"


def test_a_quick_source_leaves_each_message_to_the_loop(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_thread, "QUICK_S", DEADLINE_S)
    monkeypatch.setattr(Stage, "has_unsent", False)
    for _ in range(3):
        fed.give(1)
        fed.source.feed(-1.0)
    assert fed.turns == 0 and fed.wakes > 0


def test_a_quick_source_wakes_the_loop_a_few_times_a_section(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_thread, "QUICK_S", DEADLINE_S)
    fed.give(fed.policy.link.unsent_messages)
    assert fed.wakes < 10 * fed.policy.link.unsent_messages / fed.worth_a_turn


def test_a_quick_source_is_not_read_beyond_the_limit(fed: Fed) -> None:
    """But for the one message that it waits with."""
    most = fed.policy.link.unsent_messages
    fed.give(2 * most, yielded=most)
    assert fed.given.qsize() in (most - 1, most)


def test_what_a_source_gives_in_a_run_is_taken_while_it_waits(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing unsent each message is to leave soon, and the source wakes the loop at the end of the run only."""
    monkeypatch.setattr(Stage, "has_unsent", False)
    monkeypatch.setattr(source_thread, "QUICK_S", DEADLINE_S)
    fed.give(100)
    fed.source.feed(-1.0)
    assert fed.stage.counts.received == 100
    assert fed.source.turn(1.0) == 1.0 + source_thread.LOOK_S


def test_a_run_that_gives_nothing_lets_the_loop_sleep_until_its_next_message(
    fed: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stage, "has_unsent", False)
    monkeypatch.setattr(source_thread, "QUICK_S", DEADLINE_S)
    fed.give(100)
    fed.source.feed(-1.0)
    for look in range(1, source_thread.LOOKS):
        assert fed.source.turn(float(look)) == look + source_thread.LOOK_S
    assert fed.source.turn(100.0) == NEVER
    fed.woken.clear()
    fed.given.put((100, {}))
    fed.given.put((101, {}))
    assert fed.woken.wait(DEADLINE_S), "the first message wakes the loop, though the run goes on"
    assert fed.source.turn(101.0) == 101.0
    fed.source.feed(-1.0)
    assert fed.stage.counts.received > 100
    assert fed.source.turn(102.0) != NEVER, "it looks again"


def test_a_snapshot_counts_all_that_was_yielded(fed: Fed) -> None:
    fed.give(1)
    fed.source.feed(-1.0)
    fed.give(2)
    fed.source.feed(fed.stage.snapshot_at)
    assert fed.stage.counts.received == 3


def test_the_end_comes_after_all_messages_and_once(fed: Fed) -> None:
    fed.give(1)
    fed.source.feed(-1.0)
    fed.give(2)
    fed.end()
    assert fed.source.turn(1.0) == 1.0
    fed.source.feed(-1.0)
    assert fed.stage.counts.received == 3 and fed.stage.source is not None and fed.stage.source.exhausted
    assert (fed.source.turn(1.0), fed.failures) == (NEVER, [])


def test_what_cannot_be_named_is_a_failure_and_no_end(fed: Fed) -> None:
    fed.given.put((object(), 1))
    fed.end()
    fed.source.feed(-1.0)
    assert [str(failure).partition(":")[0] for failure in fed.failures] == [
        "zpipe_source yields what cannot be sent or named"
    ]
    assert fed.stage.source is not None and not fed.stage.source.ended


def test_a_bad_record_in_a_message_has_its_reason_and_its_id(fed: Fed) -> None:
    fed.given.put((1, BadRecord("no JSON", b"x")))
    fed.given.put(Message(BadRecord("no CSV", b"y"), id="read:own", position=2, outlet="of what"))
    fed.end()
    fed.source.feed(0.0)
    letters = [action.letter for action in fed.stage.turn(0.0) if isinstance(action, StoreDeadLetter)]
    assert [(letter.id, letter.reason, letter.raw) for letter in letters] == [
        ("read:1", "no JSON", b"x"),
        ("read:own", "no CSV", b"y"),
    ]


@pytest.mark.parametrize(
    ("items", "payloads"),
    [
        ([(1, "a"), (2, "b"), (2, "c")], ["a", "b", "c"]),
        ([(1, "a"), (True, "b"), (1.0, "c")], ["a", "b", "c"]),
        ([(1, "a"), ("1", "b"), ([1], "c")], ["a", "b", "c"]),
        ([(1, "a"), (2, BadRecord("no JSON", b"x")), (3, "c")], ["a", "c"]),
    ],
    ids=["a position comes again", "one that Python takes for another", "one of a list", "a bad record"],
)
def test_each_payload_is_sent_whatever_the_positions_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, items: list[Any], payloads: list[Any]
) -> None:
    """Plain payloads are taken together, by their positions, where these are plain, too."""
    emitted = taken_in(monkeypatch)
    fed = Fed(tmp_path)
    for item in items:
        fed.given.put(item)
    fed.end()
    fed.source.feed(-1.0)
    sent = [section.decode(chunk.body, chunk.messages) for batch in emitted for chunk in batch.chunks]
    assert [payload for columns in sent for payload in columns.payloads] == payloads
    assert emitted[-1].position == items[-1][0] and sum(batch.count for batch in emitted) == len(items)


@pytest.mark.parametrize("other", [False, True], ids=["plain ones alone", "and a Message"])
def test_a_source_that_hears_of_single_messages_has_each_told_by_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: bool
) -> None:
    emitted = taken_in(monkeypatch)
    fed, sections = Fed(tmp_path, singly=True), 3
    if other:
        fed.given.put(Message({}, position="first"))
        fed.give(0, yielded=1)
    fed.give(sections * fed.policy.link.section_messages)
    fed.end()
    fed.source.feed(-1.0)
    told = [id for batch in emitted for id in batch.ids or ()]
    assert told == ["read:first"] * other + [f"read:{n}" for n in range(sections * fed.policy.link.section_messages)]
    for batch in emitted:
        ids = batch.ids or []
        assert batch.count == len(ids) and len(batch.chunks) >= sections
        for chunk in batch.chunks:
            assert section.decode(chunk.body, chunk.messages).ids == [ids[owner] for owner in chunk.owners or ()]


def test_large_messages_are_encoded_about_once(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections are sized by the messages before, and one that is too large is cut at once to what fits."""
    encoded: list[int] = []
    encode = section.encode

    def counted(ids: list[str], *columns: Any) -> bytes:
        encoded.append(len(ids))
        return encode(ids, *columns)

    monkeypatch.setattr(section, "encode", counted)
    count, payload = 256, bytes(fed.policy.link.parcel_bytes // 8)
    fed.give(count, payload)
    fed.source.feed(1.0)
    assert sum(encoded) <= 3 * count, "as a whole, as one section, and cut to what fits"
    encoded.clear()
    fed.give(count, payload)
    fed.source.feed(2.0)
    assert count - fed.source._worth_a_turn < sum(encoded) <= count, "by then it is known how large they are"


# A service that is not there


@pytest.mark.parametrize("answer", [Throttled(0.0, "connection refused"), Retry(0.0, "connection refused")])
def test_a_source_whose_service_goes_is_opened_again_after_what_it_gave(fed: Fed, answer: Exception) -> None:
    fed.give(3)
    fed.given.put(answer)
    fed.give(2)
    assert fed.opened_after == [None, 2]
    fed.given.put(answer)
    fed.given.put(answer)  # it has given nothing meanwhile
    fed.given.put((7, {"n": 7}))
    fed.end()
    fed.source.feed(-1.0)
    assert fed.opened_after == [None, 2, 1, 1]
    assert (fed.stage.counts.received, fed.failures, fed.wait.outage.text) == (6, [], "")


def test_what_a_source_waits_for_is_shown_until_it_ends(fed: Fed) -> None:
    fed.woken.clear()
    fed.given.put(Throttled(3000.0, "connection refused"))
    pause = threading.Event()
    for _ in range(int(DEADLINE_S / 0.001)):
        if fed.wait.outage.text:
            break
        pause.wait(0.001)
    assert fed.wait.outage.text == "it waits for postgres: connection refused; next try in 3000 s"
    fed.source.close()
    assert fed.woken.wait(DEADLINE_S) and fed.opened_after == [None] and fed.failures == []


class Stopping(threading.Event):
    """Waits for nothing, and notes for how long it was to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return False


def test_waits_double_where_the_plugin_names_no_time_and_begin_anew_once_it_works() -> None:
    wait, stopping = ServiceWait(logging.getLogger("zpipe"), "postgres"), Stopping()
    for answer in [Throttled(reason="away")] * 8 + [Throttled(7.0)]:
        wait.wait(answer, stopping)
    assert stopping.waits == [FIRST_S, 1.0, 2.0, 4.0, 8.0, 16.0, MAX_S, MAX_S, 7.0]
    wait.reached()
    assert wait.outage.text == ""
    wait.wait(Throttled(), stopping)
    assert stopping.waits[-1] == FIRST_S


def test_a_try_that_finds_nothing_to_read_counts_as_reached_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    wait = ServiceWait(logging.getLogger("zpipe"), "postgres")
    assert wait.turn(now) == NEVER
    wait.wait(Throttled(1.0, "away"), Stopping())
    assert wait.turn(now) == now + WORKS_AFTER_S and wait.outage.text
    now += WORKS_AFTER_S
    assert wait.turn(now) == NEVER and not wait.outage.text
