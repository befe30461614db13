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

from zpipe.config import load
from zpipe.core.wire.section import Section, encode
from zpipe.core.work.delivery import Delivery, Slice
from zpipe.core.work.task import CallHistory, Failure, Result, Task
from zpipe.daemon.plugin import traces
from zpipe.daemon.plugin.traces import HEADER, NS, ExportErrors, OpenTelemetry
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
    yield OpenTelemetry(provider, "work", 1000.0)
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
    assert [span.name for span in seen] == ["read source"]


def test_one_that_is_tried_again_waits_from_the_call_before(
    made: OpenTelemetry, exported: InMemorySpanExporter
) -> None:
    """Else the work of the first call would be in the queue time of the second."""
    [message] = marked(made, (1, "x"))
    exported.clear()
    section = Section(encode(["read:1"], [0.0], ["x"], [message.headers]), 1, attempt=2)
    piece = Slice(Delivery([], lambda _: None), section, 0, 0, 1, time.monotonic() - 10)
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
        OpenTelemetry(provider, "work", 1.0).close()  # else this test has its timeout
    finally:
        stuck.set()
