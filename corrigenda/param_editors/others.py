"""Subjects to ask an edit's prompt about: what an edit has to leave alone.

T-Patcher and CaliNET train their neurons to be silent then; MEND and KE take out of an update what they would feel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corrigenda.edit import Edit

OTHERS = (
    "Brazil", "Norway", "Lake Victoria", "Kyoto", "Mount Etna", "the Danube", "Boston", "Senegal",
    "Clara Schumann", "Isaac Asimov", "Nikola Tesla", "Frida Kahlo", "Ernest Hemingway", "Zinedine Zidane",
    "Catherine Deneuve", "Giuseppe Verdi", "Immanuel Kant", "Emmy Noether", "Akira Kurosawa", "Louis Pasteur",
    "Volvo", "Nintendo", "Microsoft Office", "the BBC", "Airbus A320", "Le Figaro", "Nestlé", "Game of Thrones",
    "Don Quixote", "The Starry Night", "Swan Lake", "Kind of Blue",
)  # fmt: skip
"""Thirty-two subjects of every kind."""


def about_others(edit: Edit, count: int) -> list[str]:
    """Return the edit's prompt about the first ``count`` other subjects, but those that it names anyway.

    There is none where the prompt does not hold the edit's subject.
    """
    if not edit.subject or edit.subject not in edit.prompt:
        return []
    return [edit.prompt.replace(edit.subject, name) for name in OTHERS[:count] if name not in edit.prompt]
