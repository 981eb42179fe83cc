"""Subjects to ask an edit's prompt about: what an edit has to leave alone.

T-Patcher and CaliNET train their neurons to be silent then; MEND and KE take out of an update what they would feel.
"""

from __future__ import annotations

OTHERS = (
    "Brazil", "Norway", "Lake Victoria", "Kyoto", "Mount Etna", "the Danube", "Boston", "Senegal",
    "Clara Schumann", "Isaac Asimov", "Nikola Tesla", "Frida Kahlo", "Ernest Hemingway", "Zinedine Zidane",
    "Catherine Deneuve", "Giuseppe Verdi", "Immanuel Kant", "Emmy Noether", "Akira Kurosawa", "Louis Pasteur",
    "Volvo", "Nintendo", "Microsoft Office", "the BBC", "Airbus A320", "Le Figaro", "Nestlé", "Game of Thrones",
    "Don Quixote", "The Starry Night", "Swan Lake", "Kind of Blue",
)  # fmt: skip
"""Thirty-two subjects of every kind."""
