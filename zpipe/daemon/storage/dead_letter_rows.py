"""A dead letter as it is kept, or as it is sent. May live here: making a row or a message of one, not what becomes of it."""

from __future__ import annotations

from typing import Any

from zpipe.core.policy import LinkPolicy
from zpipe.core.wire import cbor, section
from zpipe.core.work.stored_letter import MESSAGE, RECORD, SECTION
from zpipe.core.work.task import DEAD, DeadLetter
from zpipe.daemon.storage.last_life import LastLife
from zpipe.errors import PeerError
from zpipe.runtime.dead_letter_table import LetterRow
from zpipe.runtime.exception_text import clean


def letter_row(letter: DeadLetter, stage: str, crash: LastLife) -> LetterRow:
    """The row of a letter. A message that cannot be decoded is kept as the bytes of its whole section.

    crash  how this instance's life before ended: the end of a message that has ended it
    """
    id, origin, payload, headers, kind = letter.id, 0.0, letter.raw, None, RECORD
    if letter.piece is not None:
        piece, kind = letter.piece, MESSAGE
        try:
            columns = piece.section.columns()
        except PeerError:
            payload, kind = piece.section.body(), SECTION
        else:
            at = piece.start
            id, origin, payload, facts = columns.ids[at], columns.origins[at], columns.payloads[at], columns.headers
            headers = None if facts is None or facts[at] is None else cbor.write(facts[at])
    reason, text = clean(letter.reason), clean(letter.traceback)
    if letter.piece is not None and crash.accuses(letter.piece):
        reason += f" (the last was {crash.how})" if crash.how else ""
        text = text or clean(crash.traceback)
    past = letter.past
    return LetterRow(
        stage=stage,
        id=clean(id),
        origin=origin,
        kind=kind,
        reason=reason,
        traceback=text,
        attempts=past.attempts,
        deaths=past.deaths,
        history=tuple(map(clean, past.history)),
        headers=headers,
        payload=_encoded(payload),
    )


def letter_message(row: LetterRow, policy: LinkPolicy) -> bytes | None:
    """The letter as a message of its stage's outlet, as a section of one; None if it is too large to be sent.

    Its id is the message's with `.dead`, so that a sink stores it once however often the message dies.
    """
    payload = {
        "id": row.id,
        "stage": row.stage,
        "reason": row.reason,
        "traceback": row.traceback,
        "attempts": row.attempts,
        "deaths": row.deaths,
        "history": list(row.history),
        "origin": row.origin,
        "payload": cbor.read(row.payload),
    }
    headers = None if row.headers is None else [cbor.read(row.headers)]
    try:
        body = section.encode([f"{row.id}.{DEAD}"], [row.origin], [payload], headers)
    except ValueError:  # nested as deep as a message may be, and here one deeper
        return None
    return body if len(body) <= policy.max_message_bytes else None


def _encoded(payload: Any) -> bytes:
    """A payload that cannot be encoded is kept as what Python shows of it."""
    try:
        encoded = cbor.write(payload)
        cbor.read(encoded)
    except Exception:
        return cbor.write(ascii(payload)[:10_000])
    return encoded
