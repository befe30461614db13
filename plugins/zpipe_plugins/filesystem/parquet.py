"""`parquet`: reads the rows of Parquet files, or writes each batch as a file of its own.

Without an input it is a source. It reads the files in the order of their names, and gives each row as a map of its columns. Times
become ISO 8601 text, decimals text.

With an input it is a sink. A batch becomes one file in `folder`, called after the ids of its first and last message, so give the
stage a large `batch`, of which its `queue` and the `unacked` of the stages before can hold some. The fields of a payload are
columns, and `id_column` has the id of the message. A field that a payload lacks is null. The types of the columns are found anew
for each file; where that matters, say them in `columns`. Text in ISO 8601 fits `date` and `timestamp`; a time without a zone is
taken for UTC.

A file is written under a name that begins with a dot, and renamed when it is complete and on the disk. So readers such as DuckDB,
Spark and pandas see whole files only.

```toml
[stages.store]
input = "read"
plugin = "parquet"
batch = { messages = 5000, bytes = "16MiB", timeout = "60s" }
queue = { messages = 20000 }
workers = { kind = "process", count = 2 }    # to make a file is work for a processor each
options = { folder = "orders", columns = { price = "float64", at = "timestamp" } }
```

| fault | what follows |
|---|---|
| the disk is full, or cannot be written | the stage waits, and tries again |
| the folder cannot be made or written to at the start | the stage does not start |
| a payload is no map; a value does not fit into its column | a dead letter with Arrow's words; the rest is stored |
| a file that cannot be read, or lacks one of `columns` | a dead letter of the source for the rest of it; the next file follows |
| no file matches | the stage does not start |

**Resume.** A position is `[path, row]`: a start goes on after it. Row groups that were read before are passed over.

**Redelivery.** The same batch writes the same file again. After a kill a batch may be put together otherwise: then a message can
be in two files, with the same id in `id_column`.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from zpipe import Context, Message, Sink, Source, Throttled, Traits, override
from zpipe.errors import OperatorError
from zpipe.messages import BadRecord
from zpipe_plugins.batch_names import batch_name
from zpipe_plugins.extras import require
from zpipe_plugins.filesystem.file_list import find_files
from zpipe_plugins.filesystem.parquet_columns import TYPES, Columns
from zpipe_plugins.plain_values import plain_columns
from zpipe_plugins.reconnect import words_of

if TYPE_CHECKING:
    import pyarrow

Position = list[Any]
_ROWS = 4096
"""Read at once: enough that a call of Arrow for each column costs little, few enough to be held."""
_AGAIN_S = 1.0


@dataclass(kw_only=True)
class SourceOptions:
    paths: Annotated[list[str], "names or globs, relative to the config file; `**` stands for any depth"]
    exclude: Annotated[list[str], "globs of files to leave out; here `*` also crosses folders"] = field(
        default_factory=list
    )
    columns: Annotated[list[str], "what is read; left out: all columns"] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.paths or not all(self.paths):
            raise ValueError("paths has nothing to read: allowed is a list of one or more names or globs")


@dataclass(kw_only=True)
class SinkOptions:
    folder: Annotated[str, "where the files are, relative to the config file; is made if it is not there"]
    columns: Annotated[dict[str, str], f"types of fields whose type matters: {', '.join(TYPES)}"] = field(
        default_factory=dict
    )
    id_column: Annotated[
        str, "the column that has the messages' ids, in place of a field of that name; empty: none"
    ] = "zpipe_id"
    compression: Annotated[Literal["snappy", "zstd", "gzip", "none"], "of the columns"] = "snappy"

    def __post_init__(self) -> None:
        if not self.folder:
            raise ValueError("folder is empty: allowed is the name of a folder")
        for name, kind in self.columns.items():
            if kind not in TYPES:
                raise ValueError(f"columns.{name} is {kind!r}: allowed are {', '.join(TYPES)}")


# ---- reading


class ParquetSource(Source[SourceOptions, Position]):
    @override
    def check(self, options: SourceOptions, config_dir: Path) -> None:
        require("parquet", "pyarrow")

    @override
    def open(self, context: Context[SourceOptions]) -> None:
        options = context.options
        self._files = find_files(options.paths, options.exclude, context.config_dir, context.log)

    @override
    def total(self, context: Context[SourceOptions, Position]) -> int | None:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_metadata

        try:
            rows: dict[str, int] = {
                name: read_metadata(path).num_rows for name, path in self._files_after(context.position)
            }
        except (OSError, ArrowException):
            return None
        if context.position is not None and context.position[0] in rows:
            rows[context.position[0]] = max(0, rows[context.position[0]] - context.position[1] - 1)
        return sum(rows.values())

    @override
    def source(self, context: Context[SourceOptions, Position]) -> Iterator[tuple[Position, Any]]:
        from pyarrow import ArrowException

        resumed = context.position
        for name, path in self._files_after(resumed):
            row = resumed[1] + 1 if resumed is not None and resumed[0] == name else 0
            try:
                for payload in _rows_of(path, context.options.columns, row):
                    yield [name, row], payload
                    row += 1
                    if context.stopping.is_set():
                        return
            except (OSError, ArrowException, ValueError) as error:
                yield [name, row, "unreadable"], BadRecord(f"cannot read {name}: {words_of(error)}", b"")

    def _files_after(self, position: Position | None) -> list[tuple[str, Path]]:
        """Those that are not over. The file of the position may have gone since; then the next one by name follows."""
        if position is None:
            return self._files
        files = self._files[bisect_left(self._files, position[0], key=lambda file: file[0]) :]
        is_over = len(position) > 2 and files and files[0][0] == position[0]
        return files[1:] if is_over else files


def _rows_of(path: Path, columns: list[str], first: int) -> Iterator[dict[str, Any]]:
    """The rows from the first one on. Row groups before it are not read."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        if missing := [name for name in columns if name not in file.schema_arrow.names]:
            raise ValueError(f"it has no column {missing[0]!r}")
        groups = list(range(file.num_row_groups))
        while groups and (rows := file.metadata.row_group(groups[0]).num_rows) <= first:
            first -= rows
            groups.pop(0)
        for batch in file.iter_batches(_ROWS, groups, columns or None) if groups else ():
            if first < batch.num_rows:
                rest = batch.slice(first)
                yield from plain_columns(rest.schema.names, [column.to_pylist() for column in rest.columns])
            first = max(0, first - batch.num_rows)


