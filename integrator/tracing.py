"""Traces, from a webhook to the calls that it leads to; off unless INTEGRATOR_TRACES_SHARE says so.

An order's correlation id is its trace's id, so that no message and no column carries a context: who works on the
order knows the trace, and a log line leads to it. What stands in a span is named here and nowhere else: no address
(a webhook's holds the shop's key, a call's an order's number), no header, no statement, no body.

The library is an extra (`pip install integrator[traces]`); where it sends to is said by its own variables,
OTEL_EXPORTER_OTLP_…. Nothing waits for it: spans go through a bounded queue, and are dropped when it is full.
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

from integrator.config import Settings

Name = Literal["webhook", "keep", "run", "call"]
ATTRIBUTES = frozenset(
    {"tenant", "shop", "platform", "kind", "outcome", "status", "sync_id", "claim", "host", "method"}
)
"""All that a span may say; each is ours, or a number, or the name of a host."""

_KINDS: dict[Name, str] = {"webhook": "SERVER", "keep": "INTERNAL", "run": "CONSUMER", "call": "CLIENT"}


EXPORT_SECONDS = 3
"""How long one batch is tried; a process that ends waits so long for its last one."""


class TracesUnavailable(Exception):
    """Traces are wanted and the library is missing. Its text is for people."""


class Span:
    """One span as our code sees it; without traces it takes everything and keeps nothing."""

    def __init__(self, real: Any = None) -> None:
        self._real = real

    def note(self, **attributes: Any) -> None:
        """Set attributes. Raises ValueError for one that is not among ATTRIBUTES."""
        if unknown := attributes.keys() - ATTRIBUTES:
            raise ValueError(f"no attribute of a span: {', '.join(unknown)}")
        if self._real is not None:
            for name, value in attributes.items():
                self._real.set_attribute(f"integrator.{name}", value)

    def link(self, correlation_id: str) -> None:
        """Say that it belongs to another order's trace, too."""
        if self._real is not None and _traceable(correlation_id):
            self._real.add_link(_context(correlation_id))

    def fail(self, error_class: str) -> None:
        """Mark it as failed, by a class: an error's text may hold personal data."""
        if self._real is not None:
            from opentelemetry.trace import StatusCode  # noqa: PLC0415 - an extra

            self._real.set_status(StatusCode.ERROR, error_class)


class _Wanted(threading.local):
    """The ids that the next span of this thread gets instead of random ones."""

    correlation_id: str | None = None


_wanted = _Wanted()
_tracer: Any = None
NOTHING = Span()
_NO_SPAN = nullcontext(NOTHING)


def require(settings: Settings) -> None:
    """Raise TracesUnavailable when traces are wanted and can't be had."""
    if not settings.traces_share:
        return
    try:
        import opentelemetry.exporter.otlp.proto.http  # noqa: PLC0415 - an extra
        import opentelemetry.sdk.trace  # noqa: F401, PLC0415
    except ImportError as error:
        raise TracesUnavailable(
            "INTEGRATOR_TRACES_SHARE is set and OpenTelemetry is not installed: pip install 'integrator[traces]'."
        ) from error


def configure(settings: Settings, service: str, exporter: Any = None) -> None:
    """Start tracing in this process, after any fork. Raises TracesUnavailable.

    Spans go to `exporter` at once if one is given, as tests do; else to the collector, in batches.
    """
    global _tracer  # noqa: PLW0603 - one a process
    require(settings)
    _tracer = _make(settings, service, exporter) if settings.traces_share else None


def _make(settings: Settings, service: str, exporter: Any) -> Any:
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - an extra
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased  # noqa: PLC0415

    class Ids(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            return _trace_id(_wanted.correlation_id) if _wanted.correlation_id else super().generate_trace_id()

        def generate_span_id(self) -> int:
            return _span_id(_wanted.correlation_id) if _wanted.correlation_id else super().generate_span_id()

    provider = TracerProvider(
        # By the trace's id alone: every process that meets an order decides alike.
        sampler=TraceIdRatioBased(settings.traces_share),
        resource=Resource.create({"service.name": f"integrator-{service}", "process.pid": os.getpid()}),
        id_generator=Ids(),
        span_limits=SpanLimits(max_events=0),
    )
    if exporter is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=EXPORT_SECONDS)))
    else:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider.get_tracer("integrator")


def begin(name: Name, correlation_id: str) -> AbstractContextManager[Span]:
    """The first span of the trace that has this id."""
    return _begin(name, correlation_id) if _tracer is not None and _traceable(correlation_id) else _NO_SPAN


@contextmanager
def _begin(name: Name, correlation_id: str) -> Iterator[Span]:
    from opentelemetry.context import Context  # noqa: PLC0415 - an extra

    _wanted.correlation_id = correlation_id
    try:
        real = _tracer.start_span(name, context=Context(), kind=_kind(name))
    finally:
        _wanted.correlation_id = None
    with _current(real) as span:
        yield span


@contextmanager
def resume(name: Name, correlation_id: str | None) -> Iterator[Span]:
    """A span of the trace that was begun under this id, maybe by another process."""
    if _tracer is None or correlation_id is None or not _traceable(correlation_id):
        yield NOTHING
        return
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context  # noqa: PLC0415 - an extra

    parent = set_span_in_context(NonRecordingSpan(_context(correlation_id)))
    with _current(_tracer.start_span(name, context=parent, kind=_kind(name))) as span:
        yield span


def inner(name: Name) -> AbstractContextManager[Span]:
    """A span within this thread's current one. Outside of any there is none: nobody could say whose it is."""
    return _inner(name) if _tracer is not None else _NO_SPAN


@contextmanager
def _inner(name: Name) -> Iterator[Span]:
    from opentelemetry.trace import get_current_span  # noqa: PLC0415 - an extra

    if not get_current_span().get_span_context().is_valid:
        yield NOTHING
        return
    with _current(_tracer.start_span(name, kind=_kind(name))) as span:
        yield span


@contextmanager
def _current(real: Any) -> Iterator[Span]:
    from opentelemetry.trace import use_span  # noqa: PLC0415 - an extra

    span = Span(real)
    with use_span(real, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield span
        except BaseException as error:
            span.fail(type(error).__name__)
            raise


def _kind(name: Name) -> Any:
    from opentelemetry.trace import SpanKind  # noqa: PLC0415 - an extra

    return SpanKind[_KINDS[name]]


def _context(correlation_id: str) -> Any:
    """The context of a trace's first span, wherever it was recorded."""
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415 - an extra

    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(_trace_id(correlation_id), _span_id(correlation_id), is_remote=True, trace_flags=flags)


def _traceable(correlation_id: str) -> bool:
    """Whether it can be a trace's id: the receiver makes each so, of 32 hexadecimal digits."""
    return re.fullmatch(r"(?!0{16})[0-9a-f]{32}", correlation_id) is not None


def _trace_id(correlation_id: str) -> int:
    return int(correlation_id, 16)


def _span_id(correlation_id: str) -> int:
    """The first span's id: half of its trace's, so that everybody can tell it."""
    return int(correlation_id[:16], 16)
