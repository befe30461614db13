"""Lines through the last points of a figure."""

from __future__ import annotations

import random

import pytest

from zpipe.monitor.model.trend import Trend


def trend(values: list[float], grain: float = 0.0) -> Trend:
    made = Trend(1.0)
    for at, value in enumerate(values):
        made.add(float(at), value, grain)
    return made


def test_when_a_line_has_come_so_much_further() -> None:
    made = trend([3.0 * n for n in range(10)])
    assert made.slope == pytest.approx(3.0)
    assert made.passes(273.0, 9.0) == pytest.approx(91.0)
    assert made.passes(273.0, 11.0) == pytest.approx(89.0)


@pytest.mark.parametrize("values", [[], [5.0], [5.0] * 10, [0.0, 9.0] * 20, [0.0, 10.0, 20.0]])
def test_what_goes_nowhere_or_has_not_been_seen_for_long_has_no_slope(values: list[float]) -> None:
    assert trend(values).slope is None


def test_a_new_line_is_found_from_its_fourth_point_on() -> None:
    values = [50.0] * 30 + [50.0 + 4.0 * n for n in range(1, 5)]
    assert trend(values).slope == pytest.approx(4.0)


def test_noise_makes_it_wait_and_not_err() -> None:
    chance = random.Random(3)
    made = Trend(1.0)
    said = []
    for n in range(200):
        made.add(float(n), 4.0 * n + chance.uniform(-50, 50))
        said.append(made.slope)
    assert said[:8] == [None] * 8
    assert None not in said[60:]
    assert all(slope == pytest.approx(4.0, rel=0.25) for slope in said if slope is not None)


def test_a_walk_is_not_taken_for_growth() -> None:
    wrong = 0
    for seed in range(50):
        chance = random.Random(seed)
        value, values = 0.0, []
        for _ in range(60):
            value += chance.uniform(-1, 1)
            values.append(value)
        wrong += trend(values).slope is not None
    assert wrong <= 3


def test_teeth_of_known_height_are_waited_for() -> None:
    made = Trend(1.0)
    said = []
    for n in range(100):
        # It grows by 10 in the mean, by 30 within a tooth.
        made.add(float(n), 30.0 * n - 100.0 * int(n * 0.2), grain=100.0)
        said.append(made.slope)
    assert any(said)
    assert all(slope == pytest.approx(10.0, rel=0.25) for slope in said if slope is not None)


def test_points_too_near_the_last_are_passed_over() -> None:
    made = trend([2.0 * n for n in range(8)])
    made.add(7.1, 500.0)
    assert made.slope == pytest.approx(2.0)
