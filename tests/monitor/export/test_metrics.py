"""Every metric is documented, every documented one is served, and what is served is true."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import monitor_samples as samples
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from zpipe import __version__
from zpipe.errors import ExitCode
from zpipe.monitor.export.exporter import Collector, serve
from zpipe.monitor.export.metrics import METRICS, ZERO_OR_ONE
from zpipe.monitor.model.pipeline import PipelineModel
from zpipe.plugin_metrics import Metrics

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "metrics.md").read_text(encoding="utf-8")
BY_NAME = {metric.name: metric for metric in METRICS}
ONLY_NOW_AND_THEN = {
    "zpipe_restarts_total": "after a crash",
    "zpipe_worker_restarts_total": "after a crash of a worker process",
    "zpipe_needed_instances": "while there is a bottleneck",
    "zpipe_link_full_in_seconds": "while a link fills",
    "zpipe_link_empty_in_seconds": "while a link empties",
    "zpipe_plugin_total": "where a plugin counts something itself",
    "zpipe_plugin_value": "likewise",
    "zpipe_plugin_distribution": "likewise",
}
DEADLINE_S = 60.0
CONFIG = """
[pipeline]
name = "measured"
[telemetry]
interval = "100ms"
prometheus = "127.0.0.1:0"
[stages.make]
plugin = "generate"
buffer = { kind = "disk" }
options = { count = 1000000, rate = 500 }
[stages.sort]
input = "make"
plugin = "python"
options = { function = "sort.py:sort" }
[stages.sink]
input = "sort"
plugin = "discard"
instances = 2
"""
SORT = """
import zpipe


def sort(payload):
    if payload["id"] % 100 == 7:
        raise zpipe.Reject("unlucky")
    return zpipe.DROP if payload["id"] % 2 else payload
