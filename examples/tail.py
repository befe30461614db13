"""A source that follows a log file, as `tail -F` does: also when it is rotated, and from where it was after a restart."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import zpipe


@dataclass
class Options:
    path: str
    every: float = 0.2  # seconds between two looks at a file that has no more


class Tail(zpipe.Source[Options, list[int]]):
    """A position is the file's inode and the byte after the line. So each line has one of its own, at every start."""

    @zpipe.override
    def source(self, context: zpipe.Context[Options, list[int]]) -> Iterator[tuple[list[int], Any]]:
        stopping, every = context.stopping, context.options.every
        path, (inode, at) = context.config_dir / context.options.path, context.position or [0, 0]
        while not stopping.is_set():
            with suppress(FileNotFoundError), path.open("rb") as file:
                found, followed = os.fstat(file.fileno()).st_ino, False
                inode, at = found, file.seek(at if found == inode else 0)
                while not stopping.is_set():
                    if (line := file.readline()).endswith(b"\n"):
                        at += len(line)
                        yield [inode, at], {"line": line.decode(errors="replace").rstrip("\n")}
                    elif followed:
                        break  # all that was written before the next file was begun is read
                    else:
                        file.seek(at)  # half a line is read again when it is whole
                        with suppress(FileNotFoundError):
                            followed = path.stat().st_ino != inode
                        stopping.wait(0 if followed else every)
            stopping.wait(every)
