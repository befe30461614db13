"""A scripted keeper: it takes the dead letters of the stage under test, and its last words. Must not live here: a case."""

from __future__ import annotations

from zpipe.conform.upstream import read_frame
from zpipe.conform.verdicts import NotKept
from zpipe.core.wire import cbor
from zpipe.core.wire.frames import Announcement, Bury, Snapshot
from zpipe.transport.neighbour_sockets import LettersSocket


class DeadLetters:
    """`letters`: those that came. Each is answered at once, as if it were durable."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.letters: list[Bury] = []
        self._socket = LettersSocket(address)

    def turn(self) -> None:
        for parts in self._socket.read():
            frame = read_frame(parts, 2, "the address of dead letters")
            if isinstance(frame, Bury):
                self.letters.append(frame)
            elif not isinstance(frame, (Announcement, Snapshot)):
                expected = "nothing but bury, announcement and snapshot at the address of dead letters"
                raise NotKept("-", expected, f"a {frame.kind}")
            number = frame.number if isinstance(frame, Bury) else 0
            self._socket.answer(parts[0], cbor.write({"kind": "done", "number": number, "state": "RUNNING"}))

    def close(self) -> None:
        self._socket.close()