# ---- writing


class ParquetSink(Sink[SinkOptions]):
    @override
    def check(self, options: SinkOptions, config_dir: Path) -> None:
        require("parquet", "pyarrow")

    @override
    def traits(self, options: SinkOptions, config_dir: Path) -> Traits:
        return Traits(writes=(_folder(options, config_dir),))

    @override
    def open(self, context: Context[SinkOptions]) -> None:
        options = context.options
        self._columns = Columns(options.id_column, options.columns)
        self._compression = options.compression
        self.batch_function = self._store
        self._folder = _folder(options, context.config_dir)
        of_instance = f".{context.pipeline}.{context.stage}.{context.instance}."
        self._aside = f"{of_instance}{context.incarnation}."
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for left in self._folder.glob(f"{of_instance}*"):
                # By a life of this instance that was killed. What other worker processes of this life write is theirs.
                if not left.name.startswith(self._aside):
                    left.unlink()
        except OSError as error:
            raise OperatorError(f"cannot write to {self._folder}: {error.strerror or error}") from error
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise OperatorError(f"cannot write to {self._folder}: no permission")

    @override
    def process_batch(self, messages: list[Message], context: Context[SinkOptions]) -> list[Any] | None:
        return self._store([message.payload for message in messages], [message.id for message in messages])

    def _store(self, payloads: list[Any], ids: list[str]) -> list[Any] | None:
        rows = self._columns.table(payloads, ids)
        if rows.table is not None:
            name = batch_name(rows.ids)
            try:
                self._write(rows.table, name, rows.repeating)
            except OSError as error:  # never the fault of a message, so it is tried again and keeps its attempts
                raise Throttled(_AGAIN_S, f"{self._folder}: {error.strerror or error}") from error
        return rows.answers

    def _write(self, table: pyarrow.Table, name: str, repeating: bool | list[str]) -> None:
        """Writes the file durably, or raises and leaves nothing that is read."""
        from pyarrow import BufferOutputStream
        from pyarrow.parquet import write_table

        # Made in memory: Arrow gives a file of Python some twenty pieces, for each of which it needs the interpreter's lock.
        made = BufferOutputStream()
        write_table(table, made, compression=self._compression, use_dictionary=repeating)
        aside = self._folder / f"{self._aside}{name[-8:]}"
        try:
            with aside.open("wb") as file:
                file.write(made.getvalue())
                file.flush()
                os.fsync(file.fileno())
            aside.rename(self._folder / f"{name}.parquet")
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        # A new name is on the disk only after its folder is written.
        folder = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _folder(options: SinkOptions, config_dir: Path) -> Path:
    return config_dir / Path(options.folder).expanduser()
