"""``corrigenda consolidate``: print proven edits into the weights, behind a gate, and take them out again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corrigenda.cli import consolidate_options as o
from corrigenda.cli.common import DEFAULT_MEMORY, AsJson, MemoryPath, console, open_memory, print_json, with_status
from corrigenda.cli.consolidate_planning import plan, replay
from corrigenda.cli.consolidate_shown import (
    say,
    show_change,
    show_overview,
    show_promotions,
    show_result,
    show_standings,
)
from corrigenda.errors import InvalidRequest

if TYPE_CHECKING:
    from corrigenda.param_editors.consolidation.promotion import Change

app = typer.Typer(no_args_is_help=True)
MAX_RANK = 512


@app.callback()
def consolidate() -> None:
    """Print proven edits into the weights, behind a gate, and take them out again."""


app.command()(plan)


@app.command()
def run(
    plan: Annotated[Path, typer.Argument(help="What 'plan' wrote.", exists=True, dir_okay=False)],
    engine: o.EngineName = "local",
    address: o.Address = None,
    promote_as: Annotated[
        str | None, typer.Option("--promote", help="Promote at once if the gate passes: checkpoint, lora or delta.")
    ] = None,
    memory: MemoryPath = DEFAULT_MEMORY,
    server: o.Servers = None,
    server_key: o.ServerKey = None,
    seen_as: o.SeenAs = None,
    home: o.Home = o.DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Carry a plan out on a copy, or go on where it was stopped. Exit code 1 if the gate lets nothing through."""
    from corrigenda.param_editors.consolidation.editions import Editions
    from corrigenda.param_editors.consolidation.job import run as carry_out
    from corrigenda.param_editors.consolidation.plan import Plan
    from corrigenda.param_editors.consolidation.promotion import promote as put_in_force
    from corrigenda.param_editors.consolidation.publishing import checked_kind

    made = Plan.read(plan)
    result = carry_out(made, home, engine=engine, address=address, say=say(quiet=as_json))
    change: Change | None = None
    if promote_as is not None and result.passed:
        editions = Editions.of(home, made.model, made.fingerprint)
        with open_memory(memory) as opened:
            change = put_in_force(
                editions,
                result.job,
                opened,
                kind=checked_kind(promote_as),
                servers=o.servers_at(server, server_key, seen_as),
            )
    show_result(result, change, as_json)
    if not result.passed:
        raise typer.Exit(1)


