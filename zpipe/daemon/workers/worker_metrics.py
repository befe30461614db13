"""The metrics of a plugin in one worker process, added to those of the instance.

Must not live here: what a metric is, and how its changes travel.
"""

from __future__ import annotations

import logging
from typing import Any

from zpipe.plugin_metrics import Metrics
from zpipe.runtime.logs import fields


class WorkerMetrics:
    """What a process has counted stays when it is gone. What it has added to gauges, say of open connections, is taken back.

    `metrics`: those of the instance, which other processes add to at the same time.
    """

    def __init__(self, metrics: Metrics, log: logging.Logger) -> None:
        self._metrics = metrics
        self._log = log
        self._to_take_back: dict[str, float] = {}
        self._refused: set[str] = set()

    def take(self, rows: list[list[Any]]) -> None:
        """What has changed in the process. A metric that cannot be added, since it has another kind here, is logged once."""
        for kind, name, change in rows:
            try:
                self._metrics.add(kind, name, change)
            except ValueError as error:
                if name not in self._refused:
                    self._refused.add(name)
                    self._log.warning(fields(event="metric.refused", name=name, reason=error))
                continue
            if kind == "gauge":
                set_to, added = change
                before = self._to_take_back.get(name, 0.0) if set_to is None else 0.0
                self._to_take_back[name] = before + added

    def end(self) -> None:
        """The process is gone."""
        for name, added in self._to_take_back.items():
            self._metrics.gauge(name).inc(-added)
        self._to_take_back.clear()
