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

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from zpipe import Context, Source, override
from zpipe_plugins.filesystem.file_list import find_files
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
        options = context.options
        self._files = find_files(options.paths, options.exclude, context.config_dir, context.log)

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
