"""A parcel that arrived. May live here: parting its body into sections by its header; nothing of sessions."""

from __future__ import annotations

from zpipe.core.wire import frames
from zpipe.core.wire.section import Section
from zpipe.errors import PeerError


def part(parcel: frames.Parcel, body: bytes) -> list[Section]:
    """The sections of a parcel's body. Raises PeerError if the lengths do not add up."""
    if sum(row[1] for row in parcel.sections) != len(body):
        raise PeerError(f"a parcel's sections do not add up to its {len(body)} bytes")
    sections = []
    at = 0
    for count, size, first, attempt, suspicion in parcel.sections:
        sections.append(Section(body[at : at + size], count, first, attempt, suspicion=suspicion))
        at += size
    return sections
