"""What a report holds, in order, before it becomes HTML or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from corrigenda.eval.report import charts
from corrigenda.eval.report.entries import BASELINE, Entry, Setting, settings_of
from corrigenda.eval.report.tables import Table, tables_of


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart: its title, what to know, and the SVG."""

    title: str
    note: str
    svg: str


@dataclass(frozen=True, slots=True)
class Section:
    """Everything about one setting."""

    title: str
    model: str
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]


def sections_of(entries: Sequence[Entry]) -> list[Section]:
    """Return one section a setting."""
    colours = charts.colour_of([entry.label for entry in entries])
    return [
        Section(
            setting.title,
            setting.model[1],
            tuple(tables_of(entries, setting)),
            tuple(_figures([entry for entry in entries if entry.setting == setting], setting, colours)),
        )
        for setting in settings_of(entries)
    ]


def _figures(entries: Sequence[Entry], setting: Setting, colours: dict[str, int]) -> list[Figure]:
    found = []
    for data in sorted({entry.data for entry in entries}):
        own = [entry for entry in entries if entry.data == data]
        found += [
            figure
            for figure in (_trade_off(data, own, colours), _curves(data, own, colours), _map(data, own))
            if figure
        ]
    return found


def _trade_off(data: str, entries: Sequence[Entry], colours: dict[str, int]) -> Figure | None:
    spots = []
    for entry in entries:
        x, y = entry.metric("locality"), entry.metric("reliability")
        if x and y:
            spots.append(charts.Spot(entry.label, x["value"], y["value"], x["stderr"] or 0, y["stderr"] or 0))
    if not spots:
        return None
    svg = charts.scatter(spots, colours, x="locality", y="reliability", label=f"Reliability against locality, {data}")
    return Figure(f"Reliability against locality: {data}", "Bars are standard errors over edits.", svg)


def _curves(data: str, entries: Sequence[Entry], colours: dict[str, int]) -> Figure | None:
    lines = []
    for entry in entries:
        points = [
            (float(point["after"]), float(point["metrics"]["reliability"]["value"]))
            for point in entry.results.get("retention", ())
            if point["metrics"].get("reliability", {}).get("value") is not None
        ]
        if len(points) > 1 and entry.results["method"] != BASELINE:
            lines.append(charts.Series(entry.label, tuple(points)))
    if not lines:
        return None
    svg = charts.line_chart(
        lines, colours, x="edits made", y="reliability", label=f"Retention of earlier edits, {data}"
    )
    note = (
        "Reliability of the edits made so far (a sample of at most 50 before the end), asked again after so many edits."
    )
    return Figure(f"Retention: {data}", note, svg)


def _map(data: str, entries: Sequence[Entry]) -> Figure | None:
    values = {}
    for entry in entries:
        if entry.results["method"] == BASELINE:
            continue
        for relation, metrics in entry.results.get("by_relation", {}).items():
            found = metrics.get("reliability")
            if found and found["value"] is not None:
                values[relation, entry.label] = (found["value"], found["n"])
    relations = sorted({relation for relation, _ in values}, key=_by_number)
    if len(relations) < 2:
        return None
    methods = [entry.label for entry in entries if any(label == entry.label for _, label in values)]
    svg = charts.heat_map(relations, methods, values, label=f"Reliability by relation, {data}")
    note = "Reliability by relation of the edit. Cells stand for few cases each: the number is in the tooltip."
    return Figure(f"By relation: {data}", note, svg)


def _by_number(relation: str) -> tuple[str, int, str]:
    digits = "".join(char for char in relation if char.isdigit())
    return relation[:1], int(digits or 0), relation
