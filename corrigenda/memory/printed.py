"""Marks of printed edits: the tags that say in which promotions an edit is printed. They follow the weights."""

from __future__ import annotations

from corrigenda.edit import Edit

PRINTED = "printed:"


def marks_of(edit: Edit) -> tuple[str, ...]:
    """Return those of the edit's tags that are marks."""
    return tuple(tag for tag in edit.tags if tag.startswith(PRINTED))


def bare(edit: Edit) -> Edit:
    """Return ``edit`` without its marks."""
    return marked(edit, ())


def marked(edit: Edit, marks: tuple[str, ...]) -> Edit:
    """Return ``edit`` with ``marks`` instead of its own."""
    if marks == marks_of(edit):
        return edit
    return edit.replace(tags=(*(tag for tag in edit.tags if not tag.startswith(PRINTED)), *marks))
