"""``corrigenda eval``: score editing methods, look at what was answered, compare, decide."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from corrigenda.cli import eval_harness, eval_report, eval_table, expanding
from corrigenda.cli.common import (
    DEFAULT_MODEL,
    FAILED,
    AsJson,
    ModelName,
    load_model,
    print_json,
    print_table,
    refuse_idle,
)

app = typer.Typer(no_args_is_help=True)
app.command("compare")(eval_report.compare)
app.command("merge")(eval_report.merge)
app.command("gate")(eval_report.gate)
app.command("table")(eval_table.table)
app.command("harness")(eval_harness.harness)

Data = Annotated[str, typer.Option("--data", "-d", help="A dataset file, 'builtin', or hub:OWNER/NAME[:SPLIT].")]
Format = Annotated[str | None, typer.Option("--format", help="Its format; by default told from the first record.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Score a sample of so many records.", show_default="all")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Where the results go; a journal is kept next to it.")]
Results = Annotated[Path, typer.Argument(help="A results file.")]
_EXPAND = "Add what follows: alias, inverse, one_hop, paraphrase (editors of weights: that only); repeat."
Protocol = Annotated[
    Literal["single", "batch", "sequential", "stream"],
    typer.Option(help="One edit at a time; N in one call; one after the other, all live; with some taken back."),
]
Context = Annotated[
    Literal["completion", "question", "instruction"], typer.Option(help="How prompts are put to the model.")
]
Checkpoints = Annotated[str, typer.Option(help="Ask a sample again after so many edits: 10,50,100 (sequential).")]
PerBatch = Annotated[int | None, typer.Option(min=1, help="Records edited in one call (batch).", show_default="10")]
AtEdit = Annotated[
    int | None,
    typer.Option(min=0, help="Records asked right after their edit (sequential).", show_default="100"),
]
TaskLimit = Annotated[int | None, typer.Option(min=1, help="Questions of each other task.", show_default="200")]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="Another task to score before and after: a file.")]


@app.command()
def run(
    data: Data = "builtin",
    method: Annotated[str, typer.Option(help="none, a strategy (auto, ike, …), an editor (rome, …).")] = "auto",
    protocol: Protocol = "single",
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Decides which records the sample holds, and their order.")] = 0,
    out: Out = None,
    format: Format = None,
    edits_per_batch: PerBatch = None,
    at_edit: AtEdit = None,
    checkpoints: Checkpoints = "",
    retract: Annotated[float, typer.Option(min=0, max=0.99, help="Share of edits taken back (stream).")] = 0.0,
    context: Context = "completion",
    teacher_forced: Annotated[bool, typer.Option(help="Score with the right tokens given, as well.")] = True,
    success: Annotated[bool, typer.Option(help="ROME's success columns: is the new answer more probable?")] = False,
    divergence: Annotated[bool, typer.Option(help="Locality by first choice and KL divergence.")] = False,
    writing: Annotated[int, typer.Option(min=0, help="Texts a record to write, for fluency and consistency.")] = 0,
    distract: Annotated[int, typer.Option(min=0, help="Neighbours to ask again behind the edit's statement.")] = 0,
    judge: Annotated[str | None, typer.Option(help="A model that judges the answers, in columns of its own.")] = None,
    task: Tasks = None,
    task_limit: TaskLimit = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Probability from which an edit fires.")] = None,
    expand: Annotated[list[str] | None, typer.Option(help=_EXPAND)] = None,
    alias_table: expanding.Aliases = None,
    facts: expanding.Facts = None,
    locality_tokens: Annotated[int, typer.Option(min=1, max=256, help="Tokens of a locality answer.")] = 8,
    shard: Annotated[str, typer.Option(help="Score the i-th of n parts: 2/4. Put together by eval merge.")] = "1/1",
    batch: Annotated[int, typer.Option(min=1, help="Cases a batch; a kill loses at most one.")] = 16,
    cache: Annotated[bool, typer.Option(help="Keep the bare model's answers for later runs.")] = True,
    fresh: Annotated[bool, typer.Option("--fresh/--resume", help="Begin anew, or go on where a run stopped.")] = False,
    model: ModelName = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Score a method: make edits, ask the probes, undo."""
    from corrigenda.cli.eval_run import Evaluation
    from corrigenda.cli.eval_settings import Measures, Sample, Schedule, Settings
    from corrigenda.cli.eval_show import show_metrics
    from corrigenda.eval.results import check_writable

    numbers = _numbers(checkpoints)
    given = {
        "--edits-per-batch": edits_per_batch,
        "--at-edit": at_edit,
        "--checkpoints": numbers or None,
        "--threshold": threshold,
        "--expand": expand or None,
        "--alias-table": alias_table,
        "--facts": facts,
        "--task-limit": task_limit,
    }
    idle = _idle(method, protocol, expands=bool(expand), tasks=bool(task))
    refuse_idle(
        {name: value is not None and name in idle for name, value in given.items()},
        remedy=f"Leave them out with --method {method} --protocol {protocol}; tables need --expand, limits a --task.",
    )
    at_edit = Schedule.at_edit if at_edit is None else at_edit
    schedule = Schedule(protocol, edits_per_batch or Schedule.together, at_edit, numbers, retract)
    tasks, questions = tuple(task or ()), task_limit or Measures.task_limit
    measures = Measures(teacher_forced, success, divergence, writing, distract, judge, tasks, questions)
    expansion = expanding.Sources(tuple(expand or ()), alias_table, facts)
    settings = Settings(method, schedule, measures, context, threshold, expansion, locality_tokens, seed)
    if out is not None:
        check_writable(out)
    part, sample = read_shard(shard), Sample.read(data, limit, seed, format)
    evaluation = Evaluation(settings, sample, load_model(model, quiet=as_json), part)
    results = evaluation.run(out, batch=batch, cache=cache, fresh=fresh, quiet=as_json)
    print_json(results) if as_json else show_metrics(results)
    if results["cases"]["failed"] == results["cases"]["total"] > 0:  # nothing was scored: the reasons are shown
        raise typer.Exit(FAILED)


