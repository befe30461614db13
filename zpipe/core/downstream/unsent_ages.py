"""How long the oldest unsent message has waited, to within the time between two reports. Must not live here: the messages.

To keep a time for each message would be most of the cost of holding it. So the report marks how far the numbers have come.
"""

from __future__ import annotations

from collections import deque


class Ages:
    """Numbers that grow with time: `mark` says how far they have come by now, `age` how old one of them is at least."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def mark(self, now: float, next_number: int) -> None:
        """Numbers below `next_number` exist by now."""
        if not self._marks or self._marks[-1][1] < next_number:
            self._marks.append((now, next_number))

    def age(self, now: float, number: int) -> float:
        """Seconds since `number` was first seen to exist; 0.0 if it has not been. What is older is forgotten."""
        while self._marks and self._marks[0][1] <= number:
            self._marks.popleft()
        return max(0.0, now - self._marks[0][0]) if self._marks else 0.0
