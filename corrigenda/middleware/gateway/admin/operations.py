"""What the admin API does. Every operation names the namespace it works in, and checks the key for it first."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda import __version__
from corrigenda.chat import Chat, Message
from corrigenda.edit import Edit
from corrigenda.errors import InvalidEdit, UnknownEdit
from corrigenda.memory import jsonl
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Consideration, Scope
from corrigenda.middleware.gateway.access import Access
from corrigenda.middleware.gateway.admin.call import MAX_OFFSET, Call
from corrigenda.middleware.gateway.keys import Role
from corrigenda.middleware.gateway.replies import Refusal

if TYPE_CHECKING:
    from corrigenda.middleware.gateway.app import Gateway

RULES = ("supersede", "coexist", "refuse")
EDIT_FIELDS = (
    "prompt",
    "target",
    "subject",
    "relation",
    "old_answer",
    "aliases",
    "target_aliases",
    "paraphrases",
    "source",
    "tags",
    "valid_from",
    "valid_to",
)
"""What a caller may say about an edit; the author is the key's name, and the namespace is checked by itself."""


class Operations:
    """The operations, one method each; run in threads.

    Args:
        gateway: Whose memory, keys and model they work on.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.memory: Memory = gateway.memory

    # Edits

    def list_edits(self, call: Call) -> dict[str, Any]:
        """List the live edits of a namespace, newest first, those only that contain ``q``."""
        namespace = call.namespace("reader")
        limit, offset = call.number("limit", 50, 1, 500), call.number("offset", 0, 0, MAX_OFFSET)
        edits: Sequence[Edit] = self.memory.live(namespace)[::-1]
        if (wanted := call.optional("q", 500)) is not None:
            words = wanted.casefold().split()
            edits = [edit for edit in edits if _contains(edit, words)]
        rows = [_row(edit) for edit in edits[offset : offset + limit]]
        return {"edits": rows, "total": len(edits), "version": self.memory.version}

    def add_edit(self, call: Call) -> dict[str, Any]:
        """Add an edit; it holds for the next request."""
        edit = self._edit(call, call.namespace("editor"))
        return self._done(self.memory.add(edit, on_conflict=call.choice("on_conflict", RULES)))

    def get_edit(self, call: Call) -> dict[str, Any]:
        """Show an edit, live or not."""
        edit = self._known(call, "reader")
        return {**_row(edit), "live": self.memory.is_live(edit.id)}

    def amend_edit(self, call: Call) -> dict[str, Any]:
        """Put a changed edit in the place of a live one."""
        edit = self._known(call, "editor")
        changes = {name: call.body[name] for name in EDIT_FIELDS if name in call.body}
        if not changes:
            raise InvalidEdit("nothing to amend", remedy="Name at least one field of the edit.")
        # Read as an edit first, so that wrong types are told apart here.
        Edit.from_dict(edit.to_dict() | changes)
        amended = self.memory.amend(
            edit.id,
            reason=call.optional("reason", 1_000),
            on_conflict=call.choice("on_conflict", RULES),
            author=call.key.name,
            **changes,
        )
        return self._done(amended)

    def retract_edit(self, call: Call) -> dict[str, Any]:
        """Take a live edit back."""
        edit = self._known(call, "editor")
        reason = call.optional("reason", 1_000)
        return self._done(self.memory.retract(edit.id, reason=reason, author=call.key.name))

    def edit_history(self, call: Call) -> dict[str, Any]:
        """Tell what happened to an edit, and to what it was amended from or into."""
        edit = self._known(call, "reader")
        return {"events": [event.to_dict() for event in self.memory.history(edit.id)]}

    # Looking

    def explain(self, call: Call) -> dict[str, Any]:
        """Tell for each query which edits were considered, on what grounds, and which fire."""
        namespace = call.namespace("reader")
        queries = call.texts("queries", 20, 20_000)
        considered = self.gateway.consulting.scope.consider(queries, namespace)
        return {"considered": [consideration_row(item) for item in considered], "version": self.memory.version}

    def preview(self, call: Call) -> dict[str, Any]:
        """Tell which queries an edit would fire for, were it added, and which live edits it would contradict."""
        namespace = call.namespace("reader")
        edit = self._edit(call, namespace)
        queries = call.texts("queries", 20, 20_000)
        with tempfile.TemporaryDirectory() as folder:
            alone = Memory.open(Path(folder) / "preview.db", encoder=self.memory.encoder)
            with alone:
                alone.add(edit)
                considered = Scope(alone, threshold=self.gateway.consulting.scope.threshold).consider(
                    queries, namespace
                )
                rows = [consideration_row(item) for item in considered]
        same = [other for other in self.memory.live(namespace) if _contradicts(edit, other)]
        return {"considered": rows, "contradicts": [_row(other) for other in same[:20]]}

    def ask(self, call: Call) -> dict[str, Any]:
        """Ask the local model, without the edits and with them."""
        namespace = call.namespace("reader")
        model = self.gateway.model
        if model is None:
            raise Refusal(409, "no_local_model", "the gateway stands in front of an upstream; ask it through /v1")
        prompt = call.text("prompt", 20_000)
        chat = Chat((Message("user", prompt),), completion=call.choice("mode", ("chat", "completion")) == "completion")
        options = {"max_new_tokens": call.number("max_tokens", 32, 1, 256)}
        before = model.ask_now(chat, namespace, options, bare=True)
        after = model.ask_now(chat, namespace, options)
        return {"before": before.text, "after": after.text, "trace": after.trace.to_dict()}

    def status(self, call: Call) -> dict[str, Any]:
        """Tell what the gateway is, and what the key may do."""
        visible = [name for name in self.memory.namespaces() if call.key.may("reader", name)]
        return {
            "version": self.memory.version,
            "software": __version__,
            "key": call.key.to_dict(),
            "namespaces": sorted({*visible, *(name for name in call.key.namespaces if name != "*")}),
            "local_model": self.gateway.model.name if self.gateway.model else None,
            "default_namespace": call.default_namespace,
        }

    # In bulk

    def import_edits(self, call: Call) -> dict[str, Any]:
        """Add the edits of JSON lines in one transaction; all go into the one namespace of the call."""
        namespace = call.namespace("editor")
        rule = call.choice("on_error", ("stop", "skip"))
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
            file.write(call.raw)
            file.flush()
            edits, bad = jsonl.read_edits(file.name)
        if bad and rule == "stop":
            raise jsonl.failed("the body", bad)
        known = [edit.replace(namespace=namespace, author=call.key.name) for edit in edits.values()]
        before = {edit.id for edit in self.memory.live(namespace)}
        added = self.memory.add_many(known, on_conflict=call.choice("on_conflict", RULES))
        fresh = len({edit.id for edit in added} - before)
        return {
            "added": fresh,
            "unchanged": len(added) - fresh,
            "bad_lines": {str(line): reason for line, reason in bad.items()},
            "version": self.memory.version,
        }

    def export_edits(self, call: Call) -> str:
        """Return the live edits of a namespace as JSON lines."""
        lines = io.StringIO()
        self.memory.export_jsonl(lines, namespace=call.namespace("reader"))
        return lines.getvalue()

    def roll_back(self, call: Call) -> dict[str, Any]:
        """Make the edits of a namespace what they were after an event of the ledger; by new events, nothing is lost."""
        namespace = call.namespace("admin")
        version = call.number("version", -1, 0, 1 << 62)
        then = {edit.id: edit for edit in self.memory.state(version, namespace)}
        now = {edit.id for edit in self.memory.live(namespace)}
        reason = call.optional("reason", 1_000) or f"roll back to version {version}"
        gone = sorted(now - set(then))
        for edit_id in gone:
            self.memory.retract(edit_id, reason=reason, author=call.key.name)
        back = [edit for edit_id, edit in then.items() if edit_id not in now]
        self.memory.add_many([edit.replace(author=call.key.name) for edit in back], on_conflict="coexist")
        return {"retracted": len(gone), "restored": len(back), "version": self.memory.version}

    # Keys

    def list_keys(self, call: Call) -> dict[str, Any]:
        """List the keys, without their secrets."""
        Access.require(call.key, "admin", None)
        assert self.gateway.keys is not None
        return {"keys": [key.to_dict() for key in self.gateway.keys.all()]}

    def create_key(self, call: Call) -> dict[str, Any]:
        """Make a key; its text is in the answer, and nowhere else."""
        Access.require(call.key, "admin", None)
        assert self.gateway.keys is not None
        spaces = call.texts("namespaces", 100, 200)
        key, text = self.gateway.keys.create(call.text("name", 200), call.text("role", 20), spaces)
        return {"key": text, **key.to_dict()}

    def revoke_key(self, call: Call) -> dict[str, Any]:
        """Make a key stop working, at once and for good."""
        Access.require(call.key, "admin", None)
        assert self.gateway.keys is not None
        if not any(key.id == call.path["key_id"] for key in self.gateway.keys.all()):
            raise Refusal(404, "unknown_key", "there is no such key")
        return self.gateway.keys.revoke(call.path["key_id"]).to_dict()

    # How

    def _edit(self, call: Call, namespace: str) -> Edit:
        row = {name: call.body[name] for name in EDIT_FIELDS if call.body.get(name) is not None}
        return Edit.from_dict({**row, "namespace": namespace, "author": call.key.name})

    def _known(self, call: Call, role: Role) -> Edit:
        """Return the edit of the path; one of a namespace that the key is not for does not exist for it."""
        edit_id = call.path["edit_id"]
        try:
            edit = self.memory.get(edit_id)
        except UnknownEdit:
            edit = None
        # Beginnings of ids are not taken here: what they find, or nearly find, could be somebody else's.
        if edit is None or edit.id != edit_id or not call.key.may("reader", edit.namespace):
            raise Refusal(404, "unknown_edit", "there is no such edit")
        Access.require(call.key, role, edit.namespace)
        return edit

    def _done(self, edit: Edit) -> dict[str, Any]:
        return {"edit": _row(edit), "version": self.memory.version}


def consideration_row(considered: Consideration) -> dict[str, Any]:
    """Return what was considered for a query as a JSON-ready dict."""
    return {
        "query": considered.query,
        "fires": [candidate.edit.id for candidate in considered.in_scope],
        "candidates": [
            {
                "edit": candidate.edit.id,
                "statement": candidate.edit.statement,
                "verdict": candidate.verdict,
                "probability": round(candidate.probability, 6),
                "threshold": round(candidate.threshold, 6),
                "similarity": round(candidate.similarity, 6),
                "mention": candidate.mention.name if candidate.mention else None,
                "segment": candidate.segment,
                "features": {name: round(float(value), 6) for name, value in candidate.features.items()},
            }
            for candidate in considered.candidates
        ],
        "milliseconds": {stage: round(ms, 3) for stage, ms in considered.milliseconds.items()},
    }


def _row(edit: Edit) -> dict[str, Any]:
    return {"id": edit.id, "statement": edit.statement, **edit.to_dict()}


def _contains(edit: Edit, words: Sequence[str]) -> bool:
    fields = (edit.id, edit.prompt, edit.target, *edit.names, *edit.tags, *edit.paraphrases, edit.relation or "")
    text = "\n".join(fields).casefold()
    return all(word in text for word in words)


def _contradicts(edit: Edit, other: Edit) -> bool:
    if other.id == edit.id:
        return False
    if edit.conflict_key is not None and edit.conflict_key == other.conflict_key:
        return True
    return edit.prompt.casefold() == other.prompt.casefold() and edit.subject == other.subject
