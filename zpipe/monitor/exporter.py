"""Metrics over HTTP, for a Prometheus server. May live here: `prometheus_client`, and the thread it answers on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from zpipe.errors import OperatorError
from zpipe.monitor.app import PACE_S, now_s
from zpipe.monitor.metrics import METRICS
from zpipe.monitor.model import Model

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

    from zpipe.monitor.app import Feed


class Collector:
    """The model as prometheus_client asks for it, on its own thread."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._lock = threading.Lock()

    def add(self, snapshot: dict[str, Any], now: float) -> None:
        with self._lock:
            self._model.add(snapshot, now)

    def collect(self) -> Iterator[Family]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with self._lock:
            value = self._model.as_json(now_s())
        kinds: dict[str, type[Any]] = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for metric in METRICS:
            family = kinds[metric.kind](metric.name, metric.help, labels=metric.labels)
            for labels, number in metric.samples(value):
                family.add_metric(labels, number)
            yield family


def serve(feed: Feed, model: Model, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serves the metrics and keeps them current, until interrupted. `ready` is told the address; port 0: of the system's choice.

    Blocks. Raises OperatorError if the address cannot be bound or prometheus_client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise OperatorError("--prometheus needs prometheus_client: pip install 'zpipe[prometheus]'") from None
    collector = Collector(model)
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise OperatorError(f"cannot serve metrics at {host}:{port}: {error.strerror or error}") from None
    try:
        ready(f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics")
        while True:
            for snapshot in feed.poll(PACE_S):
                collector.add(snapshot, now_s())
            time.sleep(PACE_S)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
