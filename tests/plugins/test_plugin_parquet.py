from __future__ import annotations

import errno
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zpipe.errors import OperatorError, Reject, Throttled
from zpipe.messages import BadRecord, Message
from zpipe_plugins.filesystem import parquet
from zpipe_plugins.filesystem.parquet import ParquetSink, ParquetSource, SinkOptions, SourceOptions


def messages(*payloads: Any) -> list[Message]:
    return [Message(payload, id=f"read:{n}") for n, payload in enumerate(payloads)]


def opened_sink(make_context: Any, **options: Any) -> tuple[ParquetSink, Any]:
    context, sink = make_context(SinkOptions(**{"folder": "out"} | options)), ParquetSink()
    sink.open(context)
    return sink, context


def stored(make_context: Any, *payloads: Any, **options: Any) -> tuple[pa.Table | None, dict[int, str]]:
    """The table of the file, and the reasons of those that were refused, by index."""
    sink, context = opened_sink(make_context, **options)
    answers = sink.process_batch(messages(*payloads), context) or [None] * len(payloads)
    assert len(answers) == len(payloads)
    refused = {index: str(answer) for index, answer in enumerate(answers) if isinstance(answer, Reject)}
    files = list((context.config_dir / "out").iterdir())
    assert all(answer is None or isinstance(answer, Reject) for answer in answers) and len(files) <= 1
    return (pq.read_table(files[0]) if files else None), refused


def read(make_context: Any, position: Any = None, **options: Any) -> list[tuple[list[Any], Any]]:
    context = make_context(SourceOptions(**{"paths": ["*.parquet"]} | options), position=position)
    source = ParquetSource()
    source.open(context)
    found = list(source.source(context))
    if not any(isinstance(payload, BadRecord) for _, payload in found):
        assert source.total(context) == len(found)
    return found


# ---- the sink


def test_a_batch_is_a_file_with_the_ids_of_its_messages(make_context: Any) -> None:
    table, refused = stored(make_context, {"a": 1, "b": "x"}, {"b": "y", "c": [1.5]}, {"a": None})
    assert not refused and table is not None
    assert table.to_pylist() == [
        {"a": 1, "b": "x", "c": None, "zpipe_id": "read:0"},
        {"a": None, "b": "y", "c": [1.5], "zpipe_id": "read:1"},
        {"a": None, "b": None, "c": None, "zpipe_id": "read:2"},
    ]


def test_a_batch_that_is_delivered_again_is_the_same_file(make_context: Any) -> None:
    sink, context = opened_sink(make_context)
    batch = messages({"a": 1}, {"a": 2})
    sink.process_batch(batch, context)
    [before] = (context.config_dir / "out").iterdir()
    bytes_before = before.read_bytes()
    sink.process_batch(batch, context)
    [after] = (context.config_dir / "out").iterdir()
    assert after == before and after.read_bytes() == bytes_before
    assert after.name.startswith("read-0--read-1.") and after.suffix == ".parquet"
    sink.process_batch(batch[1:], context)
    assert len(list((context.config_dir / "out").iterdir())) == 2


def test_types_are_found_or_said(make_context: Any) -> None:
    table, refused = stored(
        make_context,
        {"n": 1, "at": "2026-01-02T03:04:05Z", "day": "2026-01-02", "price": 2, "more": {"a": [True]}},
        {"n": 2.5, "at": "2026-01-02T03:04:05", "day": None, "price": 3, "more": None},
        columns={"at": "timestamp", "day": "date", "price": "float64", "gone": "string"},
        id_column="",
    )
    assert not refused and table is not None
    assert {field.name: str(field.type) for field in table.schema} == {
        "at": "timestamp[us, tz=UTC]",
        "day": "date32[day]",
        "price": "double",
        "gone": "string",
        "n": "double",
        "more": "struct<a: list<element: bool>>",
    }
    assert table["at"].to_pylist() == [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)] * 2
    assert table["day"].to_pylist() == [date(2026, 1, 2), None]


