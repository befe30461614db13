"""A parcel that arrived: its body is parted into sections by its header. Must not live here: sessions."""

from __future__ import annotations

from zpipe.core.wire import frames
from zpipe.core.wire.cbor import Encoded
from zpipe.core.wire.section import Section
from zpipe.errors import PeerError


def part(parcel: frames.Parcel, body: Encoded) -> list[Section]:
    """The sections of a parcel's body. Raises PeerError if the lengths do not add up."""
    sections = []
    at = 0
    for row in parcel.rows():
        sections.append(Section.of_row(row, body[at : at + row.size]))
        at += row.size
    if at != len(body):
        raise PeerError(f"a parcel's sections do not add up to its {len(body)} bytes")
    return sections