@app.command()
def promote(
    job: Annotated[str, typer.Argument(help="A finished job, by its id or the beginning of it.")],
    kind: o.As = "checkpoint",
    max_rank: o.MaxRank = MAX_RANK,
    memory: MemoryPath = DEFAULT_MEMORY,
    server: o.Servers = None,
    server_key: o.ServerKey = None,
    seen_as: o.SeenAs = None,
    model: o.OfModel = None,
    home: o.Home = o.DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Make what a job printed the edition in force; its edits stay in memory as shadows."""
    from corrigenda.param_editors.consolidation.editions import Editions
    from corrigenda.param_editors.consolidation.promotion import promote as put_in_force
    from corrigenda.param_editors.consolidation.publishing import checked_kind

    editions = Editions.find(home, model)
    with open_memory(memory) as opened:
        change = put_in_force(
            editions,
            _job(editions.jobs, job),
            opened,
            kind=checked_kind(kind),
            max_rank=max_rank,
            servers=o.servers_at(server, server_key, seen_as),
        )
    show_change(change, as_json)


@app.command()
def rollback(
    promotion: Annotated[str, typer.Argument(help="Which promotion; 'last' is the last.")],
    max_rank: o.MaxRank = MAX_RANK,
    memory: MemoryPath = DEFAULT_MEMORY,
    server: o.Servers = None,
    server_key: o.ServerKey = None,
    seen_as: o.SeenAs = None,
    model: o.OfModel = None,
    home: o.Home = o.DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Take a promotion out of the model; the memory answers for its edits at once."""
    from corrigenda.param_editors.consolidation.editions import Editions
    from corrigenda.param_editors.consolidation.promotion import rollback as take_out

    editions = Editions.find(home, model)
    if promotion == "last":
        names = editions.current().promotions
        if not names:
            raise InvalidRequest("nothing is printed in this model", remedy="corrigenda consolidate list")
        promotion = names[-1]
    servers = o.servers_at(server, server_key, seen_as)
    with open_memory(memory) as opened:
        change = take_out(editions, promotion, opened, max_rank=max_rank, servers=servers)
    show_change(change, as_json)


@app.command()
def probation(
    check: Annotated[bool, typer.Option("--check", help="Ask every shadow's own prompts now.")] = False,
    retire: Annotated[bool, typer.Option("--retire", help="Let those that are due retire from memory.")] = False,
    days: Annotated[float, typer.Option(min=0, help="Least days since the promotion.")] = 7.0,
    asked: Annotated[int, typer.Option(min=1, help="Least times that the model was asked alone.")] = 3,
    right: Annotated[float, typer.Option(min=0, max=1, help="Least share of right answers.")] = 0.95,
    memory: MemoryPath = DEFAULT_MEMORY,
    model: o.OfModel = None,
    home: o.Home = o.DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Show how the shadows are doing: whether the weights answer alone."""
    from corrigenda.param_editors.consolidation.editions import Editions
    from corrigenda.param_editors.consolidation.probation import Probation, Terms
    from corrigenda.param_editors.consolidation.publishing import load_edition

    editions = Editions.find(home, model)
    terms = Terms(days, asked, right)
    with open_memory(memory, readonly=not retire) as opened:
        watch = Probation(editions, opened)
        if check:
            lm = with_status("loading the edition", lambda: load_edition(editions), quiet=as_json)
            watch.check(lm)
        standings = watch.standings(terms)
        gone = watch.retire(terms) if retire else []
    show_standings(standings, gone if retire else None, as_json)


@app.command()
def status(
    model: o.OfModel = None, memory: MemoryPath = DEFAULT_MEMORY, home: o.Home = o.DEFAULT_HOME, as_json: AsJson = False
) -> None:
    """Tell what is in force, what runs, and how far every job is."""
    from corrigenda.memory.upkeep import is_url, located
    from corrigenda.param_editors.consolidation.editions import Editions
    from corrigenda.param_editors.consolidation.overview import overview

    found = [one for one in Editions.all(home) if model is None or one.model == model]
    there = memory.exists() or is_url(located(memory))
    opened = open_memory(memory, readonly=True) if there else None
    try:
        rows = [overview(one, opened) for one in found]
    finally:
        if opened is not None:
            opened.close()
    if as_json:
        print_json(rows)
        return
    for row in rows:
        show_overview(row)
    if not rows:
        console().print(f"{home} has no editions yet", markup=False)


@app.command("list")
def list_promotions(model: o.OfModel = None, home: o.Home = o.DEFAULT_HOME, as_json: AsJson = False) -> None:
    """List all promotions, in force or not."""
    from corrigenda.param_editors.consolidation.editions import Editions

    rows = []
    for editions in Editions.all(home):
        if model is not None and editions.model != model:
            continue
        now = editions.current()
        for name in editions.names():
            record = editions.promotion(name)
            row = {"name": name, "model": editions.model, "made": record["made"], "editor": record["editor"]}
            rows.append(row | {"edits": len(record["edits"]), "job": record["job"], "in_force": name in now.promotions})
    show_promotions(rows, as_json)


app.command()(replay)


def _job(folder: Path, beginning: str) -> str:
    found = [path.name for path in folder.glob("*") if path.name.startswith(beginning)]
    if len(found) != 1:
        raise InvalidRequest(
            f"{len(found)} jobs begin with {beginning!r}", remedy="'corrigenda consolidate status' lists them."
        )
    return found[0]