"""

Sample = tuple[str, dict[str, str], float]

# ---- the table and the page


def test_the_page_is_that_of_the_table() -> None:
    made = subprocess.run([sys.executable, DOCS / "metrics_page.py"], check=True, capture_output=True, text=True).stdout
    assert made == PAGE, "python docs/metrics_page.py > docs/metrics.md"


def test_names_and_units_follow_the_rules() -> None:
    assert len(BY_NAME) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"zpipe_[a-z_]+", metric.name)
        assert metric.help and not metric.help.endswith(".")
        assert "|" not in metric.help + metric.remedy
        assert "instance" not in metric.labels
        if metric.kind == "counter":
            assert metric.name.endswith("_total")
        elif metric.unit != ZERO_OR_ONE:
            assert metric.name.endswith(f"_{metric.unit}"), metric.name


def test_the_dashboard_asks_for_nothing_that_is_not_there() -> None:
    dashboard = json.loads((DOCS / "grafana.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [one["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    assert len(queries) > 15
    for query in queries:
        names = [name.removesuffix("_bucket") for name in re.findall(r"\bzpipe_\w+", query)]
        assert names and set(names) <= set(BY_NAME), query
        known = {*BY_NAME[names[0]].labels, *(["le"] if "histogram_quantile(" in query else [])}
        braces = re.findall(r"\{(.*?)\}", query)
        used = {label for text in braces for label in re.findall(r"(\w+)=", text)}
        used |= {label.strip() for text in re.findall(r"by \((.*?)\)", query) for label in text.split(",")}
        assert used <= known, query
        rated = {name.removesuffix("_bucket") for name in re.findall(r"\b(?:rate|irate|increase)\((\w+)", query)}
        grows = {name for name in names if BY_NAME[name].kind != "gauge"}
        assert rated == grows - ONLY_NOW_AND_THEN.keys(), "rates, of what only grows and begins at 0: " + query
    assert all(panel["fieldConfig"]["defaults"].get("unit") for panel in dashboard["panels"])
    legends = [(t["expr"], t["legendFormat"]) for panel in dashboard["panels"] for t in panel["targets"]]
    for query, legend in legends:
        grouped = re.search(r"by \((.*?)\)", query)
        known = set(grouped[1].split(", ")) if grouped else set(BY_NAME[re.findall(r"zpipe_\w+", query)[0]].labels)
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= known, legend


@pytest.mark.needs("promtool")
def test_the_first_crash_shows_on_the_dashboard(tmp_path: Path) -> None:
    """Its series begins with it, at 1, in which increase() sees nothing."""
    dashboard = json.loads((DOCS / "grafana.json").read_text(encoding="utf-8"))
    for name in ("zpipe_restarts_total", "zpipe_worker_restarts_total"):
        (query,) = {t["expr"] for panel in dashboard["panels"] for t in panel["targets"] if name in t["expr"]}
        series = f'{name}{{pipeline="p", stage="sort", stage_instance="1", reason="SIGKILL"}}'
        shown = {"labels": '{stage="sort", reason="SIGKILL"}', "value": 1}
        expected = {
            "expr": query.replace("$pipeline", "p").replace("$__rate_interval", "1m"),
            "eval_time": "5m",
            "exp_samples": [shown],
        }
        case = {"input_series": [{"series": series, "values": "_x2 1x10"}], "promql_expr_test": [expected]}
        (tmp_path / "dashboard.yml").write_text(json.dumps({"evaluation_interval": "15s", "tests": [case]}))
        checked = subprocess.run(
            ["promtool", "test", "rules", str(tmp_path / "dashboard.yml")], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


# ---- what the model's value becomes


def served(model: PipelineModel, at: float, monkeypatch: pytest.MonkeyPatch) -> list[Sample]:
    monkeypatch.setattr("zpipe.monitor.export.exporter.now_s", lambda: at)
    return [(s.name, s.labels, s.value) for family in Collector(model).collect() for s in family.samples]


def test_what_is_silent_is_not_shown_as_current(monkeypatch: pytest.MonkeyPatch) -> None:
    model = PipelineModel(samples.config(samples.CHAIN))
    model.add(samples.snapshot("read", [samples.link("map", produced=9, unsent=2)], received=9, at=100.0), 100.0)
    model.add(samples.snapshot("map", received=5, queued=2, at=109.0), 109.0)
    model.add(samples.snapshot("sink", received=5, state="STOPPED", at=100.0), 100.0)
    found = served(model, 110.0, monkeypatch)
    by_stage = {
        stage: {name for name, labels, _ in found if labels.get("stage", labels.get("upstream")) == stage}
        for stage in samples.CHAIN
    }
    assert "zpipe_queued_messages" in by_stage["map"] and "zpipe_messages_received_total" in by_stage["map"]
    silent = {"zpipe_messages_received_total", "zpipe_queued_messages", "zpipe_link_produced_total", "zpipe_time_ratio"}
    assert not silent & by_stage["read"], "an old figure looks like any other"
    assert ("zpipe_instances", {"pipeline": "p", "stage": "read", "state": "SILENT"}, 1.0) in found
    ages = {labels["stage"]: value for name, labels, value in found if name == "zpipe_snapshot_age_seconds"}
    assert ages == {"read": 10.0, "map": 1.0}
    assert "zpipe_messages_received_total" in by_stage["sink"], "a last word is final"
    assert "zpipe_queued_messages" not in by_stage["sink"]


def test_what_a_plugin_counts_and_measures_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Metrics()
    own.counter("hits").inc(3)
    own.gauge("open").set(2)
    own.histogram("rows").observe(100)
    model = PipelineModel(samples.config(samples.CHAIN))
    model.add(samples.snapshot("map", at=100.0, **own.figures()), 100.0)
    found = {
        (name, labels["name"], labels.get("le")): value
        for name, labels, value in served(model, 100.0, monkeypatch)
        if "name" in labels
    }
    assert found["zpipe_plugin_total", "hits", None] == 3 and found["zpipe_plugin_value", "open", None] == 2
    below = {
        float(le): value for (name, _, le), value in found.items() if name == "zpipe_plugin_distribution_bucket" and le
    }
    assert (below[64], below[128], below[float("inf")]) == (0, 1, 1)
    assert found["zpipe_plugin_distribution_sum", "rows", None] == 100


def test_what_a_buffer_has_stays_when_its_process_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = {"stored": 7, "disk_bytes": 900, "lost": 1, "sync_s": 0.02, "trouble": "the disk is full"}
    model = PipelineModel(samples.config(samples.CHAIN))
    model.add(samples.snapshot("read", [samples.link("map", produced=9, unsent=7, buffer=buffer)], at=100.0), 100.0)
    model.add(samples.snapshot("map", at=100.0), 100.0)

    def found(at: float) -> dict[str, float]:
        return {name: value for name, _, value in served(model, at, monkeypatch) if name.startswith("zpipe_buffer_")}

    now = {"zpipe_buffer_stored_messages": 7, "zpipe_buffer_disk_bytes": 900, "zpipe_buffer_lost_total": 1}
    assert found(100.0) == now | {"zpipe_buffer_sync_seconds": 0.02, "zpipe_buffer_failing": 1}
    assert found(110.0) == now


def test_a_pipeline_that_is_not_there_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    found = served(PipelineModel(samples.config(samples.CHAIN, {"map": 3})), 1.0, monkeypatch)
    absent = {labels["stage"]: value for name, labels, value in found if labels.get("state") == "ABSENT"}
    assert absent == {"read": 1.0, "map": 3.0, "sink": 1.0}


# ---- a real run


@pytest.fixture
def config(home: Path) -> Path:
    (home / "sort.py").write_text(SORT)
    path = home / "measured.toml"
    path.write_text(CONFIG)
    return path


@contextmanager
def exporter(config: Path, *options: str) -> Iterator[str]:
    """Its address."""
    command = [sys.executable, "-m", "zpipe", "monitor", str(config), "--prometheus", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            said = re.fullmatch(r"zpipe: metrics of pipeline 'measured' at (http://127\.0\.0\.1:\d+/metrics)\n", line)
            assert said, line + process.stderr.read()
            yield said[1]
        finally:
            process.terminate()


def scrape(url: str) -> dict[str, list[Sample]]:
    with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
        text = answer.read().decode()
    found: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        metric = BY_NAME[name]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        for one in family.samples:
            assert one.name.removesuffix("_bucket") == name or one.name in (f"{name}_sum", f"{name}_count"), one
            assert set(one.labels) - {"le"} == set(metric.labels), one
        found[name] = [(one.name, one.labels, one.value) for one in family.samples]
    return found


def total(found: dict[str, list[Sample]], name: str, **labels: str) -> float:
    return sum(value for _, own, value in found[name] if labels.items() <= own.items())


def settled(found: dict[str, list[Sample]]) -> bool:
    running = total(found, "zpipe_instances", state="RUNNING")
    return running == 4 and total(found, "zpipe_messages_completed_total", stage="sink") > 200


def wait_for(condition: Callable[[], bool]) -> None:
    end, pause = time.monotonic() + DEADLINE_S, threading.Event()
    while not condition():
        assert time.monotonic() < end
        pause.wait(0.01)


def test_every_metric_is_served_and_true(config: Path) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(exporter(config))
        assert total(scrape(url), "zpipe_instances", state="UNHEARD") == 4, "it serves before the pipeline is up"
        for stage, instance in (("sink", 1), ("sink", 2), ("sort", 1), ("make", 1)):
            command = [sys.executable, "-m", "zpipe", "stage", str(config), stage, "--instance", str(instance)]
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(process.kill)
        end, pause = time.monotonic() + DEADLINE_S, threading.Event()
        while not settled(found := scrape(url)):
            assert time.monotonic() < end, found
            pause.wait(0.05)
        assert set(found) == set(BY_NAME) == set(re.findall(r"^\| `(zpipe_\w+)` \|", PAGE, re.MULTILINE))
        empty = {name for name, rows in found.items() if not rows}
        assert empty <= set(ONLY_NOW_AND_THEN), empty
    received = total(found, "zpipe_messages_received_total", stage="sort")
    dead, filtered = (total(found, f"zpipe_messages_{kind}_total", stage="sort") for kind in ("dead", "filtered"))
    rest = total(found, "zpipe_messages_completed_total", stage="sort")
    rest += total(found, "zpipe_in_process_messages", stage="sort") + total(
        found, "zpipe_queued_messages", stage="sort"
    )
    assert received == rest + dead + filtered, "the identity of the snapshot is that of the metrics"
    assert dead >= 3 and filtered > 100
    for stage in ("make", "sort"):
        assert total(found, "zpipe_time_ratio", stage=stage) == pytest.approx(1.0)
    assert total(found, "zpipe_source_total_messages") == 1_000_000
    assert {labels["outlet"] for _, labels, _ in found["zpipe_link_depth_messages"]} == {""}
    assert len(found["zpipe_link_depth_messages"]) == 2
    assert len(found["zpipe_resident_bytes"]) == 4
    assert {labels["version"] for _, labels, _ in found["zpipe_build_info"]} == {f"zpipe {__version__}"}
    assert_is_a_histogram(found)


def assert_is_a_histogram(found: dict[str, list[Sample]]) -> None:
    """Of what was measured in `sort`: buckets only grow, the last has all, and the head, which measures nothing, has none."""
    rows = [one for one in found["zpipe_latency_seconds"] if (one[1]["stage"], one[1]["kind"]) == ("sort", "in_stage")]
    buckets = [(labels["le"], value) for name, labels, value in rows if name.endswith("_bucket")]
    [sum_s] = [value for name, _, value in rows if name.endswith("_sum")]
    [count] = [value for name, _, value in rows if name.endswith("_count")]
    assert buckets[0][0] == "0.000128" and buckets[-1] == ("+Inf", count)
    counts = [value for _, value in buckets]
    assert counts == sorted(counts) and count > 200
    done = sum(total(found, f"zpipe_messages_{kind}_total", stage="sort") for kind in ("completed", "filtered", "dead"))
    assert count >= done
    least = sum(
        max(0.0, below - before) * float(le) / 2 for (le, below), before in zip(buckets[1:-1], counts, strict=False)
    )
    assert least <= sum_s
    assert not any(labels["stage"] == "make" for _, labels, _ in found["zpipe_latency_seconds"])


@pytest.mark.needs("promtool")
def test_promtool_finds_nothing_wrong(config: Path) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(exporter(config))
        for stage, instance in (("sink", 1), ("sink", 2), ("sort", 1), ("make", 1)):
            command = [sys.executable, "-m", "zpipe", "stage", str(config), stage, "--instance", str(instance)]
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(process.kill)
        wait_for(lambda: settled(scrape(url)))
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
            page = answer.read()
    assert b"zpipe_latency_seconds_bucket" in page
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def served_by(*options: str) -> tuple[str, int]:
    """What it says, and its exit code after SIGTERM."""
    command = [sys.executable, "-m", "zpipe", "monitor", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.terminate()
        rest = process.stderr.read()
        assert rest == "", rest
        return line, process.wait(DEADLINE_S)


@pytest.mark.parametrize(
    "options",
    [
        ("--prometheus", "CONFIG"),
        ("CONFIG", "--prometheus"),
        ("--prometheus", "127.0.0.1:0", "CONFIG"),
        ("CONFIG", "--prometheus", "127.0.0.1:0"),
        ("--prometheus=127.0.0.1:0", "CONFIG"),
    ],
)
def test_the_option_stands_anywhere_with_an_address_or_without(config: Path, options: tuple[str, ...]) -> None:
    line, code = served_by(*(str(config) if one == "CONFIG" else one for one in options))
    assert line.startswith("zpipe: metrics of pipeline 'measured' at http://127.0.0.1:"), line
    assert code == ExitCode.DONE


@pytest.mark.parametrize("options", [("--prometheus",), ("--prometheus", "127.0.0.1:0"), ()])
def test_without_a_config_it_says_so(options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "zpipe", "monitor", *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert result.returncode == ExitCode.USAGE
    assert "Missing argument 'CONFIG|PIPELINE'" in result.stderr


def test_openmetrics_is_served_to_who_wants_it_with_units(config: Path) -> None:
    with exporter(config) as url:
        wanted = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        with urllib.request.urlopen(wanted, timeout=DEADLINE_S) as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
            families = list(openmetrics(answer.read().decode()))
    for family in families:
        metric = BY_NAME[f"{family.name}_total" if family.type == "counter" else family.name]
        assert family.unit in ("", metric.unit)
        assert bool(family.unit) == (metric.kind != "counter" and metric.unit != ZERO_OR_ONE), metric.name
    assert len(families) == len(METRICS)


def test_some_metrics_can_be_chosen_by_name(config: Path) -> None:
    with exporter(config) as url:
        found = scrape(f"{url}?name[]=zpipe_instances&name[]=zpipe_bottleneck")
    assert total(found, "zpipe_instances", stage="sink") == 2
    assert set(found) == {"zpipe_instances", "zpipe_bottleneck"}


def test_two_at_one_address(config: Path) -> None:
    with exporter(config) as url:
        address = url.removeprefix("http://").removesuffix("/metrics")
        command = [sys.executable, "-m", "zpipe", "monitor", str(config), "--prometheus", address]
        result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert result.returncode == ExitCode.FAILED
    assert result.stderr == f"zpipe: cannot serve metrics at {address}: Address already in use\n"


class Nothing:
    """A feed, until it is over."""

    def __init__(self) -> None:
        self.over = threading.Event()

    refused: ClassVar[dict[Any, str]] = {}

    def poll(self, timeout_s: float) -> list[dict[str, Any]]:
        if self.over.wait(timeout_s):
            raise KeyboardInterrupt
        return []


@contextmanager
def served_here() -> Iterator[tuple[str, int]]:
    feed, address, bound = Nothing(), [], threading.Event()

    def ready(url: str) -> None:
        address.append(url)
        bound.set()

    def run() -> None:
        with suppress(KeyboardInterrupt):
            serve(feed, PipelineModel(samples.config(samples.CHAIN)), "127.0.0.1", 0, ready)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert bound.wait(DEADLINE_S)
        yield "127.0.0.1", int(address[0].rpartition(":")[2].partition("/")[0])
    finally:
        feed.over.set()
        thread.join()


@pytest.mark.parametrize("asked", [b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nHost: x\r\n"])
def test_who_never_asks_is_hung_up_on(asked: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zpipe.monitor.export.exporter.SCRAPER_TIMEOUT_S", 0.1)
    with served_here() as address, socket.create_connection(address, timeout=DEADLINE_S) as stuck:
        stuck.sendall(asked)
        assert stuck.recv(1) == b""


def test_a_scraper_that_goes_away_leaves_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with served_here() as address:
        before = set(threading.enumerate())

        def serving() -> bool:
            return bool(set(threading.enumerate()) - before)

        with socket.create_connection(address) as gone:
            gone.sendall(b"GET /metr")
            wait_for(serving)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets it
        wait_for(lambda: not serving())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ("9464", ExitCode.USAGE, "must be an address such as"),
        ("127.0.0.1:99999", ExitCode.USAGE, "must be an address such as"),
        ("192.0.2.1:9464", ExitCode.FAILED, "cannot serve metrics at 192.0.2.1:9464: "),
        ("[2001:db8::1]:9464", ExitCode.FAILED, "cannot serve metrics at [2001:db8::1]:9464: "),
        (f"{'a' * 70}.example:9464", ExitCode.FAILED, ".example:9464: "),
    ],
)
def test_an_address_that_cannot_be_says_so(config: Path, given: str, code: ExitCode, said: str) -> None:
    command = [sys.executable, "-m", "zpipe", "monitor", str(config), "--prometheus", given]
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert result.returncode == code, result.stderr
    assert said in result.stderr and "Traceback" not in result.stderr


def test_without_the_library_it_says_what_to_install(config: Path) -> None:
    script = "import sys; sys.modules['prometheus_client'] = None; from zpipe.cli import main; main()"
    command = [sys.executable, "-c", script, "monitor", str(config), "--prometheus"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert result.returncode == ExitCode.FAILED
    assert result.stderr == "zpipe: --prometheus needs prometheus_client: pip install 'zpipe-stages[prometheus]'\n"
