"""Watching: what operators learn of a request to ``/v1``: metrics, a span, a line in the log, counts for the page."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Iterator
from typing import Any

from starlette.types import Scope

from corrigenda.chat import Trace
from corrigenda.memory.hits import Hits
from corrigenda.middleware.gateway.activity import Activity
from corrigenda.middleware.gateway.logs import FIELDS
from corrigenda.middleware.gateway.metrics import Metrics, Outcome
from corrigenda.middleware.gateway.spans import Spans

log = logging.getLogger("corrigenda.access")


class Seen:
    """What is known so far of a request under way.

    Attributes:
        namespace: Whose edits apply; "" until it is known.
        outcome: What became of the request.
        status: What the client saw; 499 when it went away first.
        trace: Which edits fired; ``None`` for none.
        departed: When the gateway was done with it, before the upstream or the model had it, ``perf_counter`` seconds.
    """

    __slots__ = ("began", "departed", "namespace", "outcome", "status", "trace")

    def __init__(self) -> None:
        self.namespace = ""
        self.outcome: Outcome = "refused"
        self.status = 499
        self.trace: Trace | None = None
        self.began = time.perf_counter()
        self.departed: float | None = None

    def leave(self) -> None:
        """Note that the gateway's own work is done."""
        self.departed = time.perf_counter()


class Watch:
    """Watches requests.

    Args:
        metrics: Where to count.
        spans: Where to send spans; nowhere, by default.
        hits: Where to count how often each edit answered; nowhere, by default.
    """

    def __init__(self, metrics: Metrics, spans: Spans | None = None, hits: Hits | None = None) -> None:
        self.metrics, self.hits = metrics, hits
        self.spans = spans or Spans()
        self.activity = Activity()

    @contextlib.contextmanager
    def request(self, scope: Scope) -> Iterator[Seen]:
        """Watch the request of ``scope`` from its beginning to the end of its answer."""
        seen = Seen()
        with self.spans.request(scope["method"], scope["path"], scope["headers"]) as span:
            try:
                yield seen
            finally:
                self._count(seen)
                if span is not None:
                    span.set_attributes(_attributes(seen))
                if log.isEnabledFor(logging.INFO):
                    _log(scope, seen)

    def _count(self, seen: Seen) -> None:
        self.metrics.count(seen.outcome, seen.status)
        fired = seen.trace.fired if seen.trace is not None else ()
        if fired:
            self.metrics.fired.inc(len(fired))
            if self.hits is not None:
                self.hits.note(hit.edit_id for hit in fired)
        if seen.departed is not None:
            self.metrics.overhead.labels(seen.outcome).observe(seen.departed - seen.began)
        if seen.namespace:
            self.activity.record(seen.namespace, "edited" if fired else seen.outcome, [hit.edit_id for hit in fired])


def _attributes(seen: Seen) -> dict[str, Any]:
    row: dict[str, Any] = {
        "http.response.status_code": seen.status,
        "corrigenda.outcome": seen.outcome,
        "corrigenda.namespace": seen.namespace,
    }
    if seen.trace is not None:
        row["corrigenda.edits"] = [hit.edit_id for hit in seen.trace.fired]
        row["corrigenda.strategy"] = seen.trace.strategy
        row["corrigenda.ledger_version"] = seen.trace.ledger_version
    return row


def _log(scope: Scope, seen: Seen) -> None:
    now = time.perf_counter()
    row: dict[str, Any] = {
        "id": secrets.token_hex(6),
        "namespace": seen.namespace,
        "outcome": seen.outcome,
        "status": seen.status,
        "milliseconds": round((now - seen.began) * 1e3, 2),
    }
    if seen.departed is not None:
        row["overhead"] = round((seen.departed - seen.began) * 1e3, 2)
    if seen.trace is not None:
        row["fired"] = [hit.edit_id for hit in seen.trace.fired]
    log.info("%s %s %d", scope["method"], scope["path"], seen.status, extra={FIELDS: row})
