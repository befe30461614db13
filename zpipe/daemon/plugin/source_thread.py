"""The thread a source runs on, and gathering what it yields into sections.

May live here: iterating `zpipe_source`, pacing it, and ids from positions. What becomes of positions is the core's.

The source's thread only appends to a deque; the loop takes what is there and encodes it. So an idle pipeline gets each
message at once, a busy one gets full sections, and there is no timer between.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Any

from zpipe.core.policy import LinkPolicy
from zpipe.core.wire import cbor, section
from zpipe.core.work.task import Chunk, DeadLetter, Failure, PastCalls
from zpipe.daemon.plugin.outputs import OutputSections, encode_all
from zpipe.daemon.plugin.task_run import check_message, check_outlet
from zpipe.errors import PluginError, Reject
from zpipe.hookspecs import Context
from zpipe.messages import BadRecord, Message, Position
from zpipe.runtime.exception_text import reason_of

_TUPLES, _PAIRS, _NAMES = frozenset({tuple}), frozenset({2}), frozenset({int, str})

Batch = tuple[list[Chunk], Position, int, list[DeadLetter]]


class SourceThread:
    """`eager`: nothing is unsent, so whatever comes should go out at once; else only `enough` messages are worth a turn.
    `outlets`: the named ones that its messages may leave by.

    `failed` is called on the source's thread with what the plugin raised; `waker` wakes the loop."""

    def __init__(
        self,
        source: Callable[[Context], Any],
        context: Context,
        policy: LinkPolicy,
        waker: Callable[[], None],
        failed: Callable[[BaseException], None],
        enough: int,
        outlets: Collection[str],
    ) -> None:
        self._source = source
        self._context = context
        self._policy = policy
        self._wake = waker
        self._failed = failed
        self._enough = enough
        self._outlets = outlets
        self._items: deque[Any] = deque()
        self._limit = 0
        self._yielded = 0
        self._more = threading.Condition()
        self._began_at = self._over_at = 0.0
        self._waited_s = 0.0
        self._waits_since: float | None = None
        self.eager = True
        self._over = False
        self._over_taken = False
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="zpipe-source", daemon=True)

    def start(self) -> None:
        self._thread.start()

    # ---- on the source's thread

    def _run(self) -> None:
        stopping = self._context.stopping
        items, enough = self._items, self._enough
        self._began_at = time.monotonic()
        append, wake = items.append, self._wake
        try:
            for item in self._source(self._context):
                while self._yielded >= self._limit and not stopping.is_set():
                    self._wait_for_room()
                if stopping.is_set():
                    break  # this item was never taken in: its position is not committed, so it comes again
                append(item)
                self._yielded += 1
                if self.eager or len(items) == enough:
                    wake()
        except BaseException as error:  # also sys.exit(): the thread ends, and the stage must hear of it
            self.failure = error
            self._failed(error)
        self._over_at = time.monotonic()
        self._over = True
        wake()

    def _wait_for_room(self) -> None:
        if self._items:
            self._wake()  # the rest is taken in now, so that the core sees that its limit is what holds the source up
        with self._more:
            self._waits_since = time.monotonic()
            self._more.wait_for(lambda: self._yielded < self._limit or self._context.stopping.is_set())
            self._waited_s += time.monotonic() - self._waits_since
            self._waits_since = None

    # ---- on the loop's thread

    def raise_limit(self, limit: int) -> None:
        """So many messages may be taken in, in all."""
        with self._more:
            self._limit = limit
            self._more.notify()

    def close(self) -> None:
        """Asks the source to end early."""
        self._context.stopping.set()
        with self._more:
            self._more.notify()

    @property
    def read(self) -> tuple[int, float]:
        """Messages that the source has yielded, and the seconds it took for them: what it had to wait for room is not in them."""
        if not self._began_at:
            return 0, 0.0
        with self._more:
            now = self._waits_since or self._over_at or time.monotonic()
            return self._yielded, now - self._began_at - self._waited_s

    @property
    def waiting(self) -> bool:
        """There is something worth taking."""
        if self._over:
            return not self._over_taken
        return len(self._items) >= (1 if self.eager or self._stuck else self._enough)

    @property
    def _stuck(self) -> bool:
        return self._yielded >= self._limit

    def take(self, rest: bool = False) -> Batch | None:
        """Up to a parcel of what has been yielded, encoded; None if there is nothing, or too little to be worth it now. `rest`:
        whatever there is."""
        count = min(len(self._items), self._policy.parcel_messages)
        if not count or not (rest or self.eager or self._over or self._stuck or count >= self._enough):
            return None
        items = [self._items.popleft() for _ in range(count)]
        try:
            batch = self._take_plain(items) or self._take_any(items)
        except Exception as error:
            self._items.clear()
            self.failure = PluginError(f"zpipe_source yields what cannot be sent or named: {reason_of(error)}")
            self._failed(self.failure)
            return None
        return batch

    def _take_plain(self, items: list[Any]) -> Batch | None:
        """The usual case in C loops: only (int or str, payload). None if it is not, or something cannot be sent."""
        if set(map(type, items)) != _TUPLES or set(map(len, items)) != _PAIRS:
            return None
        positions = [item[0] for item in items]
        payloads = [item[1] for item in items]
        if not set(map(type, positions)) <= _NAMES or BadRecord in set(map(type, payloads)):
            return None
        prefix, now = f"{self._context.stage}:", time.time()
        size = self._policy.section_messages
        chunks: list[Chunk] = []
        try:
            for start in range(0, len(items), size):
                ids = [f"{prefix}{position}" for position in positions[start : start + size]]
                body = section.encode(*section.plain(ids, [now] * len(ids), payloads[start : start + size]))
                if len(body) > self._policy.parcel_bytes:
                    return None
                chunks.append(Chunk("", len(ids), body))
        except ValueError:
            return None
        return chunks, positions[-1], len(items), []

    def _take_any(self, items: list[Any]) -> Batch:
        now = time.time()
        stage = self._context.stage
        emission = OutputSections("")
        named: dict[str, OutputSections] = {}
        failures: dict[int, Failure] = {}
        position: Position = None
        for index, item in enumerate(items):
            if type(item) is tuple and len(item) == 2:
                position, payload = item
                if type(payload) is not BadRecord:
                    emission.add(f"{stage}:{name(position)}", now, payload, None, index)
                    continue
                failures[index] = Failure(index, payload.reason)
            elif type(item) is Message:
                position = item.position
                check_message(item)
                try:
                    check_outlet(item.outlet, self._outlets)
                except Reject as error:
                    failures[index] = Failure(index, str(error))
                    continue
                to = named.setdefault(item.outlet, OutputSections(item.outlet)) if item.outlet else emission
                to.add(item.id or f"{stage}:{name(position)}", item.origin or now, item.payload, item.headers, index)
            else:
                kind = type(item).__name__
                failures[index] = Failure(index, f"zpipe_source yields (position, payload) or a Message, not {kind}")
        chunks = encode_all([emission, *named.values()], self._policy, failures)
        letters = [letter(stage, failure, items[failure.index]) for failure in failures.values()]
        return chunks, position, len(items), letters

    def take_end(self) -> bool:
        """True once, when the source is over and everything it yielded was taken."""
        if self._over and not self._items and not self._over_taken:
            self._over_taken = True
            return True
        return False


def letter(stage: str, failure: Failure, item: Any) -> DeadLetter:
    """The dead letter for something a source yielded that cannot be sent."""
    position, payload = (item.position, item.payload) if type(item) is Message else (None, item)
    if type(item) is tuple and len(item) == 2:
        position, payload = item
    raw = payload.raw if type(payload) is BadRecord else payload
    return DeadLetter(
        failure.reason, failure.traceback, PastCalls(attempts=1), None, id=f"{stage}:{name(position)}", raw=raw
    )


def name(position: Position) -> str:
    """A position as text, the same for the same position."""
    if type(position) is int or type(position) is str:
        return str(position)
    if isinstance(position, list | tuple):
        return ":".join(map(name, position))
    return cbor.write(position).hex()


def silent(context: Context) -> Iterator[Any]:
    """In place of a source where letters are replayed: it is not read, and is over when the pipeline is to end."""
    context.stopping.wait()
    yield from ()
