"""OpenTelemetry spans of requests: how long judging and the upstream took, and which edits fired. Never any text.

A client's ``traceparent`` makes our span a child of the client's. It goes on to the upstream as it came: bytes that no
edit concerns are not ours to change, so the upstream's spans are siblings of ours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from corrigenda import __version__
from corrigenda.errors import MissingExtra

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

Header = tuple[bytes, bytes]
_CONTEXT = (b"traceparent", b"tracestate")


class Spans:
    """Makes spans; without a provider, none, at no cost.

    Args:
        provider: Of OpenTelemetry's SDK; see :func:`exporting`.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = provider.get_tracer("corrigenda.gateway", __version__) if provider is not None else None

    @property
    def on(self) -> bool:
        """Whether spans are made."""
        return self._tracer is not None

    @contextlib.contextmanager
    def request(self, method: str, path: str, headers: Iterable[Header]) -> Iterator[Span | None]:
        """Span a request, as a child of the client's span where its headers name one."""
        if self._tracer is None:
            yield None
            return
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {key.decode(): value.decode("latin-1") for key, value in headers if key in _CONTEXT}
        parent = TraceContextTextMapPropagator().extract(carrier)
        attributes = {"http.request.method": method, "url.path": path}
        with self._tracer.start_as_current_span(
            f"{method} {path}", context=parent, kind=SpanKind.SERVER, attributes=attributes
        ) as span:
            yield span

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[Span | None]:
        """Span a part of the request under way: ``judge``, ``upstream``."""
        if self._tracer is None:
            yield None
            return
        with self._tracer.start_as_current_span(f"corrigenda.{name}") as span:
            yield span


def exporting() -> Any:
    """Return a provider that sends spans where ``OTEL_EXPORTER_OTLP_ENDPOINT`` says, in the background.

    The other variables of OpenTelemetry hold as well: ``OTEL_SERVICE_NAME``, ``OTEL_TRACES_SAMPLER``…

    Raises:
        MissingExtra: OpenTelemetry's SDK or exporter is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MissingExtra.named("otel", error.name or "opentelemetry") from error
    # What the environment says about the service wins over what is said here.
    provider = TracerProvider(resource=Resource({"service.name": "corrigenda"}).merge(Resource.create()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
