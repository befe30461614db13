"""The keeper of an instance's dead letters: writes them, has marked ones replayed, minds the limits.

May live here: what is asked of the store and when, and what is told to the core of it. Runs on the loop's thread.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from zpipe.core import actions as act
from zpipe.core.processing.replays import Revived, replay_of
from zpipe.core.stage import Stage
from zpipe.core.wire import cbor, section
from zpipe.core.work.task import DeadLetter
from zpipe.daemon.faults import AGAIN_S, Fault
from zpipe.daemon.mailbox import Mailbox
from zpipe.daemon.storage.call_journal import STORE
from zpipe.daemon.storage.dead_letter_log import DeadLetterLog
from zpipe.daemon.storage.dead_letter_rows import letter_message, letter_row
from zpipe.daemon.storage.last_life import LastLife
from zpipe.daemon.storage.store import Store
from zpipe.runtime import dead_letter_table
from zpipe.runtime.dead_letter_table import LetterRow, Marked
from zpipe.runtime.logs import fields

T = TypeVar("T")
NEVER = float("inf")
TICK_S = 0.1
"""Letters to be replayed are read for this much time at once: reading them one by one would cost a wake-up each."""
EXPIRE_S = 60.0


class DeadLetterKeeper:
    """`due`: letters may be marked for replay that are not in hand yet. True at the start: the last life may have left some."""

    def __init__(
        self, stage: Stage, store: Store, mailbox: Mailbox, log: logging.Logger, letter_log: DeadLetterLog
    ) -> None:
        self.fault = Fault(log, "dead_letter.unwritten", "dead_letter.written", f"cannot use {store.path}")
        self._crash = LastLife()
        self._probing = False
        self.due = not stage.head
        self._stage = stage
        self._store = store
        self._mailbox = mailbox
        self._log = log
        self._letter_log = letter_log
        self._reading = False
        self._asked = False
        self._read_at = 0.0
        self._rate = 0.0
        self._removals: list[int] = []
        self._again_at = NEVER
        self._look_at = 0.0
        self._expire_at = 0.0 if stage.policy.dead.age_s is not None else NEVER
        self._stopped_by = ""
        stage.letters_stored(*store.kept)

    def remember(self, crash: LastLife) -> None:
        """How the life before ended, before anything is replayed: a letter must not end this one for ever."""
        self._crash = crash
        _, rows = crash.suspects.get(STORE, ("", []))

        def job(connection: sqlite3.Connection) -> None:
            for start, stop, alone in rows:
                dead_letter_table.accuse(connection, start, stop, bool(alone))

        if rows:
            self._ask(job, lambda error, _: None)

    # ---- what the core asks for

    def bury(self, action: act.StoreDeadLetter) -> None:
        """Writes the letter, then reports it."""
        letter = action.letter
        if self.fault.text and self._probing:  # one shows whether there is room again, however many wait
            self._stage.letter_written(letter, False, time.monotonic())
            return
        self._write(letter, self._row(letter))

    def post(self, action: act.SendDeadLetter) -> None:
        """Sends the letter on its way as a message; writes one that is too large for that."""
        letter = action.letter
        row = self._row(letter)
        body = letter_message(row, self._stage.policy.link)
        if body is None:
            self._write(letter, row)
            return
        self._tell(letter, row)
        # In the next turn, so that what can be sent is.
        self._mailbox.post(lambda: self._stage.letter_posted(letter, body))

    def _row(self, letter: DeadLetter) -> LetterRow:
        return letter_row(letter, self._stage.me.stage, self._crash)

    def _tell(self, letter: DeadLetter, row: LetterRow) -> None:
        self._letter_log.tell(row, replay_of(letter.piece) is not None, time.monotonic())

    def _write(self, letter: DeadLetter, row: LetterRow) -> None:
        incarnation = self._stage.me.incarnation
        replay = replay_of(letter.piece)
        self._probing = True

        def job(connection: sqlite3.Connection) -> None:
            if replay is None:
                dead_letter_table.bury(connection, row, incarnation)
            else:
                dead_letter_table.bury_again(connection, replay.number, row, incarnation)

        def then(error: Exception | None, _: None) -> None:
            self._probing = False
            if error is None:
                self.fault.worked()
                self._tell(letter, row)
            else:
                self.fault.failed(error)
            self._stage.letter_written(letter, error is None, time.monotonic())

        self._ask(job, then)

    def remove(self, action: act.RemoveLetter) -> None:
        """The replayed letter is finished: its row goes."""
        number = action.number

        def then(error: Exception | None, _: None) -> None:
            if error is None:
                self._stage.letter_removed(number)
                return
            self.fault.failed(error)
            self._removals.append(number)
            self._again_at = time.monotonic() + AGAIN_S

        self._ask(lambda connection: dead_letter_table.remove(connection, number), then)

    def take(self, _: act.TakeLetters) -> None:
        """Letters were marked for replay."""
        self.due = self._asked = True

    # ---- time

    def turn(self, now: float) -> float:
        """Does what is due; when the next is."""
        self._say()
        say_at = self._letter_log.turn(now)
        if now >= self._expire_at:
            self._expire_at = now + EXPIRE_S
            self._expire()
        if now >= self._again_at:
            self._again_at = NEVER
            removals, self._removals = self._removals, []
            for number in removals:
                self.remove(act.RemoveLetter(number))
        if self._stage.dead_letters_stored and now >= self._look_at:  # an operator may have dropped some
            self._look_at = now + AGAIN_S
            self._ask(lambda connection: None, lambda error, _: None)
        if self._may_read and now >= self._read_at:
            self._read()
        look_at = self._look_at if self._stage.dead_letters_stored else NEVER
        return min(say_at, self._expire_at, self._again_at, look_at, self._read_at if self._may_read else NEVER)

    def _say(self) -> None:
        """Says once that the stage takes no more work, and why; and once that it goes on."""
        stopped_by = self._stage.stopped_by
        if stopped_by and not self._stopped_by:
            self._log.error(fields(event="stage.held", reason=stopped_by))
        elif self._stopped_by and not stopped_by:
            self._log.warning(fields(event="stage.goes_on"))
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
        return self.due and not self._reading and self._stage.takes_letters

    def _read(self) -> None:
        """Reads the letters that may come now. The first tells the rate."""
        self._reading = True
        self._asked = False
        room_messages, room_bytes = self._stage.replay_room
        most = min(max(int(self._rate * TICK_S), 1), room_messages)
        held = self._stage.replays

        def job(connection: sqlite3.Connection) -> list[tuple[Revived, float]]:
            return [(_revived(row), row.rate) for row in dead_letter_table.marked(connection, most, room_bytes, held)]

        def then(error: Exception | None, found: list[tuple[Revived, float]] | None) -> None:
            now = time.monotonic()
            self._reading = False
            if found is None:
                self.fault.failed(error)
                self._read_at = now + AGAIN_S
            elif not found:
                self.due = self._asked
            elif self._stage.takes_letters:  # else they are read again
                self._rate = min(rate for _, rate in found)
                self._read_at = max(self._read_at, now - TICK_S) + len(found) / self._rate
                self._stage.replay([letter for letter, _ in found], now)

        self._ask(job, then)

    def _ask(self, job: Callable[[sqlite3.Connection], T], then: Callable[[Exception | None, T | None], None]) -> None:
        """Does `job` on the store's thread, then `then` on the loop's, with what it gave; the total is read with it."""
        found: list[tuple[T, tuple[int, int]]] = []

        def run(connection: sqlite3.Connection) -> None:
            found[:] = [(job(connection), dead_letter_table.total(connection))]

        def done(error: Exception | None) -> None:
            def report() -> None:
                if error is None:
                    self._stage.letters_stored(*found[0][1])
                then(error, found[0][0] if error is None else None)

            self._mailbox.post(report)

        self._store.ask(run, done)


def _revived(row: Marked) -> Revived:
    """The message as it was. Raises PeerError if what is kept is damaged."""
    headers = None if row.headers is None else [cbor.read(row.headers)]
    body = section.encode([row.id], [row.origin], [cbor.read(row.payload)], headers)
    return Revived(row.number, body, row.suspicion)