@pytest.mark.parametrize(
    ("payloads", "options", "words"),
    [
        ([{"a": 1}, [1], {"a": 2}], {}, {1: "the payload is a list"}),
        ([{"a": 1}, {"a": "x"}, {"a": 2}], {}, {1: "field 'a' cannot be stored as int64: "}),
        ([{"a": None}, {"a": "x"}, {"a": 2}], {}, {2: "field 'a' cannot be stored as string: "}),
        ([{"a": "1"}, {"a": "one"}], {"columns": {"a": "date"}}, {0: "as date: ", 1: "as date: "}),
        ([{"a": 1, "b": {}}, {"a": 2}], {}, {0: "a map without entries"}),
        ([{"a": 1}, {"a": 1 << 70}], {}, {1: "field 'a' cannot be stored as int64: "}),
        ([{"a": "1"}, {"a": 1}], {"columns": {"a": "int64"}}, {0: "field 'a' cannot be stored as int64: "}),
        ([{}, {"a": 1}], {"id_column": "", "columns": {}}, {}),
        ([{}, [], "", {"a": 1}], {}, {1: "the payload is a list", 2: "the payload is a str"}),
        ([{"a": 1}, "a", {"a": 1}], {}, {1: "the payload is a str"}),
        ([{}, {}], {"id_column": ""}, {0: "the payload has no fields", 1: "the payload has no fields"}),
        ([{"a": 1, "b": "x"}, {"a": "y", "b": 2}], {}, {1: "field 'a'"}),
    ],
)
def test_what_does_not_fit_is_refused_alone(
    make_context: Any, payloads: list[Any], options: dict[str, Any], words: dict[int, str]
) -> None:
    table, refused = stored(make_context, *payloads, **options)
    assert refused.keys() == words.keys()
    assert all(words[index] in refused[index] for index in words), refused
    assert (table.num_rows if table is not None else 0) == len(payloads) - len(words)


def test_many_that_do_not_fit_are_found_in_one_batch(make_context: Any) -> None:
    payloads = [{"a": "x" if n % 10 == 3 else n} for n in range(2000)]
    table, refused = stored(make_context, *payloads)
    assert list(refused) == list(range(3, 2000, 10)) and table is not None
    assert table["a"].to_pylist() == [n for n in range(2000) if n % 10 != 3]


def has_dictionary(make_context: Any, *payloads: Any) -> dict[str, bool]:
    """By the names of the file's columns."""
    sink, context = opened_sink(make_context)
    sink.process_batch(messages(*payloads), context)
    [file] = (context.config_dir / "out").iterdir()
    group = pq.ParquetFile(file).metadata.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    return {column.path_in_schema.partition(".")[0]: column.has_dictionary_page for column in columns}


