"""The rights of a user who is not root, so that what such a user may not do is also tested where the tests run as root."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def folder_for_anybody() -> Iterator[Path]:
    """A folder that every user can read: pytest's are closed to all but their owner."""
    with tempfile.TemporaryDirectory(prefix="zp-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@contextmanager
def as_unprivileged_user() -> Iterator[None]:
    """Root is nobody meanwhile. What it needs has to be imported before: the interpreter may be in root's home."""
    is_root = os.geteuid() == 0
    if is_root:
        os.setresuid(NOBODY, NOBODY, 0)  # the saved one leads back
    try:
        yield
    finally:
        if is_root:
            os.setresuid(0, 0, 0)