@app.command()
def show(
    results: Results,
    failures: Annotated[bool, typer.Option("--failures", help="List probes that did not pass.")] = False,
    unscored: Annotated[bool, typer.Option("--unscored", help="List probes that could not be scored.")] = False,
    metric: Annotated[str | None, typer.Option(help="Only of this metric, e.g. locality.")] = None,
    most: Annotated[int, typer.Option("--most", min=1, help="List so many at most.")] = 40,
    as_json: AsJson = False,
) -> None:
    """Show a results file; with --failures also what was asked and answered."""
    from corrigenda.cli.eval_show import show_metrics, wrong_probes
    from corrigenda.eval import results as files
    from corrigenda.eval.journal import read_rows

    found = files.load(results)
    if not failures and not unscored:
        print_json(found) if as_json else show_metrics(found)
        return
    rows = read_rows(results.with_name(found["journal"] or f"{results.stem}.journal.jsonl"))
    chosen = wrong_probes(rows, failures, unscored, metric)[:most]
    if as_json:
        print_json(chosen)
        return
    columns = ("case", "metric", "prompt", "expected", "before", "after")
    print_table(
        f"{len(chosen)} probes of {results.name}",
        columns,
        [tuple(str(row.get(column, "")) for column in columns) for row in chosen],
    )


def _idle(method: str, protocol: str, *, expands: bool, tasks: bool) -> set[str]:
    """Return the options of ``run`` of which nothing would come."""
    from corrigenda.cli.eval_methods import NONE, is_editor

    found = set() if tasks else {"--task-limit"}
    if protocol != "batch":
        found |= {"--edits-per-batch"}
    if protocol not in ("sequential", "stream"):
        found |= {"--at-edit", "--checkpoints"}
    if method == NONE:
        found |= {"--threshold", "--expand", "--alias-table", "--facts"}
    elif is_editor(method):
        found |= {"--threshold", "--alias-table", "--facts"}
    elif not expands:
        found |= {"--alias-table", "--facts"}
    return found


def _numbers(text: str) -> tuple[int, ...]:
    """Read ``10,50,100``."""
    try:
        numbers = sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        numbers = [0]
    if numbers and numbers[0] < 1:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 10,50,100", param_hint="--checkpoints")
    return tuple(numbers)


def read_shard(text: str) -> tuple[int, int]:
    """Read ``2/4``."""
    part, mark, parts = text.partition("/")
    if not mark or not part.isdecimal() or not parts.isdecimal() or not 1 <= int(part) <= int(parts):
        raise typer.BadParameter(f"{text!r} is not a part such as 2/4", param_hint="--shard")
    return int(part), int(parts)
