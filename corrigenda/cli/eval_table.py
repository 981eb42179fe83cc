"""``corrigenda eval table``: every method on every data set, single and sequential, from one command.

Each cell of the table is a results file of its own. A cell that is finished is not scored again with the same data,
model and settings, one that was interrupted goes on where it stopped: the command may be killed and started again as
often as one likes. It exits with 1 when a cell failed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corrigenda.cli.common import DEFAULT_MODEL, ModelName, err_console, load_model
from corrigenda.errors import CorrigendaError, EvaluationError, UnknownName

if TYPE_CHECKING:
    from corrigenda.cli.eval_settings import Schedule, Settings
    from corrigenda.eval.protocol import Name
    from corrigenda.lm.loading import LanguageModel


@dataclass(frozen=True)
class Cell:
    """One run of the table.

    Attributes:
        data: Data set file.
        limit: Records.
        settings: Everything else.
    """

    data: str
    limit: int
    settings: Settings

    @property
    def name(self) -> str:
        """Name of the results file, without its ending."""
        return f"{Path(self.data).stem}-{self.settings.schedule.protocol}-{self.settings.method}"


def table(
    data: Annotated[list[str], typer.Option("--data", "-d", help="Data sets, single and sequential.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results and the report.")],
    portability: Annotated[str | None, typer.Option(help="A data set for single edits only.")] = None,
    task: Annotated[list[str] | None, typer.Option("--task", help="Other tasks, with all edits live.")] = None,
    task_limit: Annotated[int, typer.Option(min=1, help="Questions of each.")] = 100,
    methods: Annotated[str, typer.Option(help="Names with commas between; by default every method there is.")] = "",
    memory_edits: Annotated[int, typer.Option(min=1, help="Edits for methods that keep a memory.")] = 200,
    single_edits: Annotated[int, typer.Option(min=1, help="Single edits for editors of weights.")] = 30,
    sequential_edits: Annotated[int, typer.Option(min=1, help="Sequential edits for editors of weights.")] = 100,
    edits: Annotated[
        list[str] | None, typer.Option("--edits", help="Another number for one method, mello=3: a slow one; repeat.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    shard: Annotated[str, typer.Option(help="Run the i-th of n parts of the cells: 1/2.")] = "1/1",
    report_only: Annotated[bool, typer.Option("--report-only", help="Run nothing; report what there is.")] = False,
    model: ModelName = DEFAULT_MODEL,
) -> None:
    """Score every method on every data set, then write one report: report.html and report.md."""
    from corrigenda.cli.eval_methods import NONE, is_editor, known_methods
    from corrigenda.cli.eval_settings import Measures, Settings

    names = _names(methods, known_methods())
    own, cells = _own_counts(edits or (), known_methods()), []
    # By protocol and data set first: whatever is finished early can be compared.
    for source, protocol in _grid(data, portability):
        others = tuple(task or ()) if protocol == "sequential" and source == data[0] else ()
        for name in names:
            counts = (single_edits, sequential_edits) if is_editor(name) else (memory_edits, memory_edits)
            limit = own.get(name, counts[protocol == "sequential"])
            measures = Measures(success=True, tasks=others if name != NONE else (), task_limit=task_limit)
            cells.append(Cell(source, limit, Settings(name, _schedule(protocol, limit), measures, seed=seed)))
    failed = 0 if report_only else _run_all(_part(_distinct(cells), shard), out, model)
    from corrigenda.eval.report import write_report

    done = sorted(path for path in out.glob("*.json") if not path.name.startswith("."))
    for ending in ("html", "md"):
        write_report(done, out / f"report.{ending}", title="Editing methods compared")
    if failed:
        raise typer.Exit(1)


def _names(methods: str, known: Sequence[str]) -> list[str]:
    """Read ``auto,ike``; every method there is when nothing is named."""
    names = [name.strip() for name in methods.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UnknownName.among("method", name, known)
    return names or list(known)


def _distinct(cells: Sequence[Cell]) -> list[Cell]:
    """Return each of ``cells`` once; results of two data sets must not go into one file."""
    chosen: dict[str, Cell] = {}
    for cell in cells:
        if (other := chosen.setdefault(cell.name, cell)) != cell:
            raise EvaluationError(
                f"{other.data} and {cell.data} would both be written to {cell.name}.json",
                remedy="Give one of the files another name.",
            )
    return list(chosen.values())


def _own_counts(given: Sequence[str], known: Sequence[str]) -> dict[str, int]:
    """Read ``mello=3``. The method need not be in this table."""
    found = {}
    for text in given:
        name, mark, count = text.partition("=")
        if not mark or name not in known or not count.isdecimal() or int(count) < 1:
            raise typer.BadParameter(f"{text!r} is not a method and a number: mello=3", param_hint="--edits")
        found[name] = int(count)
    return found


def _grid(data: Sequence[str], portability: str | None) -> list[tuple[str, Name]]:
    """Return data sets and protocols in the order in which they are run."""
    first: list[tuple[str, Name]] = [(source, protocol) for protocol in _PROTOCOLS for source in data]
    return first if portability is None else [*first, (portability, "single")]


_PROTOCOLS: tuple[Name, ...] = ("single", "sequential")


def _schedule(protocol: Name, edits: int) -> Schedule:
    """Return the schedule of a cell: a chain of edits is asked again after a tenth, a fifth and half of them."""
    from corrigenda.cli.eval_settings import Schedule

    if protocol != "sequential":
        return Schedule(protocol)
    return Schedule(protocol, checkpoints=tuple(sorted({max(1, edits * tenths // 10) for tenths in (1, 2, 5)})))


def _part(cells: Sequence[Cell], shard: str) -> list[Cell]:
    from corrigenda.cli.eval import read_shard

    part, parts = read_shard(shard)
    return list(cells[part - 1 :: parts])


def _run_all(cells: Sequence[Cell], out: Path, model: str) -> int:
    """Run the cells that have no results yet; return how many failed."""
    lm = load_model(model, quiet=False)
    target, failed = err_console(), 0
    for number, cell in enumerate(cells, start=1):
        began = time.perf_counter()
        try:
            is_new = _run(cell, out, lm)
        except CorrigendaError as error:  # one method's failure must not cost the table
            target.print(f"{cell.name}: {error}", highlight=False, markup=False)
            failed += 1
            continue
        if is_new:
            target.print(f"{number}. {cell.name}: {time.perf_counter() - began:,.0f} s", highlight=False)
    return failed


def _run(cell: Cell, out: Path, lm: LanguageModel) -> bool:
    """Run a cell unless its results are there, by this process or another; return whether it was run."""
    from corrigenda.cli.eval_run import Evaluation
    from corrigenda.cli.eval_settings import Sample
    from corrigenda.eval.results import load

    path = out / f"{cell.name}.json"
    evaluation = Evaluation(cell.settings, Sample.read(cell.data, cell.limit, cell.settings.seed), lm)
    found = load(path) if path.exists() else {}
    is_new = not evaluation.made(found)
    if is_new:
        found = evaluation.run(path, batch=16, cache=True, fresh=False, quiet=False)
    if found["cases"]["failed"] == found["cases"]["total"]:
        raise EvaluationError("every case failed", remedy=f"Why: corrigenda eval show {path} --unscored.")
    return is_new
