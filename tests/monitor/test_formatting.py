from __future__ import annotations

import pytest

from zpipe.monitor import formatting


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (7.46, "7.5"),
        (950, "950"),
        (999.4, "999"),
        (999.6, "1.0k"),
        (12_345, "12.3k"),
        (99_960, "100k"),
        (4_100_000, "4.1M"),
        (999_600, "1.0M"),
        (2e13, "20T"),
    ],
)
def test_counts(number: float, text: str) -> None:
    assert formatting.count(number) == text
    assert len(text) <= 5


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (999, "999 B"), (4_300_000, "4.1 MiB"), (32 * 2**20, "32 MiB"), (2**40, "1.0 TiB")]
)
def test_sizes(number: float, text: str) -> None:
    assert formatting.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.54, "0.5s"), (12, "12s"), (89, "89s"), (200, "3m"), (9000, "2h"), (1e6, "12d")]
)
def test_durations(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0004, "0.4ms"), (0.0251, "25ms"), (0.9996, "1.0s"), (12, "12s"), (0.00999, "10ms")]
)
def test_precise_times(seconds: float, text: str) -> None:
    assert formatting.precise(seconds) == text


def test_a_name_is_cut_in_its_middle() -> None:
    assert formatting.cut("transform-07", 9) == "tran…m-07"
    assert formatting.cut("short", 9) == "short"
