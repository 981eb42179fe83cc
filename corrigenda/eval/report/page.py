"""A report as one HTML page that needs nothing else: style and charts are inside, and it prints well."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from corrigenda.eval.report import runs
from corrigenda.eval.report.content import Figure, Section
from corrigenda.eval.report.entries import Entry
from corrigenda.eval.report.significance import test_of
from corrigenda.eval.report.tables import Cell, Table

_LEGEND = (
    "<b>Shaded</b>: best of the column. ≈: not significantly different from the best ({test}, Holm-corrected within "
    "the column, 5 %). ▾: significantly worse. Neither: cannot be told. ±: standard error over edits; n: edits scored, "
    "where fewer than N. –: not scored, which is not zero. The method <code>none</code> is the unedited model; it "
    "takes no part."
)


def to_html(entries: Sequence[Entry], sections: Sequence[Section], title: str) -> str:
    """Return the page."""
    links = "".join(f'<a href="#s{place}">{escape(section.title)}</a>' for place, section in enumerate(sections))
    body = [f"<h1>{escape(title)}</h1>", f'<nav>{links}<a href="#runs">Runs</a></nav>']
    body.append(f"<p class=soft>{_LEGEND.format(test=escape(test_of(entries)))}</p>")
    body += [_section(section, place) for place, section in enumerate(sections)]
    body.append(_runs(entries))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_style()}</style></head>'
        f"<body>\n{chr(10).join(body)}\n</body></html>\n"
    )


def _style() -> str:
    return Path(__file__).with_name("report.css").read_text("utf-8")


def _section(section: Section, place: int) -> str:
    parts = [
        f'<section id="s{place}"><h2>{escape(section.title)} <span class=soft>· {escape(section.model)}</span></h2>'
    ]
    parts += [_table(table) for table in section.tables]
    parts += [_figure(figure) for figure in section.figures]
    return "\n".join([*parts, "</section>"])


def _table(table: Table) -> str:
    starts = {0}
    place = 0
    for _, width in table.groups:
        starts.add(place)
        place += width
    groups = "".join(f'<th class="group start" colspan="{width}">{escape(name)}</th>' for name, width in table.groups)
    first = f"<tr><th></th>{groups}</tr>" if any(name for name, _ in table.groups) else ""
    headings = "".join(
        f"<th{' class=start' if place in starts else ''}>{escape(name)}</th>"
        for place, name in enumerate(table.columns)
    )
    rows = "".join(
        f"<tr><td>{escape(method)}</td>"
        + "".join(_cell(cell, starts=place in starts) for place, cell in enumerate(cells))
        + "</tr>"
        for method, cells in table.rows
    )
    return (
        f"<h3>{escape(table.title)}</h3><p class=soft>{escape(table.note)}</p><div class=wide><table><thead>{first}"
        f"<tr><th>method</th>{headings}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(cell: Cell, *, starts: bool) -> str:
    names = " ".join(name for name in (cell.mark, "start" if starts else "") if name)
    mark = {"like": " ≈", "worse": " ▾"}.get(cell.mark, "")
    note = f" <small>{escape(cell.note)}</small>" if cell.note else ""
    return (
        f'<td class="{names}">{escape(cell.text)}{note}{mark}</td>' if names else f"<td>{escape(cell.text)}{note}</td>"
    )


def _figure(figure: Figure) -> str:
    caption = f"<figcaption>{escape(figure.title)}<small>{escape(figure.note)}</small></figcaption>"
    return f"<figure>{caption}{figure.svg}</figure>"


def _runs(entries: Sequence[Entry]) -> str:
    headings = "".join(f"<th>{escape(name)}</th>" for name in runs.COLUMNS)
    rows = []
    for entry in entries:
        name, command, *rest = map(escape, runs.row_of(entry))
        cells = "".join(f"<td>{text}</td>" for text in rest)
        rows.append(f"<tr><td>{name}</td><td class=left><code>{command}</code></td>{cells}</tr>")
    return (
        f'<section id="runs"><h2>Runs</h2><p class=soft>Versions: {escape(runs.versions(list(entries)))}.</p>'
        f"<div class=wide><table class=runs><thead><tr>{headings}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        "</div></section>"
    )
