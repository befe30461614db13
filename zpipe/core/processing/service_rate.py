"""How fast a stage serves, as measured, and how large tasks and the grant should be for that. Must not live here: the queue."""

from __future__ import annotations


class ServiceRate:
    """How fast this stage serves, measured: what task sizes and credit windows follow.

    workers  how many of them work at a time;  service_s: seconds of a worker a message, or None before the first
    task_s   a task is cut to about this much work: long enough that handing it over (about 0.1 ms) is nothing, short enough
             that several workers share what is queued
    ahead_s  a task is kept ahead of the workers while a call takes less than this: handing it over would cost 2 % of 20 ms
             and more of a quicker call, while a message that waits behind a slower one could be with another instance
    """

    task_s = 0.005
    ahead_s = 0.02
    _weight = 0.2

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.service_s: float | None = None

    def measure(self, messages: int, seconds: float) -> None:
        one, before = seconds / messages, self.service_s
        self.service_s = one if before is None else before + self._weight * (one - before)

    @property
    def rate(self) -> float:
        """Messages a second all workers can serve; 0.0 before the first."""
        return self.workers / max(self.service_s, 1e-9) if self.service_s is not None else 0.0

    def task_messages(self, most: int) -> int:
        if self.service_s is None:
            return 1
        return max(1, min(most, int(self.task_s / max(self.service_s, 1e-9))))

    def window(self, queue_time_s: float, least: int, most: int) -> int:
        """How many messages are worth having here: `queue_time_s` of work, within least and most."""
        return max(1, min(most, max(least, int(self.rate * queue_time_s))))
