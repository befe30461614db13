"""OpenTelemetry traces of some messages: how long each waited in a queue, and how long it was worked on, stage by stage.

The OpenTelemetry library belongs here, choosing messages at the source, and the spans of a task. A traced message carries its
context in its headers `traceparent` and `tracestate` (W3C Trace Context), which stages pass on as they do all headers. Whoever
sees them makes two spans, both children of the one that the source began. Without traces, nothing of the library is imported
and no message is looked at.

Names follow the semantic conventions for messaging spans (opentelemetry.io/docs/specs/semconv/messaging). What a stage sends is
a destination, named as a config names an input ("read", "parse.errors"), and the stages that read it are its consumer groups. A
batch is one span with a link to each of its traced messages; it has a parent only if that is the only one.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Protocol

from zpipe import __version__
from zpipe.config import PipelineConfig
from zpipe.core.telemetry.tap_publisher import Bucket
from zpipe.core.work.delivery import Slice
from zpipe.core.work.task import Failure, Result, Task
from zpipe.errors import OperatorError, PeerError, install_command
from zpipe.hookspecs import Context
from zpipe.messages import BadRecord, Message
from zpipe.runtime.logs import fields

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

HEADER, STATE_HEADER = "traceparent", "tracestate"
SCHEMA = "https://opentelemetry.io/schemas/1.27.0"
"""The version of the conventions that the names here are of."""
_CLASS = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
FLUSH_S = 1.0
"""How long an instance that ends exports what is left: a collector that does not answer must not hold up a drain."""
EXPORT_LOG_S = 60.0
"""Between lines about what could not be exported: the library logs several a second."""
MOST_FAILED = 1000
"""Failed traced messages of which it is remembered when their last call ended."""
NS = 1_000_000_000
Hooks = Mapping[str, Callable[..., Any]]
_Seen = tuple[Any, str, dict[str, Any], Failure | None]
"""A traced message of a task: its context, its destination, the attributes of its processing, how it failed."""


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
    """Starts the traces that the config wants. Raises OperatorError if the library cannot be imported (the config's checks have
    found it)."""
    if not config.traces:
        return NoTraces()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import DEFAULT_ON
    except ImportError as error:
        raise OperatorError(f"[telemetry] traces needs OpenTelemetry: {install_command('otel')} ({error})") from None
    library = logging.getLogger("opentelemetry")
    library.handlers[:] = [ExportErrors(log)]
    library.propagate = False
    name = f"{context.stage}.{context.instance}"
    facts = {
        "service.namespace": context.pipeline,
        "service.name": context.stage,
        "service.instance.id": name,
        "service.version": __version__,
    }
    # The source decides, by `trace_rate`: a sampler from the environment would tear traces apart.
    provider = TracerProvider(sampler=DEFAULT_ON, resource=Resource.create(facts), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=config.traces, timeout=2)))
    return OpenTelemetry(provider, context.stage, name, config.trace_rate)


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
    """`name`: of the instance;  `rate`: how many messages a second a source traces at most."""

    def __init__(self, provider: TracerProvider, stage: str, name: str, rate: float) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("zpipe", __version__, SCHEMA)
        self._stage = stage
        self._facts = {"messaging.system": "zpipe", "messaging.client.id": name}
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
        """A copy of the item with a trace context; None for one that is no sound message, or has a context already."""
        if type(item) is tuple and len(item) == 2 and type(item[1]) is not BadRecord:
            item = Message(item[1], position=item[0])
        if type(item) is not Message:
            return None
        own: Any = {} if item.headers is None else item.headers
        if not isinstance(own, dict) or HEADER in own:
            return None
        from opentelemetry.trace import SpanKind

        destination = f"{self._stage}.{item.outlet}" if item.outlet else self._stage
        facts = self._operation("create", "create", destination) | {"zpipe.position": str(item.position)}
        span = self._tracer.start_span(f"create {destination}", kind=SpanKind.PRODUCER, attributes=facts)
        span.end()
        known = span.get_span_context()
        if not known.is_valid:  # OTEL_SDK_DISABLED
            return None
        marked = copy(item)
        marked.headers = {**own, HEADER: f"00-{known.trace_id:032x}-{known.span_id:016x}-01"}
        return marked

    def _operation(self, name: str, kind: str, destination: str) -> dict[str, Any]:
        """The attributes that every span of an operation has; `kind` is one of those that the conventions know, or empty."""
        facts = {"messaging.operation.name": name, "messaging.destination.name": destination}
        return self._facts | facts | ({"messaging.operation.type": kind} if kind else {})

    def done(self, task: Task, result: Result) -> None:
        ended_ns, now = time.time_ns(), time.monotonic()
        began_ns = ended_ns - int(result.seconds * NS)
        failures = {failure.index: failure for failure in result.failures}
        seen = []
        for number, (piece, id, headers) in enumerate(_messages(task)):
            if (context := _context(headers)) is None:
                continue
            failure = failures.get(number)
            waited_ns = ended_ns - int((now - piece.arrived_at) * NS)
            waited_ns = min(began_ns, max(waited_ns, self._last_call(id, failure, ended_ns)))
            destination = piece.delivery.source or self._stage
            facts = {
                "messaging.consumer.group.name": self._stage,
                "messaging.message.id": id,
                "zpipe.attempt": piece.section.attempt + task.attempt - 1,
            }
            waited = self._operation("queue", "", destination) | facts
            self._span(f"queue {destination}", waited, waited_ns, began_ns, context)
            seen.append((context, destination, self._operation("process", "process", destination) | facts, failure))
        if task.batch and seen:
            self._process_batch(task, seen, began_ns, ended_ns)
            return
        for context, destination, facts, failure in seen:
            self._span(f"process {destination}", facts, began_ns, ended_ns, context, [context], failure)

    def _process_batch(self, task: Task, seen: list[_Seen], began_ns: int, ended_ns: int) -> None:
        """One span for the call of a batch. It failed if one of the traced messages did."""
        contexts = [context for context, *_ in seen]
        _, destination, facts, _ = seen[0]
        facts = {**facts, "messaging.batch.message_count": task.count}
        if len(seen) > 1:  # what is of one message does not belong to the batch
            del facts["messaging.message.id"], facts["zpipe.attempt"]
        failure = next((failure for *_, failure in seen if failure is not None), None)
        parent = contexts[0] if len(contexts) == 1 else None
        self._span(f"process {destination}", facts, began_ns, ended_ns, parent, contexts, failure)

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
        self,
        name: str,
        facts: dict[str, Any],
        start_ns: int,
        end_ns: int,
        parent: Any,
        linked: Sequence[Any] = (),
        failure: Failure | None = None,
    ) -> None:
        """A span that is over. Without a parent it begins a trace. Only those that process messages have links."""
        from opentelemetry.context import Context as Empty
        from opentelemetry.trace import Link, SpanKind, Status, StatusCode, get_current_span

        links = [Link(get_current_span(one).get_span_context()) for one in linked]
        kind = SpanKind.CONSUMER if links else SpanKind.INTERNAL
        if failure is not None:
            reason = _CLASS.match(failure.reason)
            facts = facts | {"error.type": reason[0] if reason else "_OTHER"}
        span = self._tracer.start_span(name, parent or Empty(), kind, facts, links, start_ns)
        if failure is not None:
            span.set_status(Status(StatusCode.ERROR, failure.reason[:200]))
        span.end(end_ns)

    def close(self) -> None:
        # The library's own limits are on single requests, of which there may be many.
        shutdown = threading.Thread(target=self._provider.shutdown, name="zpipe-traces", daemon=True)
        shutdown.start()
        shutdown.join(FLUSH_S)


def _messages(task: Task) -> Iterator[tuple[Slice, str, Any]]:
    """The slice, the id and the headers of each message, in their order; "" and None where its section cannot be decoded."""
    for piece in task.slices:
        try:
            columns = piece.section.columns()
        except PeerError:  # a dead letter
            yield from ((piece, "", None) for _ in range(piece.count))
            continue
        headers = columns.headers
        for at in range(piece.start, piece.stop):
            yield piece, columns.ids[at], headers[at] if headers is not None else None


def _context(headers: Any) -> Any:
    """The context that the headers name; None if they name none, or one that is not to be traced."""
    if not headers or not isinstance(headers.get(HEADER), str):
        return None
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {name: headers[name] for name in (HEADER, STATE_HEADER) if isinstance(headers.get(name), str)}
    context = TraceContextTextMapPropagator().extract(carrier)
    known = get_current_span(context).get_span_context()
    return context if known.is_valid and known.trace_flags.sampled else None
