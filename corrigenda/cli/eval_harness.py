"""``corrigenda eval harness``: lm-evaluation-harness on an edited model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from corrigenda.cli.common import DEFAULT_MODEL, AsJson, ModelName, load_model, print_json, print_table


def harness(
    tasks: Annotated[str, typer.Option(help="Tasks of the harness, with commas between.")],
    edits: Annotated[str, typer.Option(help="Data set whose edits are made first: a file, or 'builtin'.")] = "builtin",
    method: Annotated[str, typer.Option(help="none, a strategy (auto, ike, …), an editor (rome, …).")] = "auto",
    count: Annotated[int, typer.Option("--edits-limit", min=1, help="So many edits.")] = 10,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions of each task.")] = None,
    include_path: Annotated[Path | None, typer.Option(help="A folder with tasks of your own.")] = None,
    model: ModelName = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Make edits, then let lm-evaluation-harness score the model (pip install 'corrigenda[lm-eval]')."""
    from corrigenda.eval.case import sample
    from corrigenda.eval.datasets import load

    cases = sample(load(edits).cases, count, 0)
    lm = load_model(model, quiet=as_json)
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    found = run_harness(lm, method, [edit for case in cases for edit in case.edits], names, limit, include_path)
    if as_json:
        print_json(found)
        return
    rows = [(task, name, f"{value:.4f}") for task, figures in found.items() for name, value in figures.items()]
    print_table(f"{method}, {len(cases)} edits live", ("task", "metric", "value"), rows)


def run_harness(
    lm: Any, method: str, edits: list[Any], tasks: list[Any], limit: int | None, include_path: Path | None = None
) -> dict[str, dict[str, float]]:
    """Return the figures of the harness by task with ``edits`` made by ``method``, and take them back.

    Raises:
        MissingExtra: The harness is not installed.
        UnknownName: No such method.
    """
    from corrigenda.cli.eval_methods import open_method
    from corrigenda.eval.cache import Cached
    from corrigenda.eval.editable import Bare
    from corrigenda.eval.harness import harness_model

    with open_method(method, lm, Cached(Bare(lm))) as opened:
        wrapped = harness_model(opened.editable, lm)
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        undo = opened.editable.edit(edits)
        try:
            manager = TaskManager(include_path=None if include_path is None else str(include_path))
            done = simple_evaluate(model=wrapped, tasks=tasks, limit=limit, task_manager=manager, bootstrap_iters=0)
        finally:
            undo.revert()
    return figures_of(done["results"])


def figures_of(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the harness's figures by task; a metric keeps the name of its filter, for it may have several."""
    return {
        task: {name.removesuffix(",none"): value for name, value in figures.items() if isinstance(value, float)}
        for task, figures in results.items()
    }
