"""The dead letters of an instance in its store: writing them, reading those to be replayed, dropping what is too old. Must not
live here: SQL, which is `dead_letter_table`'s. Used by the loop's thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from zpipe.core import events
from zpipe.core.intervals import following
from zpipe.core.policy import LinkPolicy
from zpipe.core.processing.replays import Revived, replay_of
from zpipe.core.stage import Stage
from zpipe.core.wire import cbor, section
from zpipe.core.work.stored_dead_letter import MESSAGE, RECORD, SECTION
from zpipe.core.work.task import DEAD, DeadLetter
from zpipe.daemon.mailbox import Mailbox
from zpipe.daemon.outages import NEVER, RETRY_S, Outage
from zpipe.daemon.storage.call_journal import STORE
from zpipe.daemon.storage.dead_letter_log import DeadLetterLog
from zpipe.daemon.storage.last_life import LastLife
from zpipe.daemon.storage.store import Store
from zpipe.errors import PeerError
from zpipe.runtime import dead_letter_table
from zpipe.runtime.dead_letter_table import LetterRow, Marked
from zpipe.runtime.exception_text import clean
from zpipe.runtime.logs import fields

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")
READ_S = 0.1
"""Letters to be replayed are read for this much time at once: reading them one by one would cost a wake-up each."""
EXPIRE_S = 60.0
"""Between two looks for letters that are too old."""
_SENT = ("id", "stage", "reason", "traceback", "attempts", "deaths", "origin")


class DeadLetterStore:
    """`replay_due`: letters may be marked for replay that are not in hand yet. True at the start if letters
    are stored, as the last life may have left some.

    last_life  how the life before ended: a letter whose replay has ended it is suspected from now on
    """

    def __init__(
        self,
        stage: Stage,
        store: Store,
        mailbox: Mailbox,
        last_life: LastLife,
        log: logging.Logger,
        letter_log: DeadLetterLog,
    ) -> None:
        self.outage = Outage(log, "dead_letter.unwritten", "dead_letter.written", f"cannot use {store.path}")
        self.replay_due = stage.letters.replayable and store.dead_letters[0] > 0
        self._stage = stage
        self._store = store
        self._mailbox = mailbox
        self._last_life = last_life
        self._log = log
        self._letter_log = letter_log
        self._writing = False
        self._reading = False
        self._marked_meanwhile = False
        self._read_at = 0.0
        self._rate = 0.0
        self._unremoved: list[int] = []
        self._remove_at = NEVER
        self._count_at = 0.0
        self._expire_at = 0.0 if stage.policy.dead.age_s is not None else NEVER
        self._stopped_by = ""
        stage.handle(events.LettersCounted(*store.dead_letters), time.monotonic())
        self._note_suspects()

    def _note_suspects(self) -> None:
        """Before anything is replayed: the letters that were in a call when the last life ended."""
        _, rows = self._last_life.suspects.get(STORE, ("", []))

        def job(connection: sqlite3.Connection) -> None:
            for start, stop, alone in rows:
                dead_letter_table.add_suspicion(connection, start, stop, bool(alone))

        if rows:
            self._ask(job, lambda error, _: None)

    # ---- what the core asks for

    def store(self, letter: DeadLetter) -> None:
        """Writes the letter, then tells the core."""
        # While the disk is full, one write at a time is enough to see whether there is room again.
        if self.outage.text and self._writing:
            self._tell(events.LetterWritten(letter, False))
            return
        self._write(letter, self._row_of(letter))

    def send(self, letter: DeadLetter) -> None:
        """Sends the letter as a message. One that is too large for that is written."""
        row = self._row_of(letter)
        body = message_of(row, self._stage.policy.link)
        if body is None:
            self._write(letter, row)
            return
        self._log_letter(letter, row)
        # Posted, so that another turn follows at once, which sends the message.
        self._mailbox.post(lambda: self._tell(events.LetterPosted(letter, body)))

    def remove(self, number: int) -> None:
        """The replayed letter is finished: deletes its row, then tells the core."""

        def then(error: Exception | None, _: None) -> None:
            if error is None:
                self._tell(events.LetterRemoved(number))
                return
            self.outage.failed(error)
            self._unremoved.append(number)
            self._remove_at = time.monotonic() + RETRY_S

        self._ask(lambda connection: dead_letter_table.remove(connection, number), then)

    def read_marked(self) -> None:
        """Letters were marked for replay: they are read from the next turn on."""
        self.replay_due = self._marked_meanwhile = True

    def _tell(self, event: events.Event) -> None:
        self._stage.handle(event, time.monotonic())

    def _row_of(self, letter: DeadLetter) -> LetterRow:
        return letter_row(letter, self._stage.me.stage, self._last_life)

    def _log_letter(self, letter: DeadLetter, row: LetterRow) -> None:
        self._letter_log.write(row, replay_of(letter.piece) is not None, time.monotonic())

    def _write(self, letter: DeadLetter, row: LetterRow) -> None:
        incarnation = self._stage.me.incarnation
        replay = replay_of(letter.piece)
        self._writing = True

        def job(connection: sqlite3.Connection) -> None:
            if replay is None:
                dead_letter_table.add(connection, row, incarnation)
            else:
                dead_letter_table.add_again(connection, replay.number, row, incarnation)

        def then(error: Exception | None, _: None) -> None:
            self._writing = False
            if error is None:
                self.outage.worked()
                self._log_letter(letter, row)
            else:
                self.outage.failed(error)
            self._tell(events.LetterWritten(letter, error is None))

        self._ask(job, then)

    # ---- time

    def turn(self, now: float) -> float:
        """Does what is due. Returns when to call again."""
        self._log_breaker()
        log_at = self._letter_log.turn(now)
        if now >= self._expire_at:
            self._expire_at = now + EXPIRE_S
            if self._stage.letters.stored:
                self._expire()
        if now >= self._remove_at:
            self._remove_at = NEVER
            numbers, self._unremoved = self._unremoved, []
            for number in numbers:
                self.remove(number)
        if self._stage.letters.stored and now >= self._count_at:  # an operator may have dropped some
            self._count_at = following(now, RETRY_S)
            self._ask(lambda connection: None, lambda error, _: None)
        if self._may_read and now >= self._read_at:
            self._read()
        count_at = self._count_at if self._stage.letters.stored else NEVER
        return min(log_at, self._expire_at, self._remove_at, count_at, self._read_at if self._may_read else NEVER)

    def _log_breaker(self) -> None:
        """Logs once that the stage takes no more work, and why, and once that it goes on."""
        stopped_by = self._stage.letters.stopped_by
        if stopped_by and not self._stopped_by:
            self._log.error(fields(event="stage.held", reason=stopped_by))
        elif self._stopped_by and not stopped_by:
            self._log.warning(fields(event="stage.resumed"))
        self._stopped_by = stopped_by

    def _expire(self) -> None:
        age_s = self._stage.policy.dead.age_s
        assert age_s is not None

        def then(error: Exception | None, dropped: int | None) -> None:
            if dropped:
                self._log.warning(fields(event="dead_letters.expired", count=dropped, older_than_s=age_s))

        self._ask(lambda connection: dead_letter_table.expire(connection, age_s), then)

    # ---- replay

    @property
    def _may_read(self) -> bool:
        return self.replay_due and not self._reading and self._stage.letters.wanted

    def _read(self) -> None:
        """Reads the letters that may be replayed now. The first one tells the rate."""
        self._reading = True
        self._marked_meanwhile = False
        room_messages, room_bytes = self._stage.letters.room
        most = min(max(int(self._rate * READ_S), 1), room_messages)
        held = self._stage.letters.in_hand

        def job(connection: sqlite3.Connection) -> list[tuple[Revived, float]]:
            return [
                (revived(row), row.replay_rate) for row in dead_letter_table.marked(connection, most, room_bytes, held)
            ]

        def then(error: Exception | None, found: list[tuple[Revived, float]] | None) -> None:
            now = time.monotonic()
            self._reading = False
            if found is None:
                self.outage.failed(error)
                self._read_at = now + RETRY_S
            elif not found:
                self.replay_due = self._marked_meanwhile
            elif self._stage.letters.wanted:  # otherwise they are read again
                self._rate = min(rate for _, rate in found)
                self._read_at = max(self._read_at, now - READ_S) + len(found) / self._rate
                self._tell(events.LettersRevived([letter for letter, _ in found]))

        self._ask(job, then)

    def _ask(self, job: Callable[[sqlite3.Connection], T], then: Callable[[Exception | None, T | None], None]) -> None:
        """Does `job` on the store's thread, then calls `then` on the loop's thread with its result. Also tells the core how many
        letters are stored after it."""
        found: list[tuple[T, tuple[int, int]]] = []

        def run(connection: sqlite3.Connection) -> None:
            found[:] = [(job(connection), dead_letter_table.total(connection))]

        def done(error: Exception | None) -> None:
            def report() -> None:
                if error is None:
                    self._tell(events.LettersCounted(*found[0][1]))
                then(error, found[0][0] if error is None else None)

            self._mailbox.post(report)

        self._store.ask(run, done)


def revived(row: Marked) -> Revived:
    """The message as it was. Raises PeerError if what is stored is damaged."""
    return Revived(row.number, _section_of(row, row.id, cbor.read(row.payload)), row.suspicion, row.source)


def _section_of(row: LetterRow | Marked, id: str, payload: Any) -> bytes:
    """The message that the row keeps, but with that id and payload. Raises ValueError if it cannot be sent."""
    headers = None if row.headers is None else [cbor.read(row.headers)]
    return section.encode([id], [row.origin], [payload], headers)


def letter_row(letter: DeadLetter, stage: str, last_life: LastLife) -> LetterRow:
    """The row of a letter. A message that cannot be decoded is stored as the bytes of its whole section.

    last_life  how this instance's life before ended: that goes into the letter of a message that was in its last call
    """
    id, origin, payload, headers, kind = letter.id, 0.0, letter.raw, None, RECORD
    if letter.piece is not None:
        piece, kind = letter.piece, MESSAGE
        try:
            [[id], [origin], [payload], facts] = piece.columns().part(0, 1)
        except PeerError:
            payload, kind = piece.section.body(), SECTION
        else:
            headers = None if facts is None or facts[0] is None else cbor.write(facts[0])
    reason, text = clean(letter.reason), clean(letter.traceback)
    if letter.piece is not None and last_life.was_in_call(letter.piece):
        reason += f" (the last was {last_life.how})" if last_life.how else ""
        text = text or clean(last_life.traceback)
    history = letter.history
    return LetterRow(
        stage=stage,
        id=clean(id),
        origin=origin,
        kind=kind,
        reason=reason,
        traceback=text,
        attempts=history.attempts,
        deaths=history.deaths,
        history=tuple(map(clean, history.lines)),
        headers=headers,
        payload=_encoded(payload),
        source=letter.piece.delivery.source if letter.piece is not None else "",
    )


def message_of(row: LetterRow, policy: LinkPolicy) -> bytes | None:
    """The letter as a message of its stage's outlet, as a section of one; None if it is too large to be sent.

    Its id is the message's with `.dead`, so that a sink stores it once however often the message dies.
    """
    payload = {key: getattr(row, key) for key in _SENT}
    payload |= {"history": list(row.history), "payload": cbor.read(row.payload)}
    try:
        body = _section_of(row, f"{row.id}.{DEAD}", payload)
    except ValueError:  # the letter's payload is one deeper than the message's, which was as deep as it may be
        return None
    return body if len(body) <= policy.max_message_bytes else None


def _encoded(payload: Any) -> bytes:
    """A payload that cannot be encoded is stored as what Python shows of it."""
    try:
        encoded = cbor.write(payload)
        cbor.read(encoded)
    except Exception:
        return cbor.write(ascii(payload)[:10_000])
    return encoded
