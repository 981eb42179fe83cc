"""What ``corrigenda consolidate`` shows: for people, and as JSON for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from corrigenda.cli.common import console, err_console, print_json, print_table

if TYPE_CHECKING:
    from corrigenda.param_editors.consolidation.plan import Plan
    from corrigenda.param_editors.consolidation.probation import Standing
    from corrigenda.param_editors.consolidation.promotion import Change
    from corrigenda.param_editors.consolidation.result import Result


def say(*, quiet: bool) -> Callable[[str, int, int], None]:
    """Return what a job tells how it goes: lines on standard error, unless ``quiet``."""
    target = err_console()

    def tell(stage: str, done: int, total: int) -> None:
        if not quiet:
            count = f" {done}/{total}" if total > 1 else ""
            target.print(f"[dim]{escape(stage)}{count}[/]", highlight=False)

    return tell


def show_plan(made: Plan, out: Path, as_json: bool) -> None:
    """Show what was planned."""
    if as_json:
        print_json(
            {
                "plan": str(out),
                "job": made.id,
                "edits": len(made.edits),
                "editor": made.editor,
                "left_out": dict(made.left_out),
            }
        )
        return
    console().print(
        f"[green]planned[/] {escape(str(out))}: {len(made.edits)} edits with {made.editor}, "
        f"layers {', '.join(map(str, made.params['layers']))}; job {made.id}",
        highlight=False,
    )
    if made.left_out:
        rows = [[edit_id, reason] for edit_id, reason in made.left_out.items()]
        print_table("Left out", ["edit", "why"], rows)


def show_result(result: Result, change: Change | None, as_json: bool) -> None:
    """Show what a job came to, and what was promoted at once, if anything."""
    if as_json:
        row = {**vars(result), "passed": result.passed}
        if change is not None:
            row["promoted"] = {"edition": change.edition, "path": str(change.path), "events": change.events}
        print_json(row)
        return
    rows = [
        [name, f"{row['before']:.3f}", f"{row['after']:.3f}", str(row["asked"])] for name, row in result.figures.items()
    ]
    print_table(f"Job {result.job}", ["figure", "before", "after", "asked"], rows)
    word = "[green]passed[/]" if result.passed else "[red]closed[/]"
    console().print(
        f"the gate {word}: {len(result.kept)} edits printed, {len(result.dropped)} stay in memory only",
        highlight=False,
    )
    for fault in result.faults:
        console().print(f"  {escape(fault)}", highlight=False)
    if change is not None:
        show_change(change, as_json=False)


def show_change(change: Change, as_json: bool) -> None:
    """Show what is in force now."""
    if as_json:
        print_json(
            {
                "edition": change.edition,
                "path": str(change.path) if change.path else None,
                "promotions": list(change.promotions),
                "events": change.events,
            }
        )
        return
    what = escape(change.edition) if change.edition else "the base model"
    where = f" ({escape(str(change.path))})" if change.path else ""
    console().print(f"[green]in force[/] {what}{where}; {change.events} entries in the ledger", highlight=False)


def show_overview(row: dict[str, Any]) -> None:
    """Show what there is to know of one model."""
    target = console()
    target.print(
        f"[bold]{escape(row['model'])}[/]: {escape(row['edition'] or 'the base model')} in force", highlight=False
    )
    for name in row["promotions"]:
        target.print(f"  printed: {escape(name)}", highlight=False)
    if row["running"]:
        target.print(f"  [yellow]running[/] {escape(row['running'])}", highlight=False)
    for job in row["jobs"]:
        target.print(f"  job {job['job']}: {escape(job['state'])}", highlight=False)
    if "memory" in row:
        counts = row["memory"]
        target.print(f"  {counts['shadows']} shadows in memory, {counts['retired']} retired", highlight=False)
        for warning in counts["warnings"]:
            target.print(f"  [yellow]note[/] {escape(warning)}", highlight=False)


def show_standings(standings: Sequence[Standing], gone: Sequence[str] | None, as_json: bool) -> None:
    """Show how the shadows are doing, and how many retired; ``None`` where none was to."""
    if as_json:
        shadows = [
            {"edit": one.edit.id, "promotion": one.promotion, "asked": one.asked, "right": one.right, "due": one.due}
            for one in standings
        ]
        print_json({"shadows": shadows, "retired": list(gone or ())})
        return
    rows = [
        [one.edit.id[:9], one.edit.statement, f"{one.right}/{one.asked}", "yes" if one.due else "no"]
        for one in standings
    ]
    print_table("Shadows", ["edit", "what", "right alone", "may retire"], rows)
    if gone is not None:
        console().print(f"{len(gone)} retired from memory")


def show_promotions(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Show all promotions there ever were."""
    if as_json:
        print_json(list(rows))
        return
    cells = [[r["name"], r["made"], str(r["edits"]), r["job"], "yes" if r["in_force"] else "no"] for r in rows]
    print_table("Promotions", ["name", "made", "edits", "job", "in force"], cells)
