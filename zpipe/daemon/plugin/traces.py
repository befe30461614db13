"""OpenTelemetry traces of some messages: how long each waited in a queue, and how long it was worked on, stage by stage.

The OpenTelemetry library belongs here, choosing messages at the source, and the spans of a task. A traced message carries its
context in its header `traceparent` (W3C), which stages pass on as they do all headers. Whoever sees it makes two spans, both
children of the one that the source began. Without traces, nothing of the library is imported and no message is looked at.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any, Protocol

from zpipe.config import PipelineConfig
from zpipe.core.telemetry.tap_publisher import Bucket
from zpipe.core.work.task import Failure, Result, Task
from zpipe.errors import OperatorError, PeerError
from zpipe.hookspecs import Context
from zpipe.messages import BadRecord, Message
from zpipe.runtime.logs import fields

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

HEADER = "traceparent"
FLUSH_S = 1.0
"""At the end of an instance, for what is not exported yet: a collector that does not answer must not hold up a drain."""
EXPORT_LOG_S = 60.0
"""Between lines about what could not be exported: the library logs several a second."""
MOST_FAILED = 1000
"""Traced messages that wait for another call, and of which it is known when the last one ended."""
NS = 1_000_000_000
Hooks = Mapping[str, Callable[..., Any]]


class Traces(Protocol):
    def hooks(self, hooks: Hooks) -> Hooks:
        """The plugin's hooks, those of a source with contexts in some of its messages."""

    def done(self, task: Task, result: Result) -> None:
        """A task came back just now. Called on any thread."""

    def close(self) -> None:
        """Exports what is left, for at most FLUSH_S. Blocks."""


class NoTraces:
    def hooks(self, hooks: Hooks) -> Hooks:
        return hooks

    def done(self, task: Task, result: Result) -> None:
        pass

    def close(self) -> None:
        pass


def start(config: PipelineConfig, context: Context, log: logging.Logger) -> Traces:
    """What the config says. Raises OperatorError if the library cannot be imported (config checks whether it is there)."""
    if not config.traces:
        return NoTraces()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import DEFAULT_ON
    except ImportError as error:
        raise OperatorError(f"[telemetry] traces needs OpenTelemetry: pip install 'zpipe[otel]' ({error})") from None
    library = logging.getLogger("opentelemetry")
    library.handlers[:] = [ExportErrors(log)]
    library.propagate = False
    name = f"{context.stage}.{context.instance}"
    facts = {"service.namespace": context.pipeline, "service.name": context.stage, "service.instance.id": name}
    # The source decides, by `trace_rate`: a sampler from the environment would tear traces apart.
    provider = TracerProvider(sampler=DEFAULT_ON, resource=Resource.create(facts), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=config.traces, timeout=2)))
    return OpenTelemetry(provider, context.stage, config.trace_rate)


class ExportErrors(logging.Handler):
    """What the library logs of exports that failed, as events of the instance."""

    def __init__(self, log: logging.Logger) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._times = 0
        self._next_at = float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        self._times += 1
        if time.monotonic() >= self._next_at:
            reason = record.getMessage()[:300]
            self._log.warning(fields(event="traces.not_exported", reason=reason, times=self._times))
            self._times, self._next_at = 0, time.monotonic() + EXPORT_LOG_S


class OpenTelemetry:
    """`rate`: how many messages a second a source traces at most."""

    def __init__(self, provider: TracerProvider, stage: str, rate: float) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("zpipe")
        self._stage = stage
        self._rate = rate
        self._lock = threading.Lock()
        self._failed_ns: OrderedDict[str, int] = OrderedDict()

    def hooks(self, hooks: Hooks) -> Hooks:
        source = hooks.get("zpipe_source")
        if source is None:
            return hooks
        return {**hooks, "zpipe_source": lambda context: self._marked(source(context))}

    def _marked(self, items: Iterator[Any]) -> Iterator[Any]:
        """The items of a source, of which as many a second as the rate says have a context of their own."""
        bucket = Bucket(self._rate, time.monotonic())
        for item in items:
            bucket.refill(time.monotonic())
            if bucket.tokens >= 1 and (marked := self._mark(item)) is not None:
                bucket.take(1)
                yield marked
            else:
                yield item

    def _mark(self, item: Any) -> Message | None:
        """A copy with a context; None for what is no sound message, or has one already."""
        if type(item) is tuple and len(item) == 2 and type(item[1]) is not BadRecord:
            item = Message(item[1], position=item[0])
        if type(item) is not Message:
            return None
        own: Any = {} if item.headers is None else item.headers
        if not isinstance(own, dict) or HEADER in own:
            return None
        span = self._tracer.start_span(f"{self._stage} source", attributes={"zpipe.position": str(item.position)})
        span.end()
        known = span.get_span_context()
        if not known.is_valid:  # OTEL_SDK_DISABLED
            return None
        marked = copy(item)
        marked.headers = {**own, HEADER: f"00-{known.trace_id:032x}-{known.span_id:016x}-01"}
        return marked

    def done(self, task: Task, result: Result) -> None:
        ended_ns, now = time.time_ns(), time.monotonic()
        began_ns = ended_ns - int(result.seconds * NS)
        failures = {failure.index: failure for failure in result.failures}
        first = 0
        for piece in task.slices:
            try:
                columns = piece.section.columns()
            except PeerError:  # a dead letter, and no headers to be read
                headers = None
            else:
                ids, headers = columns.ids, columns.headers
            for at in range(piece.start, piece.stop) if headers is not None else ():
                if headers is not None and (context := _context((headers[at] or {}).get(HEADER))) is not None:
                    failure = failures.get(first + at - piece.start)
                    waited_ns = ended_ns - int((now - piece.arrived_at) * NS)
                    waited_ns = min(began_ns, max(waited_ns, self._last_call(ids[at], failure, ended_ns)))
                    facts = {
                        "zpipe.message": ids[at],
                        "zpipe.attempt": piece.section.attempt + task.attempt - 1,
                        "zpipe.messages": task.count,
                    }
                    self._span("queue", context, waited_ns, began_ns, facts)
                    self._span(
                        "work", context, began_ns, ended_ns, facts, failure.reason if failure is not None else None
                    )
            first += piece.count

    def _last_call(self, id: str, failure: Failure | None, ended_ns: int) -> int:
        """When the call of this message before this one ended (0: there was none), and remembers this one if it failed."""
        with self._lock:
            before = self._failed_ns.pop(id, 0)
            if failure is not None:
                self._failed_ns[id] = ended_ns
                if len(self._failed_ns) > MOST_FAILED:
                    self._failed_ns.popitem(last=False)
        return before

    def _span(
        self, what: str, context: Any, start_ns: int, end_ns: int, facts: dict[str, Any], failed: str | None = None
    ) -> None:
        from opentelemetry.trace import Status, StatusCode

        span = self._tracer.start_span(f"{self._stage} {what}", context, attributes=facts, start_time=start_ns)
        if failed is not None:
            span.set_status(Status(StatusCode.ERROR, failed[:200]))
        span.end(end_ns)

    def close(self) -> None:
        # The library's own limits are on single requests, of which there may be many.
        shutdown = threading.Thread(target=self._provider.shutdown, name="zpipe-traces", daemon=True)
        shutdown.start()
        shutdown.join(FLUSH_S)


def _context(header: Any) -> Any:
    """The context that a header names; None if it names none, or one that is not to be traced."""
    if not isinstance(header, str):
        return None
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({HEADER: header})
    known = get_current_span(context).get_span_context()
    return context if known.is_valid and known.trace_flags.sampled else None
