"""What the sinks of databases make of a batch before a database sees it. tests/services has the rest."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from zpipe import Message, Reject
from zpipe_plugins.databases.table_sink import Row, TableOptions, groups_of, in_order_of_key, row_of, store_batch

KNOWN = {"id", "part", "name"}


class Refused(Exception):
    pass


def stored_of(payloads: list[Any], options: TableOptions, refuse: Callable[[Row], bool] | None = None) -> Any:
    """Rows in the order in which they are stored, and the reason of each refusal."""
    stored: list[Row] = []

    def store(rows: list[Row]) -> None:
        if refuse is not None and any(map(refuse, rows)):
            raise Refused("no")
        stored.extend(rows)

    answers = store_batch([Message(one) for one in payloads], options, KNOWN, store, (Refused,))
    return stored, [str(answer) if isinstance(answer, Reject) else answer for answer in answers]


def one_by_one(payloads: list[Any], options: TableOptions) -> Any:
    stored, answers = [], []
    for one in payloads:
        try:
            stored.append(row_of(Message(one), options, KNOWN))
            answers.append(None)
        except Exception as error:
            answers.append(str(error))
    return stored, answers


ODD: list[Any] = [None, 7, "text", [1], {}, {"id": None}, {"part": 1}, {"id": 1, "other": 2}, {"name": "a", "id": 3}]


@pytest.mark.parametrize("columns", [[], ["id", "name"], ["name", "id", "part"]])
@pytest.mark.parametrize("key", [[], ["id"], ["id", "part"]])
def test_a_batch_is_looked_at_as_a_whole_with_the_outcome_of_each_by_itself(key: list[str], columns: list[str]) -> None:
    if columns and not set(key) <= set(columns):
        return
    options, chance = TableOptions(table="t", key=key, columns=columns), random.Random(1)
    for _ in range(300):
        plain = [{"id": n, "part": n % 2, "name": "a"} for n in range(chance.randrange(4))]
        for _ in range(chance.choice((0, 0, 1, 2))):
            plain.insert(chance.randrange(len(plain) + 1), chance.choice(ODD))
        assert stored_of(plain, options) == one_by_one(plain, options)


def test_what_the_database_refuses_is_found_by_halving() -> None:
    payloads: list[Any] = [{"id": n} for n in range(20)]
    payloads.insert(5, "no map")
    stored, answers = stored_of(payloads, TableOptions(table="t", key=["id"]), lambda row: row["id"] in (7, 8, 19))
    assert [row["id"] for row in stored] == [n for n in range(20) if n not in (7, 8, 19)]
    assert [index for index, answer in enumerate(answers) if answer == "no"] == [8, 9, 20]
    assert answers[5] is not None and answers[5].startswith("the payload is a str")


@pytest.mark.parametrize("key", [["id"], ["id", "part"]])
def test_the_last_of_rows_with_one_key_is_left_where_it_is(key: list[str]) -> None:
    rows = [{"id": 1, "part": 1, "name": "a"}, {"id": 2, "part": 1, "name": "b"}, {"id": 1, "part": 1, "name": "c"}]
    [(names, left)] = groups_of(rows, key)
    assert names == ("id", "part", "name") and [row["name"] for row in left] == ["b", "c"]
    assert groups_of(rows, [])[0][1] == rows


def test_values_that_are_equal_in_python_alone_are_two_keys() -> None:
    rows: list[Row] = [{"id": 1}, {"id": True}, {"id": 1.0}, {"id": 1}]
    assert [repr(row["id"]) for row in groups_of(rows, ["id"])[0][1]] == ["True", "1.0", "1"]


def test_a_list_may_be_part_of_a_key() -> None:
    rows = [{"id": [1]}, {"id": [2]}, {"id": [1]}]
    assert [row["id"] for row in groups_of(rows, ["id"])[0][1]] == [[2], [1]]


def test_rows_with_other_fields_are_a_group_of_their_own_in_their_order() -> None:
    rows = [{"id": 1}, {"id": 2, "name": "a"}, {"id": 3, "name": "b"}, {"id": 1}]
    assert [(names, len(group)) for names, group in groups_of(rows, ["id"])] == [
        (("id",), 1),
        (("id", "name"), 2),
        (("id",), 1),
    ]


@pytest.mark.parametrize(
    ("given_keys", "stored"),
    [
        ([3, 1, 2], [1, 2, 3]),
        (["b-2", "B-1", "a"], ["a", "B-1", "b-2"]),
        (["a", "B", "A", "a "], ["a", "A", "a ", "B"]),
        ([2.5, 1.5], [2.5, 1.5]),
        (["é", "E"], ["é", "E"]),
        ([2, "1"], [2, "1"]),
        ([True, 0], [True, 0]),
        ([b"b", b"a"], [b"b", b"a"]),
    ],
    ids=repr,
)
def test_rows_are_in_the_order_of_their_key_but_for_those_that_a_database_may_take_for_one(
    given_keys: list[Any], stored: list[Any]
) -> None:
    """Of those the last is to be stored."""
    rows = [{"id": key, "n": 1} for key in given_keys]
    assert [row["id"] for row in in_order_of_key(rows, ["id"])] == stored
    assert [row["id"] for row in in_order_of_key(rows, ["n", "id"])] == stored
    assert in_order_of_key(rows, []) == rows
