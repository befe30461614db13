"""OpenTelemetry traces, as a collector gets them."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from e2e_types import MakePipeline
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

CONFIG = """
[pipeline]
name = "p"

[telemetry]
traces = "{url}"
trace_rate = 5

[stages.read]
plugin = "generate"
options = {{ count = 400, rate = 200 }}

[stages.work]
input = "read"
plugin = "python"
options = {{ function = "work.py:work" }}
retry = {{ attempts = 1 }}

[stages.store]
input = "work"
plugin = "sqlite"
batch = {{ messages = 100, timeout = "50ms" }}
options = {{ path = "out.db", table = "t", key = "id" }}
"""
WORK = """
def work(payload):
    if payload["id"] == 0:
        raise ValueError("unlucky")
    return payload
"""


class Collector:
    """Takes what is exported to `url`; `spans` by trace and name, with the service's name."""

    def __init__(self) -> None:
        self.spans: dict[bytes, dict[str, Any]] = defaultdict(dict)
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest()
                request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        for span in scope.spans:
                            collector.spans[span.trace_id][span.name] = span
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def facts(span: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def test_queue_and_work_are_spans_of_their_own(make: MakePipeline, collector: Collector) -> None:
    pipeline = make(CONFIG.format(url=collector.url), work=WORK)
    ledger = pipeline.run().ledger()
    assert ledger["stages"]["store"]["completed"] == 399
    assert pipeline.count() == 399
    whole = {"read source", "work queue", "work work", "store queue", "store work"}
    traced = {facts(spans["read source"])["zpipe.position"]: spans for spans in collector.spans.values()}
    assert "0" in traced, "the first message is traced, since some are saved up"
    assert 5 <= len(traced) < 100, "a few a second, not all"
    for position, spans in traced.items():
        source = spans["read source"]
        if position == "0":
            assert set(spans) == whole - {"store queue", "store work"}
            assert spans["work work"].status.message.startswith("ValueError: unlucky")
            continue
        assert set(spans) == whole, position
        for span in spans.values():
            assert span is source or span.parent_span_id == source.span_id
            assert span.start_time_unix_nano <= span.end_time_unix_nano
        for stage in ("work", "store"):
            queue, work = spans[f"{stage} queue"], spans[f"{stage} work"]
            assert queue.end_time_unix_nano == work.start_time_unix_nano
            assert facts(work)["zpipe.message"] == f"read:{position}"
            assert work.status.message == ""


def test_a_collector_that_is_not_there_holds_up_nothing(make: MakePipeline, collector: Collector) -> None:
    pipeline = make(CONFIG.format(url="http://127.0.0.1:9/v1/traces"), work=WORK)
    run = pipeline.run()
    run.ledger(deadline_s=40)
    assert pipeline.count() == 399
    said = [line for line in run.stderr.splitlines() if "event=traces.not_exported" in line]
    stages = ["read.1", "store.1", "work.1"]
    assert sorted({line.split()[2] for line in said}) == stages and len(said) == len(stages)
    assert not [line for line in run.stderr.splitlines() if "event=" not in line], "the library says nothing by itself"
