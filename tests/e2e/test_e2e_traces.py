"""OpenTelemetry traces, as a collector gets them."""

from __future__ import annotations

import gzip
import threading
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from e2e_types import MakePipeline
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from zpipe import __version__
from zpipe.daemon.plugin.traces import SCHEMA

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
    """A receiver of OTLP over HTTP, of the protocol's own messages (opentelemetry-proto), at `url`. It takes and answers what the
    specification says, and refuses anything else: the exporter then logs what went wrong.

    spans  by trace, then by service and name;  resources: the attributes of each resource;  scopes: (name, version, schema)
    """

    def __init__(self) -> None:
        self.spans: dict[bytes, dict[str, Any]] = defaultdict(dict)
        self.resources: list[dict[str, Any]] = []
        self.scopes: set[tuple[str, str, str]] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                sound = self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
                if sound:
                    collector.take(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200 if sound else 415)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            known = values(resource.resource.attributes)
            self.resources.append(known)
            for scope in resource.scope_spans:
                self.scopes.add((scope.scope.name, scope.scope.version, scope.schema_url))
                for span in scope.spans:
                    self.spans[span.trace_id][f"{known['service.name']}: {span.name}"] = span


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def values(attributes: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in attributes}


def facts(span: Any) -> dict[str, Any]:
    return values(span.attributes)


def test_queue_and_work_are_spans_of_their_own(make: MakePipeline, collector: Collector) -> None:
    pipeline = make(CONFIG.format(url=collector.url), work=WORK)
    ledger = pipeline.run().ledger()
    assert ledger["stages"]["store"]["completed"] == 399
    assert pipeline.count() == 399
    source, of_work, of_store = "read: create read", {"work: queue read", "work: process read"}, "store: queue work"
    batch = "store: process work"
    # A batch with several traced messages is in no trace of theirs, but has links to them.
    batches = [spans[batch] for spans in collector.spans.values() if batch in spans]
    linked = {link.trace_id for span in batches for link in span.links}
    of_batches = [spans for spans in collector.spans.values() if source not in spans]
    assert all(set(spans) == {batch} and len(spans[batch].links) > 1 for spans in of_batches)
    traced = {facts(spans[source])["zpipe.position"]: spans for spans in collector.spans.values() if source in spans}
    assert "0" in traced, "the first message is traced, since some are saved up"
    assert 5 <= len(traced) < 100, "a few a second, not all"
    for position, spans in traced.items():
        origin = spans[source]
        if position == "0":
            assert set(spans) == {source, *of_work}
            assert spans["work: process read"].status.message.startswith("ValueError: unlucky")
            assert facts(spans["work: process read"])["error.type"] == "ValueError"
            continue
        assert {source, *of_work, of_store} <= set(spans) <= {source, *of_work, of_store, batch}, position
        assert origin.trace_id in linked
        for span in spans.values():
            assert span is origin or span.parent_span_id == origin.span_id
            assert span.start_time_unix_nano <= span.end_time_unix_nano
        queue, work = spans["work: queue read"], spans["work: process read"]
        assert queue.end_time_unix_nano == work.start_time_unix_nano
        assert facts(work)["messaging.message.id"] == f"read:{position}"
        assert work.status.message == ""
        assert (origin.kind, queue.kind, work.kind) == (
            Span.SPAN_KIND_PRODUCER,
            Span.SPAN_KIND_INTERNAL,
            Span.SPAN_KIND_CONSUMER,
        )
    assert {facts(span)["messaging.batch.message_count"] for span in batches} <= set(range(1, 101))
    assert collector.scopes == {("zpipe", __version__, SCHEMA)}
    assert {
        (one["service.namespace"], one["service.name"], one["service.instance.id"]) for one in collector.resources
    } == {("p", stage, f"{stage}.1") for stage in ("read", "work", "store")}


def test_a_collector_that_is_not_there_holds_up_nothing(make: MakePipeline, collector: Collector) -> None:
    pipeline = make(CONFIG.format(url="http://127.0.0.1:9/v1/traces"), work=WORK)
    run = pipeline.run()
    run.ledger(deadline_s=40)
    assert pipeline.count() == 399
    said = [line for line in run.stderr.splitlines() if "event=traces.not_exported" in line]
    stages = ["read.1", "store.1", "work.1"]
    assert sorted({line.split()[2] for line in said}) == stages and len(said) == len(stages)
    assert not [line for line in run.stderr.splitlines() if "event=" not in line], "the library says nothing by itself"
