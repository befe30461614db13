"""Traces without a pipeline: which messages get a context, what the spans of a task are, and a collector that fails."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import SpanKind

from zpipe.config import load
from zpipe.core.wire.section import Section, encode
from zpipe.core.work.delivery import Delivery, Slice
from zpipe.core.work.task import CallHistory, Failure, Result, Task
from zpipe.daemon.plugin import traces
from zpipe.daemon.plugin.traces import HEADER, NS, STATE_HEADER, ExportErrors, OpenTelemetry
from zpipe.hookspecs import Context
from zpipe.messages import BadRecord, Message

CONFIG = """
[pipeline]
name = "p"
[telemetry]
traces = "http://127.0.0.1:9/v1/traces"
[stages.read]
plugin = "generate"
"""


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def made(exported: InMemorySpanExporter) -> Iterator[OpenTelemetry]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exported))
    yield OpenTelemetry(provider, "work", "work.1", 1000.0)
    provider.shutdown()


def context(folder: Path) -> Context:
    log = logging.getLogger("test")
    return Context("p", "read", 1, "i1", None, folder, folder, log, last=False, batching=False)


def marked(made: OpenTelemetry, *items: Any) -> list[Any]:
    return list(made.hooks({"zpipe_source": lambda _: iter(items)})["zpipe_source"](None))


def test_a_context_goes_into_a_copy(made: OpenTelemetry) -> None:
    """A source may yield one object again and again: what was traced once would be traced for ever."""
    own = Message({"n": 1}, id="a", origin=5.0, headers={"k": 1}, outlet="o", position=7)
    first, second = marked(made, own, own)
    assert own.headers == {"k": 1}
    assert first.headers[HEADER] != second.headers[HEADER]
    assert (first.payload, first.id, first.origin, first.outlet, first.position) == ({"n": 1}, "a", 5.0, "o", 7)
    assert first.headers.keys() == {"k", HEADER}


@pytest.mark.parametrize(
    "item",
    [
        (1, BadRecord("bad", b"")),
        "no item",
        Message(1, headers=5),  # type: ignore[arg-type]
        Message(1, headers=[HEADER]),  # type: ignore[arg-type]
        Message(1, headers={HEADER: "its own"}),
    ],
    ids=["bad record", "no item", "headers no map", "headers a list", "a context of its own"],
)
def test_what_cannot_carry_a_context_goes_as_it_is(item: Any, made: OpenTelemetry) -> None:
    assert marked(made, item)[0] is item


def test_a_sampler_from_the_environment_does_not_tear_traces_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    monkeypatch.setattr(traces, "FLUSH_S", 0.0)
    path = tmp_path / "p.toml"
    path.write_text(CONFIG)
    seen: list[ReadableSpan] = []

    class SeenIncarnation(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            seen.append(span)

    started = traces.start(load(path, only=""), context(tmp_path), logging.getLogger("test"))
    assert isinstance(started, OpenTelemetry)
    started._provider.add_span_processor(SeenIncarnation())
    [message] = marked(started, (1, "x"))
    started.close()
    assert HEADER in message.headers
    assert [span.name for span in seen] == ["create read"]


def test_one_that_is_tried_again_waits_from_the_call_before(
    made: OpenTelemetry, exported: InMemorySpanExporter
) -> None:
    """Else the work of the first call would be in the queue time of the second."""
    [message] = marked(made, (1, "x"))
    exported.clear()
    section = Section(encode(["read:1"], [0.0], ["x"], [message.headers]), 1, attempt=2)
    piece = Slice(Delivery([], lambda _: None, source="read"), section, 0, 0, 1, time.monotonic() - 10)
    failed = Result([], failures=[Failure(0, "ValueError: no")], seconds=2.0)
    made.done(Task(1, [piece], CallHistory(), batch=False), failed)
    made.done(Task(2, [piece], CallHistory(attempts=1), batch=False), Result([], seconds=0.0))
    queue, work, queue_again, work_again = exported.get_finished_spans()
    assert all(span.start_time and span.end_time for span in (queue, work, queue_again, work_again))
    assert work.start_time - queue.start_time == pytest.approx(8 * NS, abs=NS)  # type: ignore[operator]
    assert queue.end_time == work.start_time
    assert queue_again.start_time == work.end_time
    assert queue_again.end_time == work_again.start_time
    assert [span.attributes["zpipe.attempt"] for span in (work, work_again)] == [2, 3]  # type: ignore[index]
    assert (work.status.description, work_again.status.description) == ("ValueError: no", None)
    third = Task(3, [piece], CallHistory(), batch=False)
    made.done(third, Result([], seconds=0.0))
    assert exported.get_finished_spans()[4].start_time < work.end_time, "it is forgotten once it is done"  # type: ignore[operator]


def task_of(*headers: Any, batch: bool = False) -> Task:
    """Of a message with each of these headers."""
    ids = [f"read:{n}" for n in range(len(headers))]
    section = Section(encode(ids, [0.0] * len(ids), [None] * len(ids), list(headers)), len(ids))
    piece = Slice(Delivery([], lambda _: None, source="read"), section, 0, 0, len(ids), time.monotonic())
    return Task(1, [piece], CallHistory(), batch)


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""The example of W3C Trace Context."""


