"""The tables of a report, free of any output format.

Numbered as in Yao et al. 2023: (1) reliability, generalization, locality; (2) portability; (3) side effects; (4) time
and memory. Then what goes beyond them: teacher-forced columns, ROME's success columns, text, what else was scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from corrigenda.eval.metrics import METRICS
from corrigenda.eval.report.entries import BASELINE, Entry, Setting
from corrigenda.eval.report.significance import differ, holm


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure.

    Attributes:
        text: As it is printed.
        note: Its error or interval, smaller.
        mark: ``best``; ``like`` (not significantly different from the best); ``worse``; empty where nothing is said.
        value: The figure.
    """

    text: str
    note: str = ""
    mark: str = ""
    value: float | None = None


NOTHING = Cell("–")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of methods, columns of figures.

    Attributes:
        title: What it shows.
        note: What to know when reading it.
        groups: (heading, number of columns) over the columns; the first column, the method, is not counted.
        columns: Headings of the columns.
        rows: (method, cells).
    """

    title: str
    note: str
    groups: tuple[tuple[str, int], ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


_HEADINGS = {
    "reliability": "Reliability",
    "generalization": "Generalization",
    "locality": "Locality",
    "portability": "Portability",
    "subject_replacement": "Subject replaced",
    "reversed_relation": "Reversed relation",
    "one_hop": "One hop",
    "multi_hop": "Multi-hop",
    "multi_hop_any": "Multi-hop, any wording",
    "other_attribution": "Other attribution",
    "distract_neighbourhood": "Distract neighbour",
    "efficacy_success": "Efficacy",
    "paraphrase_success": "Paraphrase",
    "neighborhood_success": "Neighborhood",
    "reliability_at_edit": "Right after the edit",
    "locality_argmax": "Same first choice",
    "locality_kl": "KL, nats",
    "fluency": "Fluency, bits",
    "consistency": "Consistency",
    "retraction": "Retraction",
}
_TEACHER_FORCED = ("reliability_teacher_forced", "generalization_teacher_forced", "locality_teacher_forced")
_KINDS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "Table 1. Reliability, generalization, locality",
        ("reliability", "generalization", "locality"),
        "Free greedy generation with natural stop: the answer is the target; for locality, the answer is unchanged.",
    ),
    (
        "Table 2. Portability",
        ("portability", "subject_replacement", "reversed_relation", "one_hop", "multi_hop", "multi_hop_any"),
        "Consequences of the edit, by free generation. A small model fails many of them with a perfect edit, because "
        "it lacks the knowledge that they also need.",
    ),
    (
        "Table 3. Side effects",
        ("other_attribution", "distract_neighbourhood", "retraction"),
        "Share of answers that stayed as they were. Other tasks: accuracy with all edits live, the change in brackets.",
    ),
    (
        "Teacher-forced, as EasyEdit has it",
        _TEACHER_FORCED,
        "Share of the target's tokens that are the first choice, the right ones before them given. It flatters.",
    ),
    (
        "Success, as ROME has it",
        ("efficacy_success", "paraphrase_success", "neighborhood_success"),
        "Share of prompts where the right one of the old and the new answer is the more probable one.",
    ),
    (
        "What else was scored",
        ("reliability_at_edit", "locality_argmax", "locality_kl", "fluency", "consistency"),
        "Lower is better for KL.",
    ),
    (
        "Judged by a model",
        tuple(name for name in METRICS if name.endswith("_judged")),
        "What a judge model says of the same answers.",
    ),
)


def tables_of(entries: Sequence[Entry], setting: Setting) -> list[Table]:
    """Return the tables of one setting; those without any figure are left out."""
    chosen = [entry for entry in entries if entry.setting == setting]
    found = []
    for title, metrics, note in _KINDS:
        tasks = title.startswith("Table 3")
        if table := _table(title, note, chosen, metrics, tasks=tasks):
            found.append(table)
    found.append(_costs(chosen))
    order = {"Table 4": 3.5}
    return sorted(found, key=lambda item: order.get(item.title[:7], _place(item.title)))


def _place(title: str) -> float:
    return next((place for place, (name, _, _) in enumerate(_KINDS) if name == title), len(_KINDS))


def _table(title: str, note: str, entries: Sequence[Entry], metrics: Sequence[str], *, tasks: bool) -> Table | None:
    methods = list(dict.fromkeys(entry.label for entry in entries))
    groups: list[tuple[str, int]] = []
    columns: list[str] = []
    cells: dict[str, list[Cell]] = {method: [] for method in methods}
    for data in sorted({entry.data for entry in entries}):
        own = {entry.label: entry for entry in entries if entry.data == data}
        shown = [name for name in metrics if any(entry.metric(name) for entry in own.values())]
        made = [(_HEADINGS.get(name, _heading(name)), _column(own, methods, name)) for name in shown]
        made += _task_columns(own, methods) if tasks else []
        if not made:
            continue
        made.insert(0, ("N", [_count(own.get(method)) for method in methods]))
        groups.append((data, len(made)))
        for heading, column in made:
            columns.append(heading)
            for method, cell in zip(methods, column, strict=True):
                cells[method].append(cell)
    if not columns:
        return None
    rows = tuple((method, tuple(cells[method])) for method in methods if _has_figures(cells[method]))
    return Table(title, note, tuple(groups), tuple(columns), rows)


def _has_figures(cells: Sequence[Cell]) -> bool:
    return any(cell is not NOTHING for cell in cells)


def _heading(name: str) -> str:
    return name.removesuffix("_teacher_forced").removesuffix("_judged").replace("_", "-").capitalize()


def _count(entry: Entry | None) -> Cell:
    return NOTHING if entry is None else Cell(f"{entry.results['cases']['total']:,}")


def _column(own: dict[str, Entry], methods: Sequence[str], name: str) -> list[Cell]:
    """Return the figures of one metric, the best one and those like it marked."""
    values = {method: entry.metric(name) for method, entry in own.items()}
    scored = {method: metric["value"] for method, metric in values.items() if metric is not None}
    contest = {method: value for method, value in scored.items() if own[method].results["method"] != BASELINE}
    marks: dict[str, str] = {}
    if len(contest) > 1:
        sign = 1 if METRICS[name].higher_is_better else -1
        best = max(contest, key=lambda method: sign * contest[method])
        p_values = {method: differ(own[method], own[best], name) for method in contest if method != best}
        worse = holm(p_values)
        marks = {method: "worse" if worse[method] else "like" for method, p in p_values.items() if p is not None}
        marks[best] = "best"
    cells = []
    for method in methods:
        metric = values.get(method)
        if metric is None:
            cells.append(NOTHING)
            continue
        error = "" if metric["stderr"] is None else f"±{_short(metric['stderr'])}"
        # Fewer cases than the N of the row: the others were unscored, or have no such probe.
        fewer = f"n={metric['n']}" if metric["n"] != own[method].results["cases"]["total"] else ""
        note = " ".join(part for part in (error, fewer) if part)
        cells.append(Cell(_short(metric["value"]), note, marks.get(method, ""), metric["value"]))
    return cells


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _task_columns(own: dict[str, Entry], methods: Sequence[str]) -> list[tuple[str, list[Cell]]]:
    names = sorted({name for entry in own.values() for name in entry.results.get("tasks", {})})
    columns = []
    for name in names:
        cells = []
        for method in methods:
            task = own[method].results.get("tasks", {}).get(name) if method in own else None
            cells.append(NOTHING if task is None or task["after"]["value"] is None else _task(task))
        columns.append((name.upper() if len(name) < 6 else name, cells))
    return columns


def _task(task: dict[str, Any]) -> Cell:
    change = "" if task["drop"] is None else f"({-task['drop']:+.3f})"
    return Cell(_short(task["after"]["value"]), change, value=task["after"]["value"])


def _costs(entries: Sequence[Entry]) -> Table:
    """Return the table of time and memory."""
    rows = []
    columns = ("Data", "Edits", "Seconds an edit", "Seconds of scoring", "Tokens", "Peak memory, MB", "Failed")
    for entry in entries:
        cost, cases = entry.results["cost"], entry.results["cases"]
        edit = cost.get("edit_seconds")
        rows.append(
            (
                entry.label,
                (
                    Cell(entry.data),
                    Cell(f"{entry.results['edits']['count']:,}"),
                    NOTHING if edit is None else Cell(f"{edit:.3f}", value=edit),
                    Cell(f"{cost['scoring_seconds']:,.0f}", value=cost["scoring_seconds"]),
                    Cell(f"{cost['generated_tokens']:,}"),
                    NOTHING if cost["peak_memory_mb"] is None else Cell(f"{cost['peak_memory_mb']:,.0f}"),
                    Cell(str(cases["failed"])),
                ),
            )
        )
    note = (
        "Wall time on the machine of the run, whatever else it was doing. Scoring includes the edits; answers of the "
        "unedited model that were in the cache cost nothing. Memory is that of the whole process."
    )
    return Table("Table 4. Time and memory", note, (("", len(columns)),), columns, tuple(rows))
