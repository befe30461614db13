"""Writes docs/metrics.md from the table of metrics: `python docs/metrics_page.py > docs/metrics.md`."""

from __future__ import annotations

import sys

from zpipe.errors import install_command
from zpipe.monitor.export.metrics import METRICS


def as_markdown() -> str:
    """docs/metrics.md, whole."""
    lines = [
        "# Metrics",
        "",
        "`zpipe monitor CONFIG --prometheus [HOST:PORT]` serves them at `http://HOST:PORT/metrics` until it is stopped,",
        "whether the pipeline runs or not: one endpoint a pipeline. Without HOST:PORT it is that of `[telemetry] prometheus`.",
        f"It needs `{install_command('prometheus')}`. [`grafana.json`](grafana.json) is a dashboard of them.",
        "[`alerts.yml`](alerts.yml) has an alert for each promise, which says what to do;",
        "[`alerts_test.yml`](alerts_test.yml) tests them: `promtool test rules alerts_test.yml`.",
        "",
        "An instance that is silent gives no samples but its age and what it has stored (dead letters, disk buffers), so that",
        "what is old never looks current; one that has stopped keeps its counters, which are final. Counters begin anew with",
        "every incarnation. The label is `stage_instance`, since a Prometheus server sets `instance` itself.",
        "",
        "This page is made from `zpipe/monitor/export/metrics.py`.",
        "",
        "| metric | kind | unit | labels | meaning | what to do |",
        "|---|---|---|---|---|---|",
    ]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        cells = (f"`{metric.name}`", metric.kind, metric.unit, labels, metric.help, metric.remedy)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
