"""A dead letter as it is kept. May live here: making a row of one; nothing that reads or writes the store."""

from __future__ import annotations

from typing import Any

from zpipe.core import cbor
from zpipe.core.work import DeadLetter
from zpipe.daemon.crash import Crash
from zpipe.daemon.reason import clean
from zpipe.daemon.store import LetterRow
from zpipe.errors import PeerError


def letter_row(letter: DeadLetter, crash: Crash) -> LetterRow:
    """The row of a letter. A message that cannot be decoded is kept as the bytes of its whole section.

    crash  how this instance's life before ended: the end of a message that has ended it
    """
    id, origin, payload, headers = letter.id, 0.0, letter.raw, None
    if letter.piece is not None:
        piece = letter.piece
        try:
            ids, origins, payloads, facts = piece.section.columns()
        except PeerError:
            payload = piece.section.body()
        else:
            at = piece.start
            id, origin, payload = ids[at], origins[at], payloads[at]
            headers = None if facts is None or facts[at] is None else cbor.write(facts[at])
    reason, text = clean(letter.reason), clean(letter.traceback)
    if letter.piece is not None and crash.accuses(letter.piece):
        reason += f" (the last was {crash.how})" if crash.how else ""
        text = text or clean(crash.traceback)
    return LetterRow(clean(id), origin, reason, text, letter.past.calls, headers, _encoded(payload))


def _encoded(payload: Any) -> bytes:
    """A payload that cannot be encoded is kept as what Python shows of it."""
    try:
        return cbor.write(payload)
    except Exception:
        return cbor.write(ascii(payload)[:10_000])
