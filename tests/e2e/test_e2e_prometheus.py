"""The alerts and the dashboard in docs/, by a real Prometheus that scrapes a real run: rules are sound, queries answered."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from e2e_types import MakePipeline
from pipeline import Pipeline, send, wait_until

from zpipe.monitor.export.metrics import METRICS

DOCS = Path(__file__).parents[2] / "docs"
ALERTS = DOCS / "alerts.yml"
ALERT_TESTS = DOCS / "alerts_test.yml"
PROMISES = {
    "ZpipeAtBound", "ZpipeBufferFailing", "ZpipeBufferLost", "ZpipeDeadLettersStored", "ZpipeHeld", "ZpipeInstanceSilent",
    "ZpipeNotScraped", "ZpipeOldMessages", "ZpipeRestarts", "ZpipeStorm", "ZpipeUnrouted", "ZpipeWorkerRestarts",
}  # fmt: skip
NOT_HERE = {"zpipe_link_empty_in_seconds", "zpipe_source_total_messages"}
"""Nothing empties in a pipeline that is too slow, and its source is endless. Its plugins have no metrics of their own either, and
its stages no disk buffers."""


def promtool(*arguments: str | Path) -> None:
    checked = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.needs("promtool")
def test_the_alerts_are_sound_and_fire_when_they_should() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", ALERTS)
    promtool("test", "rules", ALERT_TESTS)


def test_each_alert_is_tested_both_ways() -> None:
    """promtool compares an alert without `exp_alerts` with none."""
    assert set(re.findall(r"- alert: (\w+)", ALERTS.read_text())) == PROMISES
    cases = re.findall(r"alertname: (\w+)(\}?)(?:\n +exp_alerts:)?", ALERT_TESTS.read_text())
    fires = set(re.findall(r"alertname: (\w+)\n +exp_alerts:", ALERT_TESTS.read_text()))
    assert fires == PROMISES == {name for name, quiet in cases if quiet}


# ---- a real Prometheus

CONFIG = """
[pipeline]
name = "busy"
[telemetry]
interval = "100ms"
[stages.make]
plugin = "generate"
options = { rate = 300 }
[stages.sort]
input = "make"
plugin = "./sort.py"
workers = { kind = "process" }
retry = { attempts = 2, delay = "5ms", deaths = 1 }
unacked = { messages = 200 }
[stages.sink]
input = "sort"
plugin = "discard"
instances = 2
"""
SORT = """
import os
import time

from zpipe import Message, Reject, hookimpl


@hookimpl
def zpipe_outlets():
    return ("nobody",)


@hookimpl
def zpipe_process(message):
    n = message.payload["id"]
    time.sleep(0.01)
    if n == 5:
        os._exit(3)
    if n % 20 == 7:
        raise ValueError("unlucky")
    return Message(message.payload, outlet="nobody" if n % 10 == 3 else "")
"""
"""Slower than its source, and everything that can be counted happens in it."""


class Prometheus:
    """Asks the server at `url`."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            answered = json.load(answer)
        assert answered["status"] == "success", answered
        return answered["data"]

    def query(self, expression: str) -> list[Any]:
        found: list[Any] = self.ask("query", query=expression)["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    config = folder / "prometheus.yml"
    scrape = {"job_name": "zpipe", "static_configs": [{"targets": [target]}]}
    every = {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"}
    config.write_text(json.dumps({"global": every, "rule_files": [str(ALERTS)], "scrape_configs": [scrape]}))
    log = folder / "prometheus.log"
    options = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}", "--web.listen-address=127.0.0.1:0"]
    with log.open("wb") as output:
        server = subprocess.Popen(["prometheus", *options], stdout=output, stderr=output)
    try:
        said = wait_until(
            lambda: re.search(r'"?Listening on"? address=(127\.0\.0\.1:\d+)', log.read_text()), "prometheus listens"
        )
        made = Prometheus(f"http://{said[1]}")
        wait_until(lambda: "Server is ready" in log.read_text(), "prometheus is ready")
        yield made
    finally:
        server.kill()
        server.wait()


def exporter(pipeline: Pipeline) -> str:
    """The address at which the metrics of the pipeline are served."""
    serving = pipeline.zpipe("monitor", str(pipeline.path), "--prometheus", "127.0.0.1:0")
    said = wait_until(
        lambda: re.search(r"at http://(127\.0\.0\.1:\d+)/metrics\n", serving.stderr), "metrics are served"
    )
    return said[1]


@pytest.mark.needs("prometheus")
def test_every_query_is_answered_and_every_rule_evaluated(make: MakePipeline, tmp_path: Path) -> None:
    pipeline = make(CONFIG, sort=SORT)
    target = exporter(pipeline)
    with prometheus(tmp_path, target) as server:
        pipeline.run("--quiet")
        running = 'sum(zpipe_instances{state="RUNNING"}) == 4'
        wait_until(lambda: server.query(running), "all run")
        pipeline.kill("sink", 1)
        wait_until(lambda: server.query("zpipe_restarts_total"), "the crash is scraped")
        wait_until(lambda: server.query("rate(zpipe_link_redelivered_total[5s])"), "and what was sent again")
        assert_dashboard_is_answered(server, but="Instances not running")
        send(pipeline.pid("sink", 2), signal.SIGSTOP)
        assert_dashboard_is_answered(server, only="Instances not running")
        assert_alerts(server)
        assert_each_metric_is_scraped(server)


def assert_dashboard_is_answered(server: Prometheus, only: str = "", but: str = "") -> None:
    dashboard = json.loads((DOCS / "grafana.json").read_text(encoding="utf-8"))
    panels = [one for one in dashboard["panels"] if one["title"] != but and only in (one["title"], "")]
    assert panels
    for panel in panels:
        for target in panel["targets"]:
            query = target["expr"].replace("$pipeline", "busy").replace("$__rate_interval", "5s")
            wait_until(lambda query=query: server.query(query), f"{panel['title']}: {query}")
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), ?(\w+)\)", variable["query"]).groups()  # type: ignore[union-attr]
            values = server.ask(f"label/{label}/values", **{"match[]": metric})
            assert values == ["busy"]


def assert_alerts(server: Prometheus) -> None:
    rules = server.rules()
    assert {rule["name"] for rule in rules} == PROMISES
    for rule in rules:
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule
        assert {"summary", "action"} <= rule["annotations"].keys(), rule
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
    happened = {
        "ZpipeDeadLettersStored",
        "ZpipeRestarts",
        "ZpipeWorkerRestarts",
        "ZpipeUnrouted",
        "ZpipeInstanceSilent",
    }
    active = {"ZpipeAtBound"} | happened

    def states() -> dict[str, str]:
        return {rule["name"]: rule["state"] for rule in server.rules() if rule["state"] != "inactive"}

    wait_until(lambda: states().keys() == active, f"these alerts: {active}")
    assert {name for name, state in states().items() if state == "firing"} == happened - {"ZpipeInstanceSilent"}


def assert_each_metric_is_scraped(server: Prometheus) -> None:
    """What the rules and the dashboard may rest on."""
    known = set(server.ask("label/__name__/values"))
    for metric in METRICS:
        if metric.name not in NOT_HERE and not metric.name.startswith(("zpipe_plugin_", "zpipe_buffer_")):
            assert known & {metric.name, f"{metric.name}_bucket"}, metric.name
