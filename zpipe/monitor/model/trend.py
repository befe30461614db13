"""Whether a figure changes steadily, and how fast. May live here: the line through its last points, and how far back it goes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from operator import add, sub
from typing import NamedTuple

MOST_POINTS = 240
LEAST_POINTS = 4
SURE = 6.0
"""The slope must be so many times its standard error: a quarter of it is one and a half of them. More with few points, whose
scatter may be small by chance."""
GRAINS = 2.5
"""The figure must have come so many of its steps far: over fewer, the slope depends on where in a step the line begins."""
CHANGED = 8.0
"""Two lines fit so much better than one (an F statistic) that the older says nothing of what comes. High, since the scatter of
queues is no white noise: batches make saws, and a long tooth looks like a line of its own."""
MEMORY = 60
"""Intervals over which it is learnt how rough a figure is, whatever its line does meanwhile."""


class _Sums(NamedTuple):
    """Over points (time, value) and the steps between them: what a line of least squares follows from, and the scatter about it.
    Of any last points by one subtraction."""

    n: float = 0.0
    t: float = 0.0
    v: float = 0.0
    tt: float = 0.0
    tv: float = 0.0
    vv: float = 0.0
    step_tt: float = 0.0
    step_tv: float = 0.0
    step_vv: float = 0.0

    def plus(self, t: float, v: float, step_t: float, step_v: float) -> _Sums:
        steps = (step_t * step_t, step_t * step_v, step_v * step_v)
        return _Sums._make(map(add, self, (1.0, t, v, t * t, t * v, v * v, *steps)))

    def less(self, other: _Sums) -> _Sums:
        return _Sums._make(map(sub, self, other))

    @property
    def _spread(self) -> float:
        return max(self.tt - self.t * self.t / self.n, 1e-12)

    @property
    def slope(self) -> float:
        return (self.tv - self.t * self.v / self.n) / self._spread

    @property
    def squares(self) -> float:
        """Of what the line leaves over."""
        return max(self.vv - self.v * self.v / self.n - self.slope**2 * self._spread, 0.0)

    @property
    def independent(self) -> float:
        """How many independent points say as much about the line: by the statistic of Durbin and Watson, which is 2 for noise
        and near 0 for a walk that has led away from the line."""
        slope = self.slope
        jumps = self.step_vv - 2.0 * slope * self.step_tv + slope * slope * self.step_tt
        ratio = min(max(jumps, 0.0) / max(self.squares, 1e-18), 2.0)
        return max(1.0, self.n / 2.0 * ratio / (4.0 - ratio))


class Trend:
    """Points are taken about once an interval. The line goes back as far as the figure has changed steadily: a longer line is
    surer, and does not jump when a parcel or a batch moves the last point.

    grain  the figure moves in steps of this, whether or not its points have shown one yet
    slope  by how much it grows in a second; None where the points do not say
    """

    def __init__(self, interval_s: float) -> None:
        self.grain = 0.0
        self.slope: float | None = None
        self._interval_s = interval_s
        self._rough = 0.0
        self._turns: deque[float] = deque(maxlen=MEMORY)
        self._points: list[tuple[float, float]] = []
        self._sums = [_Sums()]

    def add(self, at: float, value: float) -> None:
        """A point that comes too soon after the last (a change of state is reported at once) is passed over."""
        points = self._points
        if points and at - points[-1][0] < 0.9 * self._interval_s:
            return
        if len(points) >= 2:
            (t0, v0), (t1, v1) = points[-2:]
            self._turns.append(value - v1 - (v1 - v0) * min((at - t1) / (t1 - t0), 2.0))
        self._append(at, value)
        self._learn()
        kept = self._steady()
        if kept < len(points):
            self._excuse(kept)
        self._keep(kept)
        self._judge()

    def _append(self, at: float, value: float) -> None:
        """Sums are of intervals since the first point: squares of seconds since the epoch would have no digits left."""
        points, scale = self._points, self._interval_s
        points.append((at, value))
        (first_at, first), (last_at, last) = points[0], points[-2] if len(points) > 1 else points[0]
        step = ((at - last_at) / scale, value - last)
        self._sums.append(self._sums[-1].plus((at - first_at) / scale, value - first, *step))

    def _learn(self) -> None:
        """How far points are from where the two before them lead, in the mean: six times the variance of white noise."""
        self._rough = sum(turn * turn for turn in self._turns) / max(6 * len(self._turns), 1)

    def _excuse(self, last: int) -> None:
        """What began a new line among these last points does not make the figure rough: it turned once, between two points. (A
        tooth turns back, so half of it stays.)"""
        turns = self._turns
        at = max(range(max(len(turns) - last - 1, 1), len(turns)), key=lambda n: abs(turns[n - 1] + turns[n]))
        turns[at - 1] = turns[at] = 0.0
        self._learn()

    def _steady(self) -> int:
        """How many of the last points are on one line."""
        whole, n = self._sums[-1], len(self._points)
        if n <= LEAST_POINTS:
            return n
        least = max(self.grain * self.grain / 12.0, self._rough, 1e-12)
        best, kept = CHANGED, n
        if whole.squares <= CHANGED * least:
            return n  # no two lines can fit so much better
        for last in self._looked_at(n):
            older = self._sums[n - last]
            apart = older.squares + whole.less(older).squares
            freed = min(older.n, 2.0)
            better = (whole.squares - apart) / freed / max(apart / (n - 2.0 - freed), least)
            if better > best:
                best, kept = better, last
        return kept

    @staticmethod
    def _looked_at(n: int) -> Iterator[int]:
        """How many points a new line may have: few, to see soon that it began, and all but the first, which may have come before
        it did. The longer, the more seldom."""
        yield from range(max(n - 3, LEAST_POINTS), n)
        last = LEAST_POINTS
        while last < n - 3 and n % (last // LEAST_POINTS) == 0:
            yield last
            last += last // 2

    def _keep(self, count: int) -> None:
        if count == len(self._points) < 2 * MOST_POINTS:
            return
        points = self._points[-min(count, MOST_POINTS) :]
        self._points, self._sums = [], [_Sums()]
        for point in points:
            self._append(*point)

    def _judge(self) -> None:
        line, n = self._sums[-1], len(self._points)
        self.slope = None
        if n < LEAST_POINTS:
            return
        slope, squares = line.slope, line.squares
        span = (self._points[-1][0] - self._points[0][0]) / self._interval_s
        scatter = max(squares / (n - 2), self._rough)
        error = math.sqrt(12.0 * scatter / line.independent) / span if scatter else 0.0
        doubt = max(SURE * (1.0 + 6.0 / n) * error, GRAINS * self.grain / span)
        if abs(slope) > doubt:
            self.slope = slope / self._interval_s

    def passes(self, way: float, now: float) -> float:
        """Seconds from `now` until it has changed by `way` more since its last point. There must be a slope."""
        slope = self.slope
        assert slope is not None
        line, (first_at, first), (last_at, last) = self._sums[-1], self._points[0], self._points[-1]
        level = first + line.v / line.n + slope * (now - first_at - line.t / line.n * self._interval_s)
        # The first tooth of a saw gets there before its middle does.
        level += math.copysign(max(math.sqrt(3.0 * line.squares / (line.n - 2)), self.grain / 2.0), slope)
        # A walk goes on from where it is, not from the line.
        expected = last + slope * (now - last_at)
        level = expected + min(1.0, line.independent / 3.0) * (level - expected)
        return max((last + way - level) / slope, self._interval_s / 2)
