"""Messages as columns of Arrow, for the sink of `parquet`, and which messages have a value that does not fit into its column.

Must not live here: files.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from zpipe import Reject

if TYPE_CHECKING:
    import pyarrow

TYPES = ("bool", "int64", "float64", "string", "binary", "date", "timestamp")
"""What the options may say of a field. The others are as Arrow finds them."""
_WORDS_KEPT = 200
_UNFIT = (ValueError, TypeError, OverflowError, NotImplementedError)
"""What Arrow raises for values: its own errors are such, too."""
_PARSERS = {"date": date.fromisoformat, "timestamp": datetime.fromisoformat}


class Columns:
    """Makes a batch of messages a table.

    id_column  the column for their ids; "" for none
    types      by the name of a field, one of TYPES. The table has such a column also if no message has the field
    """

    def __init__(self, id_column: str, types: dict[str, str]) -> None:
        import pyarrow

        self._id_column = id_column
        self._kinds = types
        times = {"date": pyarrow.date32(), "timestamp": pyarrow.timestamp("us", tz="UTC")}
        self._types = {name: times.get(kind) or pyarrow.type_for_alias(kind) for name, kind in types.items()}

    def table(self, payloads: list[Any], ids: list[str]) -> tuple[pyarrow.Table | None, list[str], list[Reject | None]]:
        """The table, the ids of the messages in it, and an answer for each of all messages. No table if no message is left."""
        answers: list[Reject | None] = [None] * len(payloads)
        places: Sequence[int] = range(len(payloads))
        left, ids_left, table = payloads, ids, None
        while left and table is None:
            table, refused = self._table(left, ids_left)
            for index, reason in refused.items():
                answers[places[index]] = Reject(reason)
            if refused:
                places = [place for place in places if answers[place] is None]
                left, ids_left = [payloads[place] for place in places], [ids[place] for place in places]
        return table, ids_left, answers

    def repeating(self, table: pyarrow.Table) -> bool | list[str]:
        """The columns in which Parquet looks for values that repeat, as `use_dictionary`. Ids never do: without them a file of
        5,000 small payloads takes 0.78 ms in place of 1.05, and has 53 kB in place of 62 (measured)."""
        import pyarrow

        if any(map(pyarrow.types.is_nested, table.schema.types)):
            return True  # these would have to be named down to their leaves
        return [name for name in table.column_names if name != self._id_column]

    def _table(self, payloads: list[Any], ids: list[str]) -> tuple[pyarrow.Table | None, dict[int, str]]:
        """The table; or none, and why it cannot have some of the messages."""
        import pyarrow

        if not set(map(type, payloads)) <= {dict}:
            return None, {index: _no_map(one) for index, one in enumerate(payloads) if type(one) is not dict}
        arrays, refused = {}, dict[int, str]()
        for name, values in self._values(payloads).items():
            try:
                arrays[name] = self._array(name, values)
            except _UNFIT:
                refused |= {index: why for index, why in self._unfit(name, values).items() if index not in refused}
        if refused:
            return None, refused
        if self._id_column:
            arrays[self._id_column] = pyarrow.array(ids, pyarrow.string())
        if arrays:
            return pyarrow.table(arrays), refused
        return None, dict.fromkeys(range(len(payloads)), "the payload has no fields, and there is no column for its id")

    def _values(self, payloads: list[dict[str, Any]]) -> dict[str, list[Any]]:
        """By the names of all fields, in the order in which they are first seen, after those that have a type."""
        names = dict.fromkeys(self._kinds) | dict.fromkeys(payloads[0])
        names.pop(self._id_column, None)
        try:
            found = {name: [payload[name] for payload in payloads] for name in names}
            if set(map(len, payloads)) == {len(names)}:
                return found  # so all have the same fields, as nearly always
        except KeyError:
            pass
        for payload in payloads:
            names |= payload
        names.pop(self._id_column, None)
        return {name: [payload.get(name) for payload in payloads] for name in names}

    def _array(self, name: str, values: Sequence[Any], type: Any = None) -> pyarrow.Array:
        import pyarrow

        if parse := _PARSERS.get(self._kinds.get(name, "")):
            values = [None if value is None else parse(value) for value in values]
        array = pyarrow.array(values, self._types.get(name, type))
        if pyarrow.types.is_nested(array.type) and _has_empty_map(array.type):
            raise ValueError("a map without entries, which Parquet cannot hold")
        return array

    def _unfit(self, name: str, values: list[Any]) -> dict[int, str]:
        """Why values cannot stand in one column with those before them, by their indices; which is found by halving."""
        import pyarrow

        found: dict[int, str] = {}

        def look(start: int, end: int, type: Any) -> Any:
            try:
                array = self._array(name, values[start:end], type)
            except _UNFIT as error:
                if end - start > 1:
                    middle = (start + end) // 2
                    return look(middle, end, look(start, middle, type))
                kind = f" as {self._kinds[name]}" if name in self._kinds else "" if type is None else f" as {type}"
                words = " ".join(str(error).split())[:_WORDS_KEPT]
                found[start] = f"field {name!r} cannot be stored{kind}: {words}"
                return type
            return None if pyarrow.types.is_null(array.type) else array.type

        look(0, len(values), None)
        return found


def _no_map(payload: Any) -> str:
    return f"the payload is a {type(payload).__name__}: allowed are maps of fields"


def _has_empty_map(type: Any) -> bool:
    import pyarrow

    if pyarrow.types.is_struct(type):
        return type.num_fields == 0 or any(_has_empty_map(type.field(i).type) for i in range(type.num_fields))
    return pyarrow.types.is_list(type) and _has_empty_map(type.value_type)
