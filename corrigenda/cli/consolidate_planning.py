"""``corrigenda consolidate plan`` and ``replay``: both write a plan, and print nothing yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from corrigenda.cli import consolidate_options as o
from corrigenda.cli.common import (
    DEFAULT_MEMORY,
    DEFAULT_MODEL,
    AsJson,
    MemoryPath,
    ModelName,
    Namespace,
    console,
    open_memory,
    print_json,
    with_status,
)
from corrigenda.cli.consolidate_shown import show_plan
from corrigenda.cli.expanding import rewording
from corrigenda.errors import InvalidRequest, NothingToPrint

if TYPE_CHECKING:
    from pathlib import Path

    from corrigenda.param_editors.consolidation.editions import Editions


def plan(
    out: o.Out = o.DEFAULT_PLAN,
    model: ModelName = DEFAULT_MODEL,
    memory: MemoryPath = DEFAULT_MEMORY,
    namespace: Namespace = "default",
    edit: o.Edits = None,
    tag: o.Tags = None,
    min_age: o.MinAge = 0.0,
    min_hits: o.MinHits = 0,
    hits: o.Hits = None,
    limit: o.Limit = None,
    method: o.Method = None,
    layers: o.Layers = None,
    params: o.Params = None,
    corpus: o.Corpus = None,
    from_model: o.FromModel = None,
    reword: o.Reword = False,
    batch_size: o.BatchSize = 200,
    minimum: o.Minimums = None,
    max_drop: o.MaxDrops = None,
    cases: o.Cases = None,
    task: o.Tasks = None,
    gate_limit: o.GateLimit = 300,
    seed: o.Seed = 0,
    if_any: Annotated[bool, typer.Option("--if-any", help="No edits are no error: then no plan is written.")] = False,
    home: o.Home = o.DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Choose edits, an editor and a gate, and write them down to be reviewed; nothing is printed yet."""
    from corrigenda.lm.loading import load
    from corrigenda.param_editors.consolidation.plan import make_plan
    from corrigenda.param_editors.consolidation.selection import Selection

    settings: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "where": str(memory)}
    settings |= {"method": method, "params": o.json_object(params), "layers": o.layers_of(layers)}
    settings |= {"gate": o.gate_of(minimum, max_drop, cases, task, gate_limit)}
    settings["statistics"] = o.statistics_from(corpus, from_model)
    settings["hits"] = o.counted(hits, memory)
    settings["reword"] = rewording() if reword else None
    settings["selection"] = Selection(namespace, tuple(edit or ()), tuple(tag or ()), min_age, min_hits, limit)
    lm = with_status(f"loading {model}", lambda: load(model), quiet=as_json)
    try:
        with open_memory(memory, readonly=True) as opened:
            made = make_plan(opened, lm, model, home, **settings)
    except NothingToPrint as error:
        if not if_any:
            raise
        print_json({"plan": None}) if as_json else console().print(error.message, highlight=False, markup=False)
        return
    made.write(out)
    show_plan(made, out, as_json)


def replay(
    new: Annotated[str, typer.Option("--model", help="The new base model.")],
    old: Annotated[
        str | None, typer.Option("--from", help="The model that is left behind, where there are several.")
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Print all other live edits as well.")] = False,
    method: o.Method = None,
    layers: o.Layers = None,
    params: o.Params = None,
    corpus: o.Corpus = None,
    from_model: o.FromModel = None,
    minimum: o.Minimums = None,
    max_drop: o.MaxDrops = None,
    cases: o.Cases = None,
    task: o.Tasks = None,
    gate_limit: o.GateLimit = 300,
    out: o.Out = o.DEFAULT_PLAN,
    memory: MemoryPath = DEFAULT_MEMORY,
    namespace: Namespace = "default",
    home: o.Home = o.DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Plan to print into a new base model what the old one has in its weights; then run the plan as any other."""
    from corrigenda.lm.loading import load
    from corrigenda.param_editors.consolidation.replay import replay_plan

    settings: dict[str, Any] = {"method": method, "layers": o.layers_of(layers), "params": o.json_object(params)}
    settings |= {"statistics": o.statistics_from(corpus, from_model), "where": str(memory)}
    settings["gate"] = o.gate_of(minimum, max_drop, cases, task, gate_limit)
    left = _left_behind(home, new, old)
    lm = with_status(f"loading {new}", lambda: load(new), quiet=as_json)
    with open_memory(memory) as opened:
        made, back = replay_plan(left, opened, lm, new, home, include_live=live, namespace=namespace, **settings)
    made.write(out)
    if not as_json:
        console().print(f"{back} retired edits are live in memory again", highlight=False)
    show_plan(made, out, as_json)


def _left_behind(home: Path, new: str, old: str | None) -> Editions:
    """Return the editions of the model that is replaced."""
    from corrigenda.param_editors.consolidation.editions import Editions

    found = [one for one in Editions.all(home) if one.model == old or (old is None and one.model != new)]
    if len(found) != 1:
        names = ", ".join(one.model for one in found)
        raise InvalidRequest(f"{home} has editions of {names or 'no other model'}", remedy="Say which: --from.")
    return found[0]
