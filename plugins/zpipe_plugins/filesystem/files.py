"""`files`: a source that reads files, as a whole, by line, as NDJSON or as CSV.

The files are read in the order of their names, which are relative to the config's folder where they are in it. `file`
gives `{"path", "text"}`, `lines` gives `{"path", "line", "text"}`, `ndjson` the value of each line, `csv` each row by its
header. Text is UTF-8, and what is not becomes U+FFFD; Python files say their own encoding. The list of files is made at
the start. To follow a file that grows, take `tail`.

| fault | what follows |
|---|---|
| a line that is not JSON, a row with too few fields, a line above 64 MiB | a dead letter of this stage; the next record follows |
| a file that cannot be read, or whose header is no header | a dead letter for the rest of it; the next file follows |
| no file matches | the stage does not start |

**Resume.** A position is `[path, number, offset]`: the file, the number of the record in it, and the offset of the next
one. So a start after a crash goes on with the record after the last committed one. Do not change files while a run is
unfinished.
"""

from __future__ import annotations

import glob
import os
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

from zpipe import Context, Source, override
from zpipe.errors import OperatorError
from zpipe_plugins.filesystem.readers import READERS, Record, read_file


@dataclass
class Options:
    paths: Annotated[list[str], "names or globs, relative to the config file; `**` stands for any depth"]
    format: Annotated[Literal["file", "lines", "ndjson", "csv"], "what one message is"] = "file"
    exclude: Annotated[list[str], "globs of files to leave out; here `*` also crosses folders"] = field(
        default_factory=list
    )

    def __post_init__(self) -> None:
        if not self.paths or not all(self.paths):
            raise ValueError("paths has nothing to read: allowed is a list of one or more names or globs")
        if self.format not in READERS:
            raise ValueError(f"format is {self.format!r}: allowed are {', '.join(READERS)}")


class Files(Source[Options, list[Any]]):
    def __init__(self) -> None:
        self._files: list[tuple[str, Path]] = []

    @override
    def open(self, context: Context[Options]) -> None:
        self._files = _find(context)

    @override
    def total(self, context: Context[Options, list[Any]]) -> int | None:
        if context.options.format != "file":
            return None
        return sum(1 for name, _ in self._files if context.position is None or name > context.position[0])

    @override
    def source(self, context: Context[Options, list[Any]]) -> Iterator[Record]:
        read = READERS[context.options.format]
        files, resumed = self._files, context.position
        if resumed is not None:
            # The file may have gone since. Then the next one by name follows.
            files = files[bisect_left(files, resumed[0], key=lambda file: file[0]) :]
        for name, path in files:
            start = resumed if resumed is not None and resumed[0] == name else [name, 0, 0]
            for record in read_file(read, name, path, start):
                yield record
                if context.stopping.is_set():
                    return


# Which files


def _find(context: Context[Options]) -> list[tuple[str, Path]]:
    """(name, path) of every file, sorted by name. Payloads and positions have the name, which stays the same when the folder
    of the config is moved."""
    base = os.path.abspath(context.config_dir)
    found: dict[str, tuple[str, Path]] = {}
    excluded = [
        os.path.normpath(os.path.join(base, os.path.expanduser(pattern))) for pattern in context.options.exclude
    ]
    for pattern in context.options.paths:
        matches = glob.glob(os.path.expanduser(pattern), root_dir=base, recursive=True)
        matches = [match for match in matches if os.path.isfile(os.path.join(base, match))]
        if not matches:
            context.log.warning("no file matches %r in %s", pattern, base)
        for match in matches:
            path = os.path.join(base, match)
            normal = os.path.normpath(path)
            if any(fnmatch(normal, pattern) for pattern in excluded):
                continue
            is_near = not os.path.isabs(match) or Path(normal).is_relative_to(base)
            name = os.path.relpath(normal, base) if is_near else normal
            found.setdefault(normal, (_as_text(name), Path(path)))
    if not found:
        raise OperatorError(f"no file matches {', '.join(map(repr, context.options.paths))} in {base}")
    return sorted(found.values())


def _as_text(name: str) -> str:
    """The name of a file as UTF-8 text. On the disk it may be any bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
