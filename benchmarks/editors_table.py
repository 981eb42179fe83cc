"""What ``benchmarks/editors.py measure`` found, side by side.

    python benchmarks/editors_table.py OUT                          # Markdown
    python benchmarks/editors_table.py OUT --figure editors.svg     # how methods fare as edits grow in number

Methods stand below each other, protocols beside each other.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

METHODS = ("rome", "r-rome", "memit", "alphaedit", "emmet", "pmet", "ft-m", "ft-l")
ONE_BY_ONE = ("rome", "r-rome")
"""They write a batch one edit after the other: it is a sequence."""
COLUMNS = ("reliability", "generalization", "locality")

Protocol = tuple[bool, int, int]
"""(whether batches pile up, edits of a batch, edits in all)."""
Found = Mapping[tuple[str, Protocol], dict[str, Any]]


def read(folder: Path, *, reworded: bool) -> Found:
    """Return all results of a folder by method and protocol."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(row, dict) and "sequential" in row and row.get("reworded", False) == reworded:
            found[row["method"], (row["sequential"], row["batch"], row["edits"])] = row
    return _same(found)


def _same(found: Found) -> Found:
    """Return ``found`` with what a method that writes edit by edit did once under all protocols that are one to it."""
    named = {protocol for method, protocol in found if method not in ONE_BY_ONE}
    own = {key: row for key, row in found.items() if key[0] not in ONE_BY_ONE or key[1] in named}
    for (method, protocol), row in found.items():
        whole = method in ONE_BY_ONE and _live(protocol) == protocol[2] > 1
        alike = [other for other in named if whole and _live(other) == other[2] == protocol[2]]
        for other in alike or [protocol]:
            own.setdefault((method, other), row)
    return own


def _live(protocol: Protocol) -> int:
    """Return how many edits are live together when scores are taken."""
    sequential, batch, edits = protocol
    return edits if sequential else batch


def markdown(found: Found, *, sequential: bool, cell: Callable[[dict[str, Any]], str]) -> str:
    """Return one table: a row a method, a column a protocol."""
    named = {protocol for _, protocol in found if protocol[0] == sequential}
    protocols = sorted(named, key=lambda each: (each[2], each[1]) if sequential else each[1:])
    lines = ["| method | " + " | ".join(map(_title, protocols)) + " |", "| --- |" + " --- |" * len(protocols)]
    for method in METHODS:
        rows = [found.get((method, protocol)) for protocol in protocols]
        if any(rows):
            lines.append(f"| {method} | " + " | ".join("" if row is None else cell(row) for row in rows) + " |")
    return "\n".join(lines)


def _title(protocol: Protocol) -> str:
    sequential, batch, edits = protocol
    if sequential:
        return f"{edits} in sequence" + (f", {batch} at a time" if batch > 1 else "")
    if batch == 1:
        return f"{edits} single"
    return f"{batch} at once" + (f", {edits // batch} times" if edits > batch else "")


def free(row: Mapping[str, Any]) -> str:
    """Return reliability, generalization and locality by free generation."""
    scores = " / ".join(_share(row, name) for name in COLUMNS)
    return f"{scores} ({_share(row, 'locality_exact')})"


def forced(row: Mapping[str, Any]) -> str:
    """Return reliability and generalization teacher-forced."""
    return f"{_share(row, 'forced_reliability')} / {_share(row, 'forced_generalization')}"


def _share(row: Mapping[str, Any], name: str) -> str:
    text = f"{row[name]:.2f}"
    return text if text.startswith("1") else text[1:]


def draw(found: Found, path: Path) -> None:
    """Draw the three scores over the number of edits that are live together."""
    import matplotlib
    from matplotlib.figure import Figure

    # The same figure gives the same file, with words as words.
    matplotlib.rcParams.update({"svg.hashsalt": "editors", "svg.fonttype": "none"})
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3, sharey=True), COLUMNS, strict=True):
        for method in METHODS:
            points = _points(found, method, name)
            axes.plot([live for live, _ in points], [score for _, score in points], marker="o", ms=3, label=method)
        axes.set(title=name, xscale="log", xlabel="edits live together", ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)


def _points(found: Found, method: str, name: str) -> Sequence[tuple[int, float]]:
    """Return (edits live together, score): batches, and sequences where there is no such batch."""
    points: dict[int, float] = {}
    for sequential in (True, False):
        for (other, protocol), row in found.items():
            if other == method and protocol[0] == sequential:
                points[protocol[2] if sequential else protocol[1]] = row[name]
    return sorted(points.items())


def main() -> None:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reworded", action="store_true", help="results of --reword")
    parser.add_argument("--figure", type=Path, help="draw instead: .svg or .png")
    given = parser.parse_args()
    found = read(given.folder, reworded=given.reworded)
    if not found:
        parser.error(f"{given.folder} holds no results")
    if given.figure:
        draw(found, given.figure)
        return
    tables = [markdown(found, sequential=way, cell=cell) for cell in (free, forced) for way in (False, True)]
    print("\n\n".join(table for table in tables if table.count("\n") > 1))


if __name__ == "__main__":
    main()
