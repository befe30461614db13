"""Which files a source reads: those that match its globs, in the order of their names.

Must not live here: what is in a file.
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from zpipe.errors import OperatorError


def find_files(
    paths: Sequence[str], exclude: Sequence[str], config_dir: Path, log: logging.Logger
) -> list[tuple[str, Path]]:
    """(name, path) of every file, sorted by name. Payloads and positions have the name, which stays the same when the folder
    of the config is moved. Raises OperatorError if there is none."""
    base = os.path.abspath(config_dir)
    found: dict[str, tuple[str, Path]] = {}
    excluded = [os.path.normpath(os.path.join(base, os.path.expanduser(pattern))) for pattern in exclude]
    for pattern in paths:
        matches = glob.glob(os.path.expanduser(pattern), root_dir=base, recursive=True)
        matches = [match for match in matches if os.path.isfile(os.path.join(base, match))]
        if not matches:
            log.warning("no file matches %r in %s", pattern, base)
        for match in matches:
            path = os.path.join(base, match)
            normal = os.path.normpath(path)
            if any(fnmatch(normal, pattern) for pattern in excluded):
                continue
            is_near = not os.path.isabs(match) or Path(normal).is_relative_to(base)
            name = os.path.relpath(normal, base) if is_near else normal
            found.setdefault(normal, (_as_text(name), Path(path)))
    if not found:
        raise OperatorError(f"no file matches {', '.join(map(repr, paths))} in {base}")
    return sorted(found.values())


def _as_text(name: str) -> str:
    """The name of a file as UTF-8 text. On the disk it may be any bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
