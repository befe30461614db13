"""A command that reads instances of its own host and of another, with keys."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from test_curve import WEB1, WEB2, free_ports, trusted

from zpipe.transport.operator_sockets import OperatorSockets
from zpipe.transport.sockets import Bound, Sockets

DEADLINE_S = 60.0


def test_instances_of_this_host_are_read_beside_those_of_another(tmp_path: Path) -> None:
    """In whichever order they are connected to: an option of libzmq's holds for all that a socket connects to after it."""
    port = free_ports()
    server = Sockets(WEB2, trusted())
    local = [f"ipc://{tmp_path}/{name}" for name in Bound._fields]
    remote = Bound(*(f"tcp://127.0.0.1:{port + more}" for more in (2, 0, 1)))
    server.bind(*local, high_water_mark=10, remote=remote)
    command = OperatorSockets(b"topic", pair=WEB1, trusted=trusted())
    copies: Counter[bytes] = Counter()
    try:
        command.connect(remote.control, "web2")
        command.connect(f"ipc://{tmp_path}/control")
        end = time.monotonic() + DEADLINE_S
        number = 0
        while 2 not in copies.values():  # one frame has come by both ways
            assert time.monotonic() < end, (copies, command.refused)
            list(server.poll(0.01))
            list(server.publish(b"topic", b"%d" % (number := number + 1)))
            copies.update(frame for _, frame in command.read(0.05))
        assert not command.refused
    finally:
        command.close()
        server.close()
