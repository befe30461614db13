"""How long a process takes until it says that it is ready, as systemd hears it: READY=1 at $NOTIFY_SOCKET.

As a program it is the reference: a process that imports pyzmq and cbor2, binds a socket, and says so.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.processes import end

READY_S = 30.0


def ready_after_s(start: Callable[[dict[str, str]], subprocess.Popen[str]], folder: Path) -> float:
    """Seconds from the start of the process to its word. `start` is given its environment."""
    path = str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(path)
        notify.settimeout(READY_S)
        began = time.monotonic()
        process = start({**os.environ, "NOTIFY_SOCKET": path})
        try:
            while b"READY=1" not in notify.recv(65536):
                pass
            return time.monotonic() - began
        finally:
            end(process)


def _main(folder: str) -> None:
    import cbor2
    import zmq

    inbox: Any = zmq.Context.instance().socket(zmq.PULL)
    inbox.bind(f"ipc://{folder}/0")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    cbor2.loads(inbox.recv())


if __name__ == "__main__":
    _main(sys.argv[1])