def test_the_context_of_a_record_is_gone_on_with_whole(made: OpenTelemetry, exported: InMemorySpanExporter) -> None:
    """`tracestate` is of those who began the trace: it goes where `traceparent` goes."""
    made.done(task_of({HEADER: PARENT, STATE_HEADER: "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"}), Result([]))
    spans = exported.get_finished_spans()
    assert [span.name for span in spans] == ["queue read", "process read"]
    for span in spans:
        assert span.parent is not None and f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
        assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
        assert span.context.trace_state.to_header() == "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"


@pytest.mark.parametrize("state", [5, "no state", ""])
def test_a_broken_tracestate_does_not_break_the_trace(
    made: OpenTelemetry, exported: InMemorySpanExporter, state: Any
) -> None:
    made.done(task_of({HEADER: PARENT, STATE_HEADER: state}), Result([]))
    assert len(exported.get_finished_spans()) == 2


def test_a_batch_is_one_span_with_a_link_to_each_traced_message(
    made: OpenTelemetry, exported: InMemorySpanExporter
) -> None:
    first, second = (message.headers for message in marked(made, (1, "x"), (2, "y")))
    exported.clear()
    failures = [Failure(n, "sqlite3.OperationalError: disk I/O error") for n in range(3)]
    made.done(task_of(first, None, second, batch=True), Result([], failures=failures))
    *queues, batch = exported.get_finished_spans()
    assert [span.name for span in queues] == ["queue read"] * 2 and batch.name == "process read"
    assert batch.parent is None and batch.kind is SpanKind.CONSUMER
    assert [f"{link.context.trace_id:032x}" for link in batch.links] == [
        headers[HEADER].split("-")[1] for headers in (first, second)
    ]
    facts = dict(batch.attributes or {})
    assert facts["messaging.batch.message_count"] == 3 and facts["error.type"] == "sqlite3.OperationalError"
    assert "messaging.message.id" not in facts and "zpipe.attempt" not in facts

    exported.clear()
    made.done(task_of(first, None, batch=True), Result([]))
    _, batch = exported.get_finished_spans()
    assert batch.parent is not None and f"{batch.parent.trace_id:032x}" == first[HEADER].split("-")[1]
    assert len(batch.links) == 1 and dict(batch.attributes or {})["messaging.message.id"] == "read:0"


def test_names_are_those_of_the_conventions(made: OpenTelemetry, exported: InMemorySpanExporter) -> None:
    [message] = marked(made, Message("x", outlet="errors", position=1))
    made.done(task_of(message.headers), Result([], failures=[Failure(0, "no class: x")]))
    create, queue, process = exported.get_finished_spans()
    assert [(span.name, span.kind) for span in (create, queue, process)] == [
        ("create work.errors", SpanKind.PRODUCER),
        ("queue read", SpanKind.INTERNAL),
        ("process read", SpanKind.CONSUMER),
    ]
    known = {value for name, value in vars(messaging_attributes).items() if name.startswith("MESSAGING_")}
    known |= {error_attributes.ERROR_TYPE, "zpipe.position", "zpipe.attempt"}
    for span in (create, queue, process):
        assert set(span.attributes or {}) <= known
        facts = dict(span.attributes or {})
        assert (facts["messaging.system"], facts["messaging.client.id"]) == ("zpipe", "work.1")
        assert facts["messaging.operation.name"] == span.name.split()[0]
        assert facts["messaging.destination.name"] == span.name.split()[1]
        assert span.instrumentation_scope is not None and span.instrumentation_scope.schema_url == traces.SCHEMA
    types = messaging_attributes.MessagingOperationTypeValues
    told = [dict(span.attributes or {}).get("messaging.operation.type") for span in (create, queue, process)]
    assert told == [types.CREATE.value, None, types.PROCESS.value]
    assert dict(process.attributes or {})["messaging.consumer.group.name"] == "work"
    assert dict(process.attributes or {})["error.type"] == "no"
    assert traces.SCHEMA in {schema.value for schema in Schemas}


def test_what_the_library_says_is_logged_at_a_limited_rate(caplog: pytest.LogCaptureFixture) -> None:
    library = logging.Logger("library")
    library.addHandler(ExportErrors(logging.getLogger("test")))
    with caplog.at_level(logging.INFO, "test"):
        for n in range(50):
            library.warning("no collector, try %d", n)
    assert [record.getMessage() for record in caplog.records] == [
        'event=traces.not_exported reason="no collector, try 0" times=1'
    ]


def test_a_collector_that_never_answers_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "FLUSH_S", 0.01)
    stuck = threading.Event()

    class Stuck(SpanProcessor):
        def shutdown(self) -> None:
            stuck.wait()

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return stuck.wait()

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Stuck())
    try:
        OpenTelemetry(provider, "work", "work.1", 1.0).close()  # else this test has its timeout
    finally:
        stuck.set()
