"""Messages as columns of Arrow, for the sink of `parquet`, and which messages have a value that does not fit into its column.

Must not live here: files.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from zpipe import Reject

if TYPE_CHECKING:
    import pyarrow

TYPES = ("bool", "int64", "float64", "string", "binary", "date", "timestamp")
"""What the options may say of a field. The others are as Arrow finds them."""
_WORDS_KEPT = 200
_UNFIT = (ValueError, TypeError, OverflowError, NotImplementedError)
"""What Arrow raises for values: its own errors are such, too."""
_NO_FIELDS = "the payload has no fields, and there is no column for its id"
_LOOK = 128
"""Equal values are looked for among the first 128 of a column and each 128th after them: the first show runs of equal values, the
others values that come back. With 5,000 values, each one of 2,000, this finds none once in a thousand times."""
_PARSERS = {"date": date.fromisoformat, "timestamp": datetime.fromisoformat}


class Rows(NamedTuple):
    """A batch as a table.

    table      None if no message is left
    repeating  its columns in which Parquet is to look for values that repeat, as `use_dictionary`. In others, such as ids and
               measurements, it would take longer for that than for all else, and the file would be larger
    ids        of the messages in it
    answers    for each of all messages; None if all are in it
    """

    table: pyarrow.Table | None
    repeating: bool | list[str]
    ids: list[str]
    answers: list[Reject | None] | None


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

    def table(self, payloads: list[Any], ids: list[str]) -> Rows:
        answers: list[Reject | None] | None = None
        places: Sequence[int] = range(len(payloads))
        left, ids_left, table = payloads, ids, None
        repeating: bool | list[str] = []
        while left and table is None:
            table, repeating, refused = self._table(left, ids_left)
            if refused:
                answers = answers or [None] * len(payloads)
                for index, reason in refused.items():
                    answers[places[index]] = Reject(reason)
                places = [place for place in places if answers[place] is None]
                left, ids_left = [payloads[place] for place in places], [ids[place] for place in places]
        return Rows(table, repeating, ids_left, answers)

    def _table(
        self, payloads: list[Any], ids: list[str]
    ) -> tuple[pyarrow.Table | None, bool | list[str], dict[int, str]]:
        """The table and its repeating columns; or none, and why it cannot have some of the messages."""
        import pyarrow

        columns = self._values_of_one_kind(payloads)
        if columns is None:
            if not set(map(type, payloads)) <= {dict}:
                return None, [], {index: _no_map(one) for index, one in enumerate(payloads) if type(one) is not dict}
            columns = self._values(payloads)
        arrays, refused = {}, dict[int, str]()
        for name, values in columns.items():
            try:
                arrays[name] = self._array(name, values)
            except _UNFIT:
                refused |= {index: why for index, why in self._unfit(name, values).items() if index not in refused}
        if refused:
            return None, [], refused
        # Where there are lists or maps, the columns would have to be named down to their leaves.
        is_flat = not any(pyarrow.types.is_nested(array.type) for array in arrays.values())
        repeating = [name for name, values in columns.items() if _repeats(values)] if is_flat else True
        if self._id_column:
            arrays[self._id_column] = pyarrow.array(ids, pyarrow.string())
        if arrays:
            return pyarrow.table(arrays), repeating, refused
        return None, [], dict.fromkeys(range(len(payloads)), _NO_FIELDS)

    def _values_of_one_kind(self, payloads: list[Any]) -> dict[str, list[Any]] | None:
        """As `_values`, if all are maps that have the same fields, as nearly always. None if they are not."""
        if type(payloads[0]) is not dict:
            return None
        names = self._names(payloads[:1])
        try:  # nothing but a map has anything by a name
            found = {name: [payload[name] for payload in payloads] for name in names}
        except (KeyError, TypeError):
            return None
        return found if names and sum(map(len, payloads)) == len(names) * len(payloads) else None

    def _values(self, payloads: list[dict[str, Any]]) -> dict[str, list[Any]]:
        """By the names of all fields, in the order in which they are first seen, after those that have a type."""
        return {name: [payload.get(name) for payload in payloads] for name in self._names(payloads)}

    def _names(self, payloads: list[dict[str, Any]]) -> dict[str, None]:
        names: dict[str, None] = dict.fromkeys(self._kinds)
        for payload in payloads:
            names |= dict.fromkeys(payload)
        names.pop(self._id_column, None)
        return names

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


def _repeats(values: list[Any]) -> bool:
    """Whether some values are equal, as far as a look at few of them tells."""
    some = values[:_LOOK] + values[_LOOK::_LOOK]
    return len(set(some)) < len(some)


def _no_map(payload: Any) -> str:
    return f"the payload is a {type(payload).__name__}: allowed are maps of fields"


def _has_empty_map(type: Any) -> bool:
    import pyarrow

    if pyarrow.types.is_struct(type):
        return type.num_fields == 0 or any(_has_empty_map(type.field(i).type) for i in range(type.num_fields))
    return pyarrow.types.is_list(type) and _has_empty_map(type.value_type)
