"""A table read page by page in the order of a cursor, for the sources of all databases: the options, and the loop.

Must not live here: how a database is asked for a page.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from zpipe import Context, Duration
from zpipe_plugins.plain_values import plain_rows
from zpipe_plugins.service_plugin import ServiceOptions

Position = int | float | str | list[Any]
Page = tuple[Sequence[str], Sequence[Sequence[Any]]]
"""The names of the columns, and the rows."""


@dataclass(kw_only=True)
class CursorOptions(ServiceOptions):
    table: Annotated[str, "the table or view that is read, as `name` or `schema.name`"]
    cursor: Annotated[list[str], "columns by whose order it is read: together unique, never null, and growing"]
    columns: Annotated[list[str], "what is read; left out: all columns"] = dataclasses.field(default_factory=list)
    where: Annotated[str, "a condition in SQL; only rows for which it is true are read"] = ""
    page: Annotated[int, "how many rows are asked for at once"] = 1000
    poll: Annotated[Duration | None, "look for new rows this often; left out: end after the last row"] = None

    def __post_init__(self) -> None:
        if not self.table:
            raise ValueError("table is empty: allowed is the name of a table")
        if not self.cursor:
            raise ValueError('cursor is empty: allowed are names of columns, such as ["id"]')
        if self.page < 1:
            raise ValueError(f"page is {self.page}: allowed is 1 or more")
        if self.poll is not None and not self.poll > 0:
            raise ValueError(f"poll is {self.poll}: allowed is any time above 0")
        super().__post_init__()

    @property
    def selected(self) -> list[str]:
        """The columns to ask for, those of the cursor among them; none: all."""
        return list(dict.fromkeys([*self.columns, *self.cursor])) if self.columns else []


def read_pages(
    context: Context[Any, Position],
    options: CursorOptions,
    page_after: Callable[[list[Any] | None], Page],
    wait: Callable[[float], object],
) -> Iterator[tuple[Position, dict[str, Any]]]:
    """The messages of a source. `page_after` gives the next rows after these values of the cursor (None: from the beginning)."""
    position = context.position
    after = position if isinstance(position, list) or position is None else [position]
    single = options.cursor[0] if len(options.cursor) == 1 else ""
    while not context.stopping.is_set():
        names, rows = page_after(after)
        payloads = plain_rows(names, rows)
        if single:
            for payload in payloads:
                yield payload[single], payload
        else:
            for payload in payloads:
                yield [payload[name] for name in options.cursor], payload
        if payloads:
            after = [payloads[-1][name] for name in options.cursor]
        if len(rows) < options.page:
            if options.poll is None:
                return
            wait(options.poll)
