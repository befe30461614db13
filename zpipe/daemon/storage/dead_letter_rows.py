"""A dead letter as it is stored, or as it is sent. Making a row or a message of one belongs here, not what becomes of it."""

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


def letter_row(letter: DeadLetter, stage: str, last_life: LastLife) -> LetterRow:
    """The row of a letter. A message that cannot be decoded is stored as the bytes of its whole section.

    last_life  how this instance's life before ended: it tells what a message has done that has ended it
    """
    id, origin, payload, headers, kind = letter.id, 0.0, letter.raw, None, RECORD
    if letter.piece is not None:
        piece, kind = letter.piece, MESSAGE
        try:
            ids, origins, payloads, facts = piece.section.columns()
        except PeerError:
            payload, kind = piece.section.body(), SECTION
        else:
            at = piece.start
            id, origin, payload = ids[at], origins[at], payloads[at]
            headers = None if facts is None or facts[at] is None else cbor.write(facts[at])
    reason, text = clean(letter.reason), clean(letter.traceback)
    if letter.piece is not None and last_life.was_in_call(letter.piece):
        reason += f" (the last was {last_life.how})" if last_life.how else ""
        text = text or clean(last_life.traceback)
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
    """A payload that cannot be encoded is stored as what Python shows of it."""
    try:
        encoded = cbor.write(payload)
        cbor.read(encoded)
    except Exception:
        return cbor.write(ascii(payload)[:10_000])
    return encoded
