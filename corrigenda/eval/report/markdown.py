"""A report as Markdown: the tables, and where charts are."""

from __future__ import annotations

from collections.abc import Sequence

from corrigenda.eval.report import runs
from corrigenda.eval.report.content import Section
from corrigenda.eval.report.entries import Entry
from corrigenda.eval.report.significance import test_of
from corrigenda.eval.report.tables import Cell, Table

_LEGEND = (
    "**Bold**: best of the column; ≈: not significantly different from the best ({test}, Holm-corrected, 5 %); "
    "▾: significantly worse; neither: cannot be told. ±: standard error over edits; n: edits scored, where fewer than "
    "N. –: not scored, which is not zero."
)


def to_markdown(entries: Sequence[Entry], sections: Sequence[Section], title: str) -> str:
    """Return the report."""
    parts = [f"# {title}", _LEGEND.format(test=test_of(entries))]
    for section in sections:
        parts.append(f"## {section.title} ({section.model})")
        for table in section.tables:
            parts += [f"### {table.title}", table.note, _table(table)]
    parts += ["## Runs", f"Versions: {runs.versions(list(entries))}.", _runs(entries)]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    headings = []
    place = 0
    for group, width in table.groups:
        headings += [f"{group}: {name}" if group else name for name in table.columns[place : place + width]]
        place += width
    lines = [["method", *headings], ["---"] * (len(headings) + 1)]
    lines += [[f"`{method}`", *map(_cell, cells)] for method, cells in table.rows]
    return "\n".join("| " + " | ".join(_safe(cell) for cell in line) + " |" for line in lines)


def _cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.mark == "best" else cell.text
    mark = {"like": " ≈", "worse": " ▾"}.get(cell.mark, "")
    return f"{text} {cell.note}".strip() + mark


def _runs(entries: Sequence[Entry]) -> str:
    lines = [list(runs.COLUMNS), ["---"] * len(runs.COLUMNS)]
    for entry in entries:
        row = list(runs.row_of(entry))
        row[1] = f"`{row[1]}`"
        lines.append(row)
    return "\n".join("| " + " | ".join(_safe(cell) for cell in line) + " |" for line in lines)


def _safe(text: str) -> str:
    return text.replace("|", "\\|")
