"""Metrics in the format of Prometheus. Labels are few and fixed: no namespace, no key, no text of a request."""

from __future__ import annotations

from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

Outcome = Literal["passed", "early_exit", "out_of_scope", "edited", "refused", "local"]
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """The metrics of one gateway, in a registry of its own: several may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "corrigenda_requests", "Requests by what became of them.", ["outcome", "status"], registry=self.registry
        )
        self.fired = Counter("corrigenda_edits_fired", "Edits that fired, counted per request.", registry=self.registry)
        self.overhead = Histogram(
            "corrigenda_overhead_seconds",
            "Time between a request's arrival and its departure to the upstream.",
            ["outcome"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.admin = Counter(
            "corrigenda_admin_requests", "Requests to the admin API.", ["operation", "status"], registry=self.registry
        )
        self.failures = Counter(
            "corrigenda_judging_failures", "Requests that could not be judged.", registry=self.registry
        )
        self.edits = Gauge("corrigenda_edits_live", "Live edits of all namespaces.", registry=self.registry)
        self.version = Gauge("corrigenda_ledger_version", "Last ledger event seen.", registry=self.registry)
        self.stale = Gauge(
            "corrigenda_ledger_stale_seconds", "For how long the ledger has not answered.", registry=self.registry
        )

    def count(self, outcome: Outcome, status: int) -> None:
        """Count a request to ``/v1``."""
        self.requests.labels(outcome, f"{status // 100}xx").inc()

    def text(self) -> bytes:
        """Return everything, for ``/metrics``."""
        return generate_latest(self.registry)
