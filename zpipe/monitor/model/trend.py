"""Whether a figure changes steadily, and how fast: a straight line through its last points.

Must not live here: what the figures mean. That is known to `forecast`.

The constants are measured with the cases of the forecast's tests, in which every time to full or empty is within a quarter of
what happens, and few are missing. A plain line through the last 60 points misses 11 of the 37 recorded ones: after a change of
rate (a source that stops, the first second of a fast one), points from before the change keep it silent, or wrong by a factor of
up to five. So the line begins anew where the figure turns. And batches move a figure in large steps: without the height of a
step, times to full of what comes out of batches are a third too long, and a line within one step is taken for growth.
"""

from __future__ import annotations

import math

MOST_POINTS = 60
LEAST_POINTS = 4
TURN_POINTS = 3
"""So many last points show that the figure has turned, if all are on the same side of the line through those before them."""
TURN = 2.4
"""How far off they must be in the mean: so many standard deviations from that line, and more than one step of the figure. With 3,
turns were seen too late in three cases; with 2, a line through noise was cut again and again."""
SURE = 7.4
FEW_POINTS = 9.0
"""The slope must be SURE times its standard error: a quarter of it is then almost two of them. With n points it must be
(1 + FEW_POINTS / n) times as much, since the scatter of few points may be small by chance."""
STEPS = 2.5
"""The figure must have come so many of its steps far. Over fewer, the slope depends on where in a step the line begins:
of teeth of 30 a second that grow by 10, the first ones were taken for a growth of 30."""


class Trend:
    """Takes points about once an interval.

    slope  by how much it grows in a second; None if the points do not show it
    """

    def __init__(self, interval_s: float) -> None:
        self.slope: float | None = None
        self._interval_s = interval_s
        self._points: list[tuple[float, float]] = []
        self._grain = self._start = self._scatter = 0.0

    def add(self, at: float, value: float, grain: float = 0.0) -> None:
        """Passes over a point that comes too soon after the last one, since a change of state is published at once.

        grain  the figure moves in steps of this size, whether or not its points have shown one yet
        """
        self._grain = grain
        points = self._points
        if points and at - points[-1][0] < 0.9 * self._interval_s:
            return
        points.append((at, value))
        del points[:-MOST_POINTS]
        if len(points) >= LEAST_POINTS + TURN_POINTS and self._has_turned():
            del points[:-TURN_POINTS]
        self.slope = self._sure_slope() if len(points) >= LEAST_POINTS else None

    def _has_turned(self) -> bool:
        older, last = self._points[:-TURN_POINTS], self._points[-TURN_POINTS:]
        slope, start, off = _line(older)
        turn = [value - start - slope * at for at, value in last]
        same_side = min(turn) > 0.0 or max(turn) < 0.0
        deviation = math.sqrt(math.fsum(one * one for one in off) / (len(off) - 1))
        return same_side and abs(math.fsum(turn) / len(turn)) > max(TURN * deviation, self._grain, 1e-9)

    def _sure_slope(self) -> float | None:
        points, n = self._points, len(self._points)
        slope, self._start, off = _line(points)
        self._scatter = math.sqrt(sum(one * one for one in off) / (n - 2))
        span_s = points[-1][0] - points[0][0]
        error = math.sqrt(12.0 / n) * self._scatter / span_s
        doubt = max(SURE * (1.0 + FEW_POINTS / n) * error, STEPS * self._grain / span_s, 1e-12)
        return slope if abs(slope) > doubt else None

    def passes(self, way: float, now: float) -> float:
        """Seconds from `now` until it has changed by `way` more since its last point. There must be a slope."""
        assert self.slope is not None
        # The highest tooth of a saw gets there before its middle does.
        tooth = max(math.sqrt(3.0) * self._scatter, self._grain / 2.0)
        level = self._start + self.slope * now + math.copysign(tooth, self.slope)
        return max((self._points[-1][1] + way - level) / self.slope, self._interval_s / 2)


def _line(points: list[tuple[float, float]]) -> tuple[float, float, list[float]]:
    """The slope of the line of least squares, its value at time 0, and how far each point is off it."""
    # Times are taken from the first point on: squares of seconds since the epoch would leave no digits for the rest.
    first = points[0][0]
    times, values = [at - first for at, _ in points], [value for _, value in points]
    # As in `statistics`, which takes 10 ms to import and, where it computes with fractions, a hundred times as long.
    mean_time, mean = math.fsum(times) / len(times), math.fsum(values) / len(values)
    product = math.fsum((at - mean_time) * (value - mean) for at, value in zip(times, values, strict=True))
    slope = product / math.fsum((at - mean_time) ** 2 for at in times)
    start = mean - slope * mean_time
    return slope, start - slope * first, [value - start - slope * at for at, value in zip(times, values, strict=True)]
