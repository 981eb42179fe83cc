"""Edits through the admin API. Every operation names the namespace it works in, and checks the key for it first."""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from corrigenda.edit import Edit
from corrigenda.errors import InvalidEdit, UnknownEdit
from corrigenda.memory import jsonl
from corrigenda.memory.memory import Memory
from corrigenda.memory.restoring import roll_back
from corrigenda.middleware.gateway.access import Access
from corrigenda.middleware.gateway.admin.call import MAX_OFFSET, Call
from corrigenda.middleware.gateway.admin.rows import edit_row
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


class Edits:
    """The operations on edits; run in threads.

    Args:
        gateway: Whose memory they work on.
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
        rows = [edit_row(edit) for edit in edits[offset : offset + limit]]
        return {"edits": rows, "total": len(edits), "version": self.memory.version}

    def add_edit(self, call: Call) -> dict[str, Any]:
        """Add an edit; it holds for the next request."""
        edit = edit_of(call, call.namespace("editor"))
        return self._done(self.memory.add(edit, on_conflict=call.choice("on_conflict", RULES)))

    def get_edit(self, call: Call) -> dict[str, Any]:
        """Show an edit, live or not."""
        edit = self._known(call, "reader")
        return {**edit_row(edit), "live": self.memory.is_live(edit.id)}

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
        then = self.memory.state_after(version)
        reason = call.optional("reason", 1_000) or f"roll back to version {version}"
        done = roll_back(self.memory, then, reason=reason, author=call.key.name, namespace=namespace)
        kinds = Counter(event.kind for event in done)
        return {"retracted": kinds["retracted"], "restored": kinds["restored"], "version": self.memory.version}

    # How

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
        return {"edit": edit_row(edit), "version": self.memory.version}


def _contains(edit: Edit, words: Sequence[str]) -> bool:
    fields = (edit.id, edit.prompt, edit.target, *edit.names, *edit.tags, *edit.paraphrases, edit.relation or "")
    text = "\n".join(fields).casefold()
    return all(word in text for word in words)


def edit_of(call: Call, namespace: str) -> Edit:
    """Return the edit that a call describes, by the key's owner. Raises :class:`InvalidEdit`."""
    row = {name: call.body[name] for name in EDIT_FIELDS if call.body.get(name) is not None}
    return Edit.from_dict({**row, "namespace": namespace, "author": call.key.name})