def test_values_that_repeat_are_looked_for_where_some_do(make_context: Any) -> None:
    payloads = [
        {"same": "x", "few": n % 1000, "runs": n // 3, "none": None, "all": n, "real": n / 7} for n in range(5000)
    ]
    found = has_dictionary(make_context, *payloads)
    assert found == {
        "same": True, "few": True, "runs": True, "none": True, "all": False, "real": False, "zpipe_id": False
    }  # fmt: skip


def test_with_a_nested_column_values_that_repeat_are_looked_for_in_all(make_context: Any) -> None:
    """Such a column can only be named down to its leaves."""
    found = has_dictionary(make_context, *[{"all": n, "nested": [1]} for n in range(100)])
    assert found == {"all": True, "nested": True, "zpipe_id": True}


def test_a_full_disk_is_waited_for_and_leaves_no_file(make_context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sink, context = opened_sink(make_context)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parquet.os, "fsync", full)
    with pytest.raises(Throttled, match="out: No space left on device"):
        sink.process_batch(messages({"a": 1}), context)
    assert list((context.config_dir / "out").iterdir()) == []


def test_what_a_killed_life_has_left_goes_and_what_others_write_stays(make_context: Any, tmp_path: Path) -> None:
    """Others: another instance, and another worker process of this one, which has the same incarnation."""
    left = [".test.stage.1.0.0123abcd", ".test.stage.1.0123abcd"]
    others = [".test.stage.1.1.0123abcd", ".test.stage.11.0.0123abcd", "read-0--read-1.0123abcd.parquet"]
    (tmp_path / "out").mkdir()
    for name in left + others:
        (tmp_path / "out" / name).touch()
    opened_sink(make_context)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == others


def test_a_folder_that_cannot_be_made_ends_the_start(make_context: Any, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(OperatorError, match="cannot write to "):
        opened_sink(make_context)


# ---- the source


def test_it_resumes_after_any_row_of_any_row_group(make_context: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(parquet, "_ROWS", 3)
    for name, rows in (("a", 10), ("b", 0), ("c", 4)):
        table = pa.table({"n": list(range(rows)), "file": pa.array([name] * rows, pa.string())})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=4)
    whole = read(make_context)
    assert [payload for _, payload in whole] == [
        {"n": n, "file": name} for name, rows in (("a", 10), ("c", 4)) for n in range(rows)
    ]
    assert [position for position, _ in whole][8:11] == [["a.parquet", 8], ["a.parquet", 9], ["c.parquet", 0]]
    for index, (position, _) in enumerate(whole):
        assert read(make_context, json.loads(json.dumps(position))) == whole[index + 1 :]
    assert read(make_context, ["b.parquet", 5]) == whole[10:], "a file that has gone, or is shorter"


def test_values_are_as_payloads_have_them(make_context: Any, tmp_path: Path) -> None:
    row = {
        "at": datetime(2026, 1, 2, tzinfo=UTC),
        "day": date(2026, 1, 2),
        "cost": Decimal("1.50"),
        "more": {"list": [1, None], "raw": b"\xff"},
        "none": None,
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    [(_, payload)] = read(make_context)
    assert payload == row | {"at": "2026-01-02T00:00:00+00:00", "day": "2026-01-02", "cost": "1.50"}
    assert read(make_context, columns=["day", "none"])[0][1] == {"day": "2026-01-02", "none": None}


def test_a_file_that_cannot_be_read_is_a_bad_record_and_the_next_follows(make_context: Any, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet at all")
    pq.write_table(pa.table({"m": [1]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"n": [1]}), tmp_path / "c.parquet")
    found = read(make_context, columns=["n"])
    assert [position for position, _ in found] == [
        ["a.parquet", 0, "unreadable"],
        ["b.parquet", 0, "unreadable"],
        ["c.parquet", 0],
    ]
    assert "cannot read a.parquet: " in found[0][1].reason
    assert found[1][1].reason == "cannot read b.parquet: it has no column 'n'"
    assert read(make_context, found[0][0], columns=["n"])[1:] == found[2:], "it is not read again"
    assert read(make_context, found[1][0], columns=["n"]) == found[2:]


def test_what_the_sink_has_written_comes_back(make_context: Any, tmp_path: Path) -> None:
    payloads = [{"n": n, "word": "räksmörgås", "raw": b"\0", "many": [{"a": n}]} for n in range(5)]
    stored(make_context, *payloads)
    found = read(make_context, paths=["out/*.parquet"])
    assert [payload for _, payload in found] == [one | {"zpipe_id": f"read:{n}"} for n, one in enumerate(payloads)]


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (SourceOptions, {"paths": []}, "paths has nothing to read"),
        (SinkOptions, {"folder": ""}, "folder is empty"),
        (SinkOptions, {"folder": "f", "columns": {"a": "int"}}, "columns.a is 'int': allowed are bool, int64"),
    ],
)
def test_wrong_options(kind: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind(**options)
