"""What an exception says, as text that can be logged, stored and sent, whatever the exception does when it is asked. Must not
live here: what an exception means."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

REASON_CHARACTERS, TRACEBACK_CHARACTERS, TRACEBACK_PARTS = 1000, 8000, 20
ZPIPE = f"{Path(__file__).parents[1]}/"


def reason_of(error: BaseException) -> str:
    """`Type: text`. An exception whose own text cannot be had is its type."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:
        text = f"{type(error).__name__} (its text cannot be had)"
    return clean(text[:REASON_CHARACTERS])


def text_of(error: BaseException) -> str:
    """What it says, without its type: of an exception that is meant for people."""
    try:
        return clean(str(error)[:REASON_CHARACTERS])
    except Exception:
        return reason_of(error)


def traceback_of(error: BaseException) -> str:
    """The end of its traceback, without the frames of zpipe in front. So equal faults of a plugin have equal tracebacks however
    it was called, and can be shown once."""
    try:
        lines = traceback.format_exception(type(error), error, _from_the_call(error.__traceback__))
    except Exception:
        return ""
    return clean("".join(lines[-TRACEBACK_PARTS:])[-TRACEBACK_CHARACTERS:])


def _from_the_call(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of zpipe in front; all of it if there are no others."""
    first = trace
    while first is not None and first.tb_frame.f_code.co_filename.startswith(ZPIPE):
        first = first.tb_next
    return first or trace


def clean(text: str) -> str:
    """The text without lone surrogates, which neither SQLite nor CBOR takes: the name of a file may bring them in."""
    return text.encode("utf-8", "backslashreplace").decode()
