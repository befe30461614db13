"""Single values: what is read, and both sides of every bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zpipe.config.reading import values
from zpipe.config.reading.key_lines import KeyPath
from zpipe.config.reading.variable_expansion import UNSET, Expanded, expand, plain


def expanded(text: str) -> Expanded:
    return Expanded(text, "${X}", {text: "${X}"})


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("500ms", 0.5),
        ("1s", 1.0),
        ("1.5s", 1.5),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("1 s", 1.0),
        ("5", 5.0),
        ("0.25", 0.25),
        (3, 3.0),
        (0.25, 0.25),
        ("8760h", 31536000.0),
        (expanded("5"), 5.0),
        (expanded("5ms"), 0.005),
    ],
)
def test_durations(given: Any, seconds: float) -> None:
    assert values.duration()(given) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "s",
        "1 day",
        "-1s",
        "1S",
        "1e3s",
        0,
        "0s",
        -1,
        True,
        [],
        None,
        float("inf"),
        float("nan"),
        "8761h",
        10**400,
    ],
)
def test_what_is_no_duration(given: Any) -> None:
    with pytest.raises(ValueError, match='must be a time such as 5 \\(seconds\\), "500ms"'):
        values.duration()(given)


def test_zero_is_a_duration_where_it_may_be() -> None:
    assert values.duration(zero=True)("0s") == 0.0
    with pytest.raises(ValueError, match="or 0"):
        values.duration(zero=True)(-1)


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ("64MiB", 64 * 2**20),
        ("4KiB", 4096),
        ("1GiB", 2**30),
        ("1kB", 1000),
        ("2MB", 2 * 10**6),
        ("1GB", 10**9),
        ("1000", 1000),
        ("12B", 12),
        ("1.5KiB", 1536),
        (1, 1),
        (2**63 - 1, 2**63 - 1),
        (expanded("77"), 77),
    ],
)
def test_sizes(given: Any, count: int) -> None:
    assert values.size(given) == count


@pytest.mark.parametrize(
    "given", [0, -1, "0", "1.5", "0.3KiB", "64mib", "MiB", True, 1.5, 2**63, "9" * 30, "9" * 5000, {}]
)
def test_what_is_no_size(given: Any) -> None:
    with pytest.raises(ValueError, match="must be a size such as"):
        values.size(given)


def test_whole_numbers_keep_their_bounds() -> None:
    read = values.whole_number(1, 10)
    assert [read(1), read(10), read(expanded("7"))] == [1, 10, 7]
    for wrong in (0, 11, 1.0, "7", True, expanded("x"), None):
        with pytest.raises(ValueError, match="must be a whole number from 1 to 10, not"):
            read(wrong)


def test_names_keep_their_bounds() -> None:
    assert values.name("a-B_9") == "a-B_9"
    assert values.name("x" * 40) == "x" * 40
    for wrong in ("x" * 41, "", "a.b", "a b", "é", "a\n", 5):
        with pytest.raises(ValueError, match="must be 1 to 40 letters"):
            values.name(wrong)


def test_booleans_are_not_strings_unless_expanded() -> None:
    assert values.boolean(True) is True
    assert values.boolean(expanded("false")) is False
    for wrong in ("true", 1, expanded("yes")):
        with pytest.raises(ValueError, match="must be true or false"):
            values.boolean(wrong)


@pytest.mark.parametrize("count", [1, 1000, 1024, 4096, 2**20, 3 * 2**30, 2**20 + 1])
def test_a_size_that_is_shown_reads_back(count: int) -> None:
    assert values.size(values.show_size(count)) == count


ENV = {"A": "1", "EMPTY": "", "NESTED": "${A}"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("${A}", "1"),
        ("x${A}y${A}", "x1y1"),
        ("${B:-two}", "two"),
        ("${A:-two}", "1"),
        ("${EMPTY}", ""),
        ("${EMPTY:-d}", "d"),
        ("${B:-}", ""),
        ("$${A}", "${A}"),
        ("$A $ {A} $$", "$A $ {A} $$"),
        ("${NESTED}", "${A}"),
        ("${B:-a:-b}", "a:-b"),
    ],
)
def test_expansion(text: str, result: str) -> None:
    assert expand(text, ENV, Path(), pytest.fail) == result


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("${B}", "the environment variable B is not set"),
        ("${A", "${A is not ${VAR}"),
        ("${}", "${} is not ${VAR}"),
        ("${1A}", "${1A} is not ${VAR}"),
        ("${A-x}", "${A-x} is not ${VAR}"),
        ("${B:-${A}}", "${B:-${A} is not ${VAR}"),
    ],
)
def test_what_cannot_be_expanded(text: str, problem: str) -> None:
    heard: list[tuple[KeyPath, str, Any]] = []
    result = expand({"k": [text, 5]}, ENV, Path(), lambda *mistake: heard.append(mistake))
    assert result == {"k": [UNSET, 5]}
    [(path, said, given)] = heard
    assert (path, given) == (("k", 0), text)
    assert said.startswith(problem)


def test_plain_leaves_no_trace_of_the_expansion() -> None:
    result = plain(expand({"k": ["${A}", {"l": "${A}"}]}, ENV, Path(), pytest.fail))
    assert result == {"k": ["1", {"l": "1"}]}
    assert type(result["k"][0]) is type(result["k"][1]["l"]) is str
