"""What must hold of an instance after every event. May live here: checks of one instance; what a run as a whole must
have done is its test's to say.
"""

from __future__ import annotations

from collections.abc import Iterator

from zpipe.core.downstream.outlet import Outlet
from zpipe.core.ledger import COUNTS, OTHERS, Counts
from zpipe.core.stage import Stage
from zpipe.core.upstream.inlet import Inlet


def breaches(stage: Stage, largest: int, expansion: int) -> Iterator[str]:
    """Each rule that the instance breaks now, in words.

    largest    bytes of the largest message, which the bound in bytes may be passed by
    expansion  outputs of the largest task: what a worker that has begun may still produce above the bound on unacked
    """
    yield from _counts(stage.counts)
    if stage.upstreams.off:
        yield f"upstream instances: {stage.upstreams.off}"
    if stage.inlet.off:
        yield f"sessions with upstream instances: {stage.inlet.off}"
    if stage.downstream.off:
        yield f"links out: {stage.downstream.off}"
    if stage.source is None:
        yield from _inlet(stage.inlet, stage.counts, stage.policy.queue.messages, stage.policy.queue.bytes + largest)
        held, replaying = stage.inlet.held_messages, stage.processing.replays.in_process
        if held + replaying != stage.counts.queued + stage.counts.in_process:
            counts = f"queued {stage.counts.queued} + in process {stage.counts.in_process}"
            yield f"holds {held}, and {replaying} replayed, not {counts}"
    elif stage.source.finished > stage.source.emitted:
        yield f"source: finished {stage.source.finished} of {stage.source.emitted} emitted"
    most = stage.policy.unacked.messages + (0 if stage.source is not None else expansion)
    for link in stage.downstream.links:
        where = f"link {link.name!r} to {link.consumer}"
        if link.off():
            yield f"{where}: produced is off by {link.off()}"
        if link.held_messages > most:
            yield f"{where}: {link.held_messages} unacked, bound {most}"
    for outlet in stage.sessions.outlets:
        yield from _outlet(outlet)


def _counts(counts: Counts) -> Iterator[str]:
    if counts.off():
        yield f"received is off by {counts.off()}: {counts}"
    for name in COUNTS + OTHERS:
        value: int = getattr(counts, name)
        if value < 0:
            yield f"{name} is {value}"


def _inlet(inlet: Inlet, counts: Counts, messages: int, bytes_: int) -> Iterator[str]:
    if inlet.held_messages > messages:
        yield f"holds {inlet.held_messages} messages, bound {messages}"
    if inlet.held_bytes > bytes_:
        yield f"holds {inlet.held_bytes} bytes, bound with one message {bytes_}"
    if sum(piece.count for piece in inlet.queue) != counts.queued:
        yield f"{counts.queued} counted as queued, not {sum(piece.count for piece in inlet.queue)}"
    if sum(piece.size for piece in inlet.queue) != inlet.queued_bytes:
        yield f"{inlet.queued_bytes} bytes counted as queued, not {sum(piece.size for piece in inlet.queue)}"


def _outlet(outlet: Outlet) -> Iterator[str]:
    where = f"sessions of link {outlet.name!r} to {outlet.consumer}"
    numbers = (outlet.unsent_messages, outlet.unsent_bytes, outlet.in_flight_messages, outlet.in_flight_bytes)
    if min(numbers) < 0:
        yield f"{where}: unsent and in flight (messages, bytes of each) are {numbers}"
    in_flight = sum(
        section.count for s in outlet.sessions.values() for f in s.flights.values() for _, section in f.sections
    )
    if in_flight != outlet.in_flight_messages:
        yield f"{where}: {outlet.in_flight_messages} counted as in flight, not {in_flight}"
    for session in outlet.sessions.values():
        if session.sent_messages - session.released < 0:
            yield f"{where}: {session.name} released {session.released} of {session.sent_messages}"
