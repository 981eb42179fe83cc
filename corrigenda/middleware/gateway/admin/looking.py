"""Looking: what the gateway is, what would fire, what the model says before and after, what happened lately."""

from __future__ import annotations

import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda import __version__
from corrigenda.chat import Chat, Message
from corrigenda.memory.ledger import claims
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Scope
from corrigenda.middleware.gateway.admin.asking import Asker
from corrigenda.middleware.gateway.admin.call import Call
from corrigenda.middleware.gateway.admin.edits import edit_of
from corrigenda.middleware.gateway.admin.rows import consideration_row, edit_row

if TYPE_CHECKING:
    from corrigenda.middleware.gateway.app import Gateway

_DAYS = 30
_MOST_EVENTS = 20_000
"""Events of the ledger's end from which the chart of the days is drawn."""


class Looking:
    """The operations that change nothing; run in threads.

    Args:
        gateway: What they look at.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.memory: Memory = gateway.memory
        self._asker = Asker(gateway)

    def status(self, call: Call) -> dict[str, Any]:
        """Tell what the gateway is, and what the key may do."""
        visible = [name for name in self.memory.namespaces() if call.key.may("reader", name)]
        return {
            "version": self.memory.version,
            "software": __version__,
            "key": call.key.to_dict(),
            "namespaces": sorted({*visible, *(name for name in call.key.namespaces if name != "*")}),
            "local_model": self.gateway.model.name if self.gateway.model else None,
            "consolidation": self.gateway.consolidator is not None,
            "stale_seconds": round(self.memory.stale_for, 3),
            "default_namespace": call.default_namespace,
        }

    def explain(self, call: Call) -> dict[str, Any]:
        """Tell for each query which edits were considered, on what grounds, and which fire."""
        namespace = call.namespace("reader")
        queries = call.texts("queries", 20, 20_000)
        considered = self.gateway.consulting.scope.consider(queries, namespace)
        return {"considered": [consideration_row(item) for item in considered], "version": self.memory.version}

    def preview(self, call: Call) -> dict[str, Any]:
        """Tell which queries an edit would fire for, were it added, which live edits it would contradict, and more.

        With ``answers``, what the model says to the first query without the edit and with it alone.
        """
        namespace = call.namespace("reader")
        edit = edit_of(call, namespace)
        queries = call.texts("queries", 20, 20_000)
        with tempfile.TemporaryDirectory() as folder:
            alone = Memory.open(Path(folder) / "preview.db", encoder=self.memory.encoder)
            with alone:
                alone.add(edit)
                own = self.gateway.consulting.scope
                scope = Scope(alone, threshold=own.threshold_in(namespace), judge=own.judge)
                row: dict[str, Any] = {
                    "considered": [consideration_row(item) for item in scope.consider(queries, namespace)]
                }
                if call.flag("answers"):
                    chat, options, model = _asked(call, queries[0])
                    before, after, _ = self._asker.ask(chat, namespace, options, model, memory=alone, scope=scope)
                    row["answers"] = {"query": queries[0], "before": before, "after": after}
        wanted = set(claims(edit))
        others = [other for other in self.memory.live(namespace) if other.id != edit.id and wanted & set(claims(other))]
        return {**row, "contradicts": [edit_row(other) for other in others[:20]]}

    def ask(self, call: Call) -> dict[str, Any]:
        """Ask the model, without the edits and with them."""
        namespace = call.namespace("reader")
        chat, options, model = _asked(call, call.text("prompt", 20_000))
        before, after, trace = self._asker.ask(chat, namespace, options, model)
        return {"before": before, "after": after, "trace": trace.to_dict()}

    def activity(self, call: Call) -> dict[str, Any]:
        """Tell what happened lately: requests by the minute, edits that fired most, events by the day."""
        namespace = call.namespace("reader")
        rows = self.gateway.watch.activity.rows(namespace)
        for row in rows["fired"]:
            row["statement"] = self.memory.get(row["edit"]).statement
        return {**rows, "days": self._days(namespace), "edits": len(self.memory.live(namespace))}

    def _days(self, namespace: str) -> list[dict[str, Any]]:
        today = datetime.now(UTC).date()
        days = {(today - timedelta(days=back)).isoformat(): Counter[str]() for back in reversed(range(_DAYS))}
        for event in self.memory.events(after=max(0, self.memory.version - _MOST_EVENTS)):
            day = event.when.date().isoformat()
            if event.edit.namespace == namespace and day in days:
                days[day][event.kind] += 1
        return [{"day": day, **kinds} for day, kinds in days.items()]


def _asked(call: Call, prompt: str) -> tuple[Chat, dict[str, Any], str | None]:
    """Return what the model is to be asked, with which options, and which model of the upstream."""
    completion = call.choice("mode", ("chat", "completion")) == "completion"
    chat = Chat((Message("user", prompt),), completion=completion)
    return chat, {"max_new_tokens": call.number("max_tokens", 32, 1, 256)}, call.optional("model", 300)
