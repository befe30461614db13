"""The thread a source runs on, and gathering what it yields into sections.

Iterating `zpipe_source` belongs here, holding it up, and making ids of positions. Must not live here: what becomes of positions,
which is the core's.

The source's thread only appends to a deque. The loop takes what is there and encodes it. So an idle pipeline gets each message
at once, a busy one gets full sections. For a message that comes alone, while the loop waits, the source's thread takes its turn.

A quick source is read in runs, which wake the loop once, so meanwhile the loop looks by a timer. After LOOKS looks in vain it
sleeps, and the next message wakes it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from typing import Any

from zpipe.core.events import SourceEnded, SourceYielded
from zpipe.core.policy import LinkPolicy
from zpipe.core.stage import Stage
from zpipe.core.wire import cbor, section
from zpipe.core.work.task import CallHistory, Chunk, DeadLetter, Failure
from zpipe.daemon.plugin.outputs import OutputSections, check_message, encode_all, fitting_messages
from zpipe.daemon.plugin.service_wait import ServiceWait
from zpipe.daemon.plugin.task_run import check_outlet
from zpipe.daemon.service.process_memory import LARGE_MESSAGE_BYTES, keep_freed_memory
from zpipe.errors import PluginError, Reject, Retry, Throttled
from zpipe.hookspecs import Context
from zpipe.messages import BadRecord, Message, Position
from zpipe.runtime.exception_text import reason_of

NEVER = float("inf")
QUICK_S = 0.0005
"""A run of messages that took the source less is followed by one that is twice as long, without a look at each."""
LOOK_S = 0.001
"""The loop looks that often at what a run has given."""
LOOKS = 20
"""So many looks at a run that has given nothing, one after another: from then on its next message wakes the loop, which costs
25 ns for each message. A source that was quick once and then has nothing for hours would keep the loop awake."""
_TUPLES, _NAMES = frozenset({tuple}), frozenset({int, str})


class SourceThread:
    """Iterates `source` once started. What it yields is fed to `stage`.

    outlets  the named ones that its messages may leave by
    wake     wakes the loop; called on the source's thread
    turn     has a message that comes alone sent; called on the source's thread, and done there if the loop waits
    failed   called with what the plugin raised, or why what it yielded cannot be sent; on any thread
    interrupt  ends a wait of the source that `context.stopping` does not end
    singly   it hears of single messages that are finished
    service_wait  waits when the source says that its service is not there
    """

    def __init__(
        self,
        source: Callable[[Context], Any],
        context: Context,
        stage: Stage,
        outlets: Collection[str],
        wake: Callable[[], None],
        turn: Callable[[], None],
        failed: Callable[[BaseException], None],
        service_wait: ServiceWait,
        interrupt: Callable[[], None] = lambda: None,
        singly: bool = False,
    ) -> None:
        policy = stage.policy
        self._source = source
        self._context = context
        self._stage = stage
        self._policy = policy.link
        self._outlets = outlets
        self._wake = wake
        self._turn = turn
        self._failed = failed
        self._service_wait = service_wait
        self._interrupt = interrupt
        self._singly = singly
        # With something unsent, fewer messages than these are not worth a turn of the loop. With nothing unsent, one is.
        self._quarter = max(1, policy.unacked.messages // 4)
        self._fitting = policy.link.section_messages
        self._worth_a_turn = min(self._fitting, self._quarter)
        self._nothing_unsent = True
        self._message_bytes = 1  # the size of a message, of those taken last
        self._items: deque[Any] = deque()
        self._limit = 0
        self._asked = 0  # items that the source has given; written by its thread
        self._taken = 0  # items taken out of `_items`; written by the thread that takes a turn
        self._last_taken: Any = None
        self._in_run = False
        self._looks = 0  # that the loop has taken at the current run without finding anything
        self._asleep = False  # the loop does not look by a timer; set by it, cleared by the source's thread
        # What is done for each message takes the lock itself: a Condition takes it by two more functions.
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)
        self._began_at = self._over_at = 0.0
        self._waited_s = 0.0
        self._waits_since: float | None = None
        self._over = False
        self._end_taken = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="zpipe-source", daemon=True)

    def start(self) -> None:
        self._thread.start()

    # ---- on the source's thread

    def _run(self) -> None:
        stopping = self._context.stopping
        self._began_at = time.monotonic()
        try:
            while not stopping.is_set():
                try:
                    self._read()
                    break
                except (Throttled, Retry) as answer:
                    self._service_wait.wait(answer, stopping)
        except BaseException as error:  # also sys.exit(): the thread ends, and the stage must hear of it
            self._failure = error
            self._failed(error)
        self._over_at = time.monotonic()
        self._over = True
        self._wake()

    def _read(self) -> None:
        """Reads the source to its end. Raises what the source does. After `Throttled` and `Retry` it is to be called again, and
        goes on after the last message that the source has given."""
        stopping, items, clock = self._context.stopping, self._items, time.monotonic
        run, first, came_at = 0, self._asked, clock()
        try:
            iterator = self._waking(iter(self._source(self._context)))
            for item in iterator:
                while self._asked >= self._limit and not stopping.is_set():
                    self._wait_for_room()
                if stopping.is_set():
                    break  # this item was never taken in: its position is not committed, so it comes again
                items.append(item)
                self._asked += 1
                before, came_at = came_at, clock()
                quick = came_at - before < QUICK_S
                self._wake_if_worth(alone=not (quick or run))
                if self._asked == first + 1:
                    self._service_wait.reached()
                run = min(2 * run + 1, self._room_for_run) if quick else 0
                if run > 0:
                    self._in_run = True
                    items.extend(islice(iterator, run))  # each is there for the loop as soon as it is yielded
                    self._in_run = False
                    self._asked += run
                    self._wake_if_worth()
        except (Throttled, Retry):
            self._go_on_after_last(first)
            raise
        finally:
            self._in_run = False
        self._service_wait.reached()

    def _waking(self, iterator: Iterator[Any]) -> Iterator[Any]:
        """The iterator's items. Wakes a sleeping loop after each: when the next is asked for, this one is in `_items`."""
        for item in iterator:
            yield item
            if self._asleep:
                self._asleep = False
                self._wake()

    def _go_on_after_last(self, first: int) -> None:
        """Has the source go on after the last item that it has given, also within a run that it has not completed. `first`: how
        many items it had given when it was opened."""
        with self._more:
            self._asked = self._taken + len(self._items)
            last = self._items[-1] if self._items else self._last_taken
        if self._asked > first and (position := position_of(last)) is not None:
            self._context.position = position

    def _wake_if_worth(self, alone: bool = False) -> None:
        if alone and self._nothing_unsent and len(self._items) == 1:
            self._turn()
        elif self._nothing_unsent or len(self._items) >= self._worth_a_turn:
            self._wake()

    @property
    def _room_for_run(self) -> int:
        """How long the next run may be: to where the loop is to be woken, and within the limit."""
        worth = self._worth_a_turn
        return min(worth - len(self._items) % worth, self._limit - self._asked)

    def _wait_for_room(self) -> None:
        if self._items:
            self._wake()  # what is left is taken in now, so that the core sees that its limit is what holds the source up
        with self._more:
            self._waits_since = time.monotonic()
            self._more.wait_for(lambda: self._asked < self._limit or self._context.stopping.is_set())
            self._waited_s += time.monotonic() - self._waits_since
            self._waits_since = None

    # ---- on the thread that takes a turn: the loop's, or for `feed` and `note_sent` the source's

    def raise_limit(self, limit: int) -> None:
        """The source may give so many messages in all."""
        with self._more:
            self._limit = limit
            self._more.notify()

    def close(self) -> None:
        """Asks the source to end early."""
        self._context.stopping.set()
        with self._more:
            self._more.notify()
        self._interrupt()

    @property
    def read(self) -> tuple[int, float]:
        """Messages that the source has yielded, and the seconds it took for them, without those in which it waited for room."""
        if not self._began_at:
            return 0, 0.0
        with self._more:
            now = self._waits_since or self._over_at or time.monotonic()
            return self._taken + len(self._items), now - self._began_at - self._waited_s

    def turn(self, now: float) -> float:
        """When `feed` should be called, as far as it is known: now, or once the loop is woken."""
        self.note_sent()
        if self._stage.over:
            return NEVER
        if self._over:
            return NEVER if self._end_taken else now
        if len(self._items) >= self._least:
            self._looks = 0
            return now
        if not self._in_run or not self._nothing_unsent:
            self._looks = 0
            return NEVER
        self._looks += 1
        if self._looks < LOOKS:
            return now + LOOK_S
        self._asleep = True
        return now if self._items else NEVER  # an item may have come before the thread could see `_asleep`

    def note_sent(self) -> None:
        """After parcels were sent: whether the next message is to leave at once."""
        self._nothing_unsent = not self._stage.has_unsent

    def feed(self, now: float) -> None:
        """Gives the stage what was yielded, as far as it is worth a turn. Before a snapshot, which counts what the source has
        given, that is all of it."""
        everything = now >= self._stage.snapshot_at
        while self._items and (batch := self._take(1 if everything else self._least)) is not None:
            everything = False
            self._stage.handle(batch, now)
            self.note_sent()
        if self._over and not self._items and not self._end_taken:
            self._end_taken = True
            if self._failure is None:
                self._stage.handle(SourceEnded(), now)

    @property
    def _least(self) -> int:
        """So many messages are worth a turn now. A source that waits for room gives no more, so then even one is."""
        at_once = self._nothing_unsent or self._over or self._taken + len(self._items) >= self._limit
        return 1 if at_once else self._worth_a_turn

    def _take(self, least: int) -> SourceYielded | None:
        """Up to a parcel of what was yielded, encoded. None if there are fewer messages than `least`."""
        count = min(len(self._items), self._policy.parcel_messages)
        if count < least:
            return None
        if self._fitting < self._policy.section_messages:
            count = min(count, self._fitting)
        with self._lock:
            items = [self._items.popleft() for _ in range(count)]
            self._taken += count
            self._last_taken = items[-1]
        try:
            batch = self._take_plain(items) or self._take_any(items)
        except Exception as error:
            self._items.clear()
            self._failure = PluginError(f"zpipe_source yields what cannot be sent or named: {reason_of(error)}")
            self._failed(self._failure)
            return None
        size = messages = 0
        for chunk in batch.chunks:
            size += len(chunk.body)
            messages += chunk.messages
        if messages and (message_bytes := size // messages) != self._message_bytes:
            self._message_bytes = message_bytes
            self._fitting = fitting_messages(self._policy, message_bytes)
            self._worth_a_turn = min(self._fitting, self._quarter)
            if message_bytes >= LARGE_MESSAGE_BYTES:
                keep_freed_memory()
        return batch

    def _take_plain(self, items: list[Any]) -> SourceYielded | None:
        """The usual case in C loops: nothing but (int or str, payload). None if it is another, or something cannot be sent."""
        if set(map(type, items)) != _TUPLES:
            return None
        try:
            by_position = dict(items)  # to take pairs apart by a dict costs less than half of what zip costs
        except (TypeError, ValueError):
            return None
        positions, payloads = list(by_position), list(by_position.values())
        if len(positions) < len(items) or not set(map(type, positions)) <= _NAMES:
            return None
        prefix, now = f"{self._context.stage}:", time.time()
        size = self._policy.section_messages
        all_ids: list[str] | None = [] if self._singly else None
        chunks: list[Chunk] = []
        try:
            for start in range(0, len(items), size):
                ids = [f"{prefix}{position}" for position in positions[start : start + size]]
                body = section.encode(ids, [now] * len(ids), payloads[start : start + size], None, self._policy.codec)
                if len(body) > self._policy.parcel_bytes:
                    return None
                owners = None
                if all_ids is not None:
                    all_ids += ids
                    owners = range(start, start + len(ids))
                chunks.append(Chunk("", len(ids), body, owners))
        except ValueError:
            return None
        return SourceYielded(chunks, positions[-1], len(items), [], all_ids)

    def _take_any(self, items: list[Any]) -> SourceYielded:
        stage, policy = self._context.stage, self._policy
        return batch_of(items, stage, self._outlets, policy, self._message_bytes, self._singly, time.time())


def batch_of(
    items: list[Any],
    stage: str,
    outlets: Collection[str],
    policy: LinkPolicy,
    message_bytes: int,
    singly: bool,
    now: float,
) -> SourceYielded:
    """What a source has yielded, encoded, with a dead letter for each record that cannot be sent. Raises TypeError and ValueError
    for what no source may yield.

    message_bytes  how large a message is likely to be;  singly: the source hears of each message that is finished
    now            the origin of messages that do not say theirs
    """
    plain = Message(None, origin=now)
    sections = OutputSections("")
    named: dict[str, OutputSections] = {}
    failures: dict[int, Failure] = {}
    position: Position = None
    for index, item in enumerate(items):
        if type(item) is tuple and len(item) == 2:
            position, payload = item
            if type(payload) is not BadRecord:
                sections.add(payload, plain, f"{stage}:{position_text(position)}", index)
                continue
            failures[index] = Failure(index, payload.reason)
        elif type(item) is Message:
            position = item.position
            if type(item.payload) is BadRecord:
                failures[index] = Failure(index, item.payload.reason)
                continue
            check_message(item)
            try:
                check_outlet(item.outlet, outlets)
            except Reject as error:
                failures[index] = Failure(index, str(error))
                continue
            to = named.setdefault(item.outlet, OutputSections(item.outlet)) if item.outlet else sections
            to.add_message(item, plain, f"{stage}:{position_text(position)}", index)
        else:
            kind = type(item).__name__
            failures[index] = Failure(index, f"zpipe_source yields (position, payload) or a Message, not {kind}")
    chunks = encode_all([sections, *named.values()], policy, failures, message_bytes)
    letters = [_letter(stage, failure, items[failure.index]) for failure in failures.values()]
    ids = [_id_of(stage, item) for item in items] if singly else None
    return SourceYielded(chunks, position, len(items), letters, ids)


def _letter(stage: str, failure: Failure, item: Any) -> DeadLetter:
    """The dead letter for something a source yielded that cannot be sent."""
    id = ""
    position, payload = None, item
    if type(item) is Message:
        id, position, payload = item.id, item.position, item.payload
    elif type(item) is tuple and len(item) == 2:
        position, payload = item
    raw = payload.raw if type(payload) is BadRecord else payload
    id = id or f"{stage}:{position_text(position)}"
    history, owners = CallHistory(attempts=1), [failure.index]
    return DeadLetter(failure.reason, failure.traceback, history, None, id=id, raw=raw, owners=owners)


def _id_of(stage: str, item: Any) -> str:
    """The id of an item's message."""
    if type(item) is Message:
        return item.id or f"{stage}:{position_text(item.position)}"
    return f"{stage}:{position_text(item[0])}" if type(item) is tuple and len(item) == 2 else ""


def position_text(position: Position) -> str:
    """A position as text, the same for the same position."""
    if type(position) is int or type(position) is str:
        return str(position)
    if isinstance(position, list | tuple):
        return ":".join(map(position_text, position))
    return cbor.write(position).hex()


def position_of(item: Any) -> Position:
    """The position of an item that a source has yielded; None if it has none."""
    if type(item) is Message:
        return item.position
    return item[0] if type(item) is tuple and len(item) == 2 else None


def not_read(context: Context) -> Iterator[Any]:
    """Stands in for a source while dead letters are replayed: it gives nothing, and ends when the pipeline is to end."""
    context.stopping.wait()
    yield from ()
