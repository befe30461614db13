"""Metrics over HTTP, by `prometheus_client` on a thread of its own. Must not live here: which metrics there are (`metrics`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from zpipe.errors import OperatorError, install_command
from zpipe.monitor.export.metrics import METRICS, Distribution
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.monitor.snapshot_feed import READ_INTERVAL_S, now_s

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

    from zpipe.monitor.snapshot_feed import SnapshotFeed

SCRAPER_TIMEOUT_S = 10.0
"""A scraper that does not ask or does not read is disconnected after this: as long as a Prometheus server waits by default."""


class Collector:
    """Gives the model's value to prometheus_client, which asks for it on its own thread."""

    def __init__(self, model: PipelineModel) -> None:
        self._model = model
        self._lock = threading.Lock()

    def add(self, snapshot: dict[str, Any], now: float) -> None:
        with self._lock:
            self._model.add(snapshot, now)

    def collect(self) -> Iterator[Family]:
        with self._lock:
            value = self._model.as_json(now_s())
        for metric, family in zip(METRICS, self.describe(), strict=True):
            for labels, number in metric.samples(value):
                if isinstance(number, Distribution):
                    family.add_metric(labels, number.buckets, number.sum)
                else:
                    family.add_metric(labels, number)
            yield family

    def describe(self) -> Iterator[Any]:
        """Each family without samples, from which prometheus_client knows what `?name[]=` chooses from."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        kinds: dict[str, type[Any]] = {
            "counter": CounterMetricFamily,
            "gauge": GaugeMetricFamily,
            "histogram": HistogramMetricFamily,
        }
        for metric in METRICS:
            unit = metric.unit if metric.name.endswith(f"_{metric.unit}") else ""
            yield kinds[metric.kind](metric.name, metric.help, labels=metric.labels, unit=unit)


def serve(feed: SnapshotFeed, model: PipelineModel, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serves the metrics and keeps them current, until interrupted. `ready` is told the address; port 0: of the system's choice.

    Blocks. Raises OperatorError if the address cannot be bound or prometheus_client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise OperatorError(f"--prometheus needs prometheus_client: {install_command('prometheus')}") from None
    shown = f"[{host}]" if ":" in host else host
    collector = Collector(model)
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no resolver takes.
        said = getattr(error, "strerror", None) or error
        raise OperatorError(f"cannot serve metrics at {shown}:{port}: {said}") from None
    _tolerate_bad_scrapers(server)
    try:
        ready(f"http://{shown}:{server.server_port}/metrics")
        while True:
            for snapshot in feed.poll(READ_INTERVAL_S):
                collector.add(snapshot, now_s())
            time.sleep(READ_INTERVAL_S)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _tolerate_bad_scrapers(server: Any) -> None:
    """A scraper that goes away in the middle gives no traceback, and one that never asks does not keep a thread for ever."""
    server.handle_error = lambda request, address: None
    server.RequestHandlerClass = type("Request", (server.RequestHandlerClass,), {"timeout": SCRAPER_TIMEOUT_S})
