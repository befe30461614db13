"""The statements on dead letters, on a database of their own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.core.work.stored_dead_letter import MESSAGE
from zpipe.runtime import dead_letter_table
from zpipe.runtime.dead_letter_table import Filter, LetterRow


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(dead_letter_table.SCHEMA)
        yield connection


def row(size: int = 1, reason: str = "no", headers: bytes | None = None) -> LetterRow:
    return LetterRow(
        "work", "id", 1.0, MESSAGE, reason, "trace" * size, 2, 1, ("call 1: no",), headers, b"x" * size, "read"
    )


def mark(connection: sqlite3.Connection, number: int, rate: float = 1.0) -> None:
    connection.execute("UPDATE dead_letters SET replay_rate = ? WHERE number = ?", (rate, number))


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "again", "remove", "edit", "expire"]), st.integers(1, 8)), max_size=40
)


@given(STEPS)
def test_the_total_is_that_of_the_rows(steps: list[tuple[str, int]]) -> None:
    with database() as connection:
        for what, number in steps:
            match what:
                case "add":
                    dead_letter_table.add(
                        connection, row(number, headers=b"h" * number if number % 2 else None), "life"
                    )
                case "again":
                    dead_letter_table.add_again(connection, number, row(number + 1), "life")
                case "remove":
                    dead_letter_table.remove(connection, number)
                case "edit":
                    connection.execute("UPDATE dead_letters SET payload = 'yyyy' WHERE number = ?", (number,))
                case "expire":
                    dead_letter_table.expire(connection, 1e9 if number < 8 else -1e9)
            sizes = "length(payload) + ifnull(length(headers), 0) + length(traceback) + length(history)"
            counted = connection.execute(f"SELECT count(*), ifnull(sum({sizes}), 0) FROM dead_letters").fetchone()
            assert dead_letter_table.total(connection) == counted


def test_a_letter_that_an_earlier_life_has_written_is_not_written_twice() -> None:
    with database() as connection:
        dead_letter_table.add(connection, row(), "first")
        dead_letter_table.add(connection, row(), "first")  # two messages of one life that look alike are two
        assert dead_letter_table.total(connection)[0] == 2
        dead_letter_table.add(connection, replace(row(reason="newer"), traceback=""), "second")
        assert dead_letter_table.total(connection)[0] == 2
        reasons = "SELECT reason FROM dead_letters ORDER BY number"
        assert connection.execute(reasons).fetchall() == [("no",), ("no",)]
        dead_letter_table.add(connection, row(reason="newer"), "third")
        assert sorted(connection.execute(reasons).fetchall()) == [("newer",), ("no",)]
        dead_letter_table.add(connection, row(2), "third")
        assert dead_letter_table.total(connection)[0] == 3


def test_what_dies_again_is_the_same_letter_with_what_is_new() -> None:
    with database() as connection:
        dead_letter_table.add(connection, row(), "first")
        mark(connection, 1)
        dead_letter_table.add_suspicion(connection, 1, 2, alone=True)
        dead_letter_table.add_again(connection, 1, row(reason="still no"), "second")
        found = connection.execute(
            "SELECT reason, attempts, deaths, replays, replay_rate, suspicion, incarnation, history FROM dead_letters"
        ).fetchall()
        assert found == [
            ("still no", 4, 2, 1, None, 0, "second", '["call 1: no", "replay 1, call 1: no"]'),
        ]
        dead_letter_table.add_again(connection, 7, row(), "second")
        assert dead_letter_table.total(connection)[0] == 1, "one that was dropped meanwhile stays dropped"


def test_marked_ones_come_in_order_up_to_the_room_there_is() -> None:
    with database() as connection:
        for size in (10, 10, 10, 1000, 10):
            dead_letter_table.add(connection, row(size), "life")
        for number in (2, 3, 4, 5):
            mark(connection, number)

        def numbers(most: int, room: int, without: tuple[int, ...] = ()) -> list[int]:
            return [one.number for one in dead_letter_table.marked(connection, most, room, without)]

        assert numbers(10, 10_000) == [2, 3, 4, 5]
        assert numbers(2, 10_000) == [2, 3]
        assert numbers(2, 10_000, (2, 3)) == [4, 5]
        assert numbers(10, 25) == [2, 3]
        assert numbers(10, 1, (2, 3)) == [4], "at least one, however large"
        assert numbers(10, 10_000, (2, 3, 4, 5)) == []


def test_suspicion_counts_the_lives_that_ended_with_one_alone() -> None:
    with database() as connection:
        for _ in range(3):
            dead_letter_table.add(connection, row(), "life")
        dead_letter_table.add_suspicion(connection, 1, 3, alone=False)
        dead_letter_table.add_suspicion(connection, 1, 3, alone=False)
        dead_letter_table.add_suspicion(connection, 2, 3, alone=True)
        dead_letter_table.add_suspicion(connection, 2, 3, alone=True)
        assert connection.execute("SELECT suspicion FROM dead_letters").fetchall() == [(1,), (3,), (0,)]


def test_what_is_to_be_replayed_does_not_expire() -> None:
    with database() as connection:
        for _ in range(3):
            dead_letter_table.add(connection, row(), "life")
        connection.execute("UPDATE dead_letters SET at = 0 WHERE number < 3")
        mark(connection, 2)
        assert dead_letter_table.expire(connection, 3600.0) == 1
        assert [one[0] for one in connection.execute("SELECT number FROM dead_letters")] == [2, 3]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(), [1, 2, 3]),
        (Filter(reason="100%"), [2]),
        (Filter(older_s=3600.0), [1]),
        (Filter(newer_s=3600.0), [2, 3]),
        (Filter(numbers=frozenset({3, 9})), [3]),
        (Filter(reason="no", newer_s=3600.0), [3]),
    ],
)
def test_filters(wanted: Filter, expected: list[int]) -> None:
    with database() as connection:
        for reason in ("no", "100% 'odd'", "no"):
            dead_letter_table.add(connection, row(reason=reason), "life")
        connection.execute("UPDATE dead_letters SET at = 0 WHERE number = 1")
        where, values = wanted.where()
        found = connection.execute(f"SELECT number FROM dead_letters WHERE {where} ORDER BY number", values)
        assert [number for (number,) in found] == expected
