"""``corrigenda consolidate``: print proven edits into the weights, behind a gate, and take them out again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    print_table,
    with_status,
)
from corrigenda.cli.consolidate_shown import say, show_change, show_overview, show_plan, show_result
from corrigenda.errors import InvalidRequest, NothingToPrint

if TYPE_CHECKING:
    from corrigenda.param_editors.consolidation.promotion import Change
    from corrigenda.param_editors.consolidation.serving import ModelServer

app = typer.Typer(no_args_is_help=True)

Home = Annotated[
    Path, typer.Option("--home", envvar="CORRIGENDA_EDITIONS", help="Where plans, jobs and editions are kept.")
]
OfModel = Annotated[str | None, typer.Option("--model", help="Of which model, where there are several.")]
Servers = Annotated[
    list[str] | None, typer.Option("--server", help="Load the adapter there first: http://host:port, vLLM or alike.")
]
ServerKey = Annotated[str | None, typer.Option(envvar="CORRIGENDA_SERVER_KEY", help="API key of the servers.")]
SeenAs = Annotated[str | None, typer.Option(help="Where the servers find the folder of editions, if not where we do.")]
As = Annotated[str, typer.Option("--as", help="checkpoint, lora or delta.")]
MaxRank = Annotated[int, typer.Option(min=1, help="Largest rank of an adapter.")]
EngineName = Annotated[str, typer.Option("--engine", help="local, or ray.")]
Address = Annotated[str | None, typer.Option(help="Of a running Ray cluster; one is started otherwise.")]
DEFAULT_HOME = Path("corrigenda.editions")
MAX_RANK = 512


@app.callback()
def consolidate() -> None:
    """Print proven edits into the weights, behind a gate, and take them out again."""


@app.command()
def plan(
    out: Annotated[Path, typer.Option("--out", "-o", help="The plan; replaced if it exists.")] = Path("plan.json"),
    model: ModelName = DEFAULT_MODEL,
    memory: MemoryPath = DEFAULT_MEMORY,
    namespace: Namespace = "default",
    edit: Annotated[list[str] | None, typer.Option("--edit", help="These edits; all by default.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Edits with this tag; several: with all.")] = None,
    min_age: Annotated[float, typer.Option(min=0, help="Live for so many days.")] = 0.0,
    min_hits: Annotated[int, typer.Option(min=0, help="Fired so often; needs --hits.")] = 0,
    hits: Annotated[Path | None, typer.Option(help="How often edits fired: {id: count}, or an id a line.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="No more than these, most hits first.")] = None,
    method: Annotated[str | None, typer.Option("--editor", help="By count and architecture otherwise.")] = None,
    layers: Annotated[str | None, typer.Option(help="Blocks to write, like 6-10.")] = None,
    params: Annotated[str | None, typer.Option(help="Other hyper-parameters, as a JSON object.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Take second moments over this text.")] = None,
    from_model: Annotated[int | None, typer.Option(min=1, help="Or over so many tokens of the model's own.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Edits that are printed together.")] = 200,
    minimum: Annotated[list[str] | None, typer.Option("--min", help="Gate: neighbours=0.85, say.")] = None,
    max_drop: Annotated[list[str] | None, typer.Option("--max-drop", help="Gate: piqa=0.01, say.")] = None,
    cases: Annotated[list[Path] | None, typer.Option("--cases", help="Dataset with neighbours of the edits.")] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="A task that must not suffer: piqa_valid.jsonl.")
    ] = None,
    gate_limit: Annotated[int, typer.Option(min=0, help="Most questions of one figure; 0 is all.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    if_any: Annotated[bool, typer.Option("--if-any", help="No edits are no error: then no plan is written.")] = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Choose edits, an editor and a gate, and write them down to be reviewed; nothing is printed yet."""
    from corrigenda.cli.stats import parse_layers
    from corrigenda.lm.loading import load
    from corrigenda.param_editors.consolidation.plan import make_plan
    from corrigenda.param_editors.consolidation.selection import Selection, read_hits

    statistics = _statistics(corpus, from_model)
    selection = Selection(namespace, tuple(edit or ()), tuple(tag or ()), min_age, min_hits, limit)
    lm = with_status(f"loading {model}", lambda: load(model), quiet=as_json)
    try:
        with open_memory(memory, readonly=True) as opened:
            made = make_plan(
                opened,
                lm,
                model,
                home,
                selection=selection,
                hits=read_hits(hits) if hits is not None else None,
                method=method,
                params=_json_object(params),
                layers=parse_layers(layers) if layers else None,
                gate=_gate(minimum, max_drop, cases, task, gate_limit),
                statistics=statistics,
                batch_size=batch_size,
                seed=seed,
                where=str(memory),
            )
    except NothingToPrint as error:
        if not if_any:
            raise
        print_json({"plan": None}) if as_json else console().print(error.message, highlight=False, markup=False)
        return
    made.write(out)
    show_plan(made, out, as_json)


@app.command()
def run(
    plan: Annotated[Path, typer.Argument(help="What 'plan' wrote.", exists=True, dir_okay=False)],
    engine: EngineName = "local",
    address: Address = None,
    promote_as: Annotated[
        str | None, typer.Option("--promote", help="Promote at once if the gate passes: checkpoint, lora or delta.")
    ] = None,
    memory: MemoryPath = DEFAULT_MEMORY,
    server: Servers = None,
    server_key: ServerKey = None,
    seen_as: SeenAs = None,
    home: Home = DEFAULT_HOME,
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
                servers=_servers(server, server_key, seen_as),
            )
    show_result(result, change, as_json)
    if not result.passed:
        raise typer.Exit(1)


@app.command()
def promote(
    job: Annotated[str, typer.Argument(help="A finished job, by its id or the beginning of it.")],
    kind: As = "checkpoint",
    max_rank: MaxRank = MAX_RANK,
    memory: MemoryPath = DEFAULT_MEMORY,
    server: Servers = None,
    server_key: ServerKey = None,
    seen_as: SeenAs = None,
    model: OfModel = None,
    home: Home = DEFAULT_HOME,
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
            servers=_servers(server, server_key, seen_as),
        )
    show_change(change, as_json)


@app.command()
def rollback(
    promotion: Annotated[str, typer.Argument(help="Which promotion; 'last' is the last.")],
    max_rank: MaxRank = MAX_RANK,
    memory: MemoryPath = DEFAULT_MEMORY,
    server: Servers = None,
    server_key: ServerKey = None,
    seen_as: SeenAs = None,
    model: OfModel = None,
    home: Home = DEFAULT_HOME,
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
    servers = _servers(server, server_key, seen_as)
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
    model: OfModel = None,
    home: Home = DEFAULT_HOME,
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
    if as_json:
        shadows = [
            {"edit": one.edit.id, "promotion": one.promotion, "asked": one.asked, "right": one.right, "due": one.due}
            for one in standings
        ]
        print_json({"shadows": shadows, "retired": gone})
        return
    rows = [
        [one.edit.id[:9], one.edit.statement, f"{one.right}/{one.asked}", "yes" if one.due else "no"]
        for one in standings
    ]
    print_table("Shadows", ["edit", "what", "right alone", "may retire"], rows)
    if retire:
        console().print(f"{len(gone)} retired from memory")


@app.command()
def status(
    model: OfModel = None, memory: MemoryPath = DEFAULT_MEMORY, home: Home = DEFAULT_HOME, as_json: AsJson = False
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
def list_promotions(model: OfModel = None, home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
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
    if as_json:
        print_json(rows)
        return
    cells = [[r["name"], r["made"], str(r["edits"]), r["job"], "yes" if r["in_force"] else "no"] for r in rows]
    print_table("Promotions", ["name", "made", "edits", "job", "in force"], cells)


@app.command()
def replay(
    new: Annotated[str, typer.Option("--model", help="The new base model.")],
    old: Annotated[
        str | None, typer.Option("--from", help="The model that is left behind, where there are several.")
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Print all other live edits as well.")] = False,
    method: Annotated[str | None, typer.Option("--editor", help="By count and architecture otherwise.")] = None,
    layers: Annotated[str | None, typer.Option(help="Blocks to write, like 6-10.")] = None,
    params: Annotated[str | None, typer.Option(help="Other hyper-parameters, as a JSON object.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Take second moments over this text.")] = None,
    from_model: Annotated[int | None, typer.Option(min=1, help="Or over so many tokens of the model's own.")] = None,
    minimum: Annotated[list[str] | None, typer.Option("--min", help="Gate: neighbours=0.85, say.")] = None,
    max_drop: Annotated[list[str] | None, typer.Option("--max-drop", help="Gate: piqa=0.01, say.")] = None,
    cases: Annotated[list[Path] | None, typer.Option("--cases", help="Dataset with neighbours of the edits.")] = None,
    task: Annotated[list[str] | None, typer.Option("--task", help="A task that must not suffer.")] = None,
    gate_limit: Annotated[int, typer.Option(min=0, help="Most questions of one figure; 0 is all.")] = 300,
    out: Annotated[Path, typer.Option("--out", "-o", help="The plan; replaced if it exists.")] = Path("plan.json"),
    memory: MemoryPath = DEFAULT_MEMORY,
    namespace: Namespace = "default",
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Plan to print into a new base model what the old one has in its weights; then run the plan as any other."""
    from corrigenda.cli.stats import parse_layers
    from corrigenda.lm.loading import load
    from corrigenda.param_editors.consolidation.editions import Editions
    from corrigenda.param_editors.consolidation.replay import replay_plan

    statistics = _statistics(corpus, from_model)
    found = [one for one in Editions.all(home) if one.model == old or (old is None and one.model != new)]
    if len(found) != 1:
        names = ", ".join(one.model for one in found)
        raise InvalidRequest(f"{home} has editions of {names or 'no other model'}", remedy="Say which: --from.")
    lm = with_status(f"loading {new}", lambda: load(new), quiet=as_json)
    with open_memory(memory) as opened:
        made, back = replay_plan(
            found[0],
            opened,
            lm,
            new,
            home,
            include_live=live,
            namespace=namespace,
            method=method,
            layers=parse_layers(layers) if layers else None,
            params=_json_object(params),
            statistics=statistics,
            gate=_gate(minimum, max_drop, cases, task, gate_limit),
            where=str(memory),
        )
    made.write(out)
    if not as_json:
        console().print(f"{back} retired edits are live in memory again", highlight=False)
    show_plan(made, out, as_json)


# How it is read


def _statistics(corpus: Path | None, from_model: int | None) -> dict[str, Any]:
    if corpus is not None and from_model is not None:
        raise InvalidRequest("a corpus and --from-model exclude each other", remedy="Give one of them.")
    if corpus is not None:
        return {"corpus": str(corpus)}
    return {"from_model": from_model} if from_model is not None else {"from": "cache"}


def _gate(
    minimum: list[str] | None,
    max_drop: list[str] | None,
    cases: list[Path] | None,
    task: list[str] | None,
    limit: int,
) -> Any:
    from corrigenda.eval.gate import Gate
    from corrigenda.param_editors.consolidation.gate import GatePlan

    given = Gate.parse(minimum or (), (), max_drop or ()) if minimum or max_drop else None
    plain = GatePlan()
    return GatePlan(
        minimums=dict(plain.minimums) | (dict(given.minimums) if given else {}),
        max_drops=dict(given.max_drops) if given else {},
        cases=tuple(str(path) for path in cases or ()),
        tasks=tuple(task or ()),
        limit=limit,
    )


def _json_object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        row = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(
            f"--params is not JSON: {error}", remedy="""For instance '{"moment_weight": 5000}'."""
        ) from None
    if not isinstance(row, dict):
        raise InvalidRequest("--params is not a JSON object", remedy="""For instance '{"moment_weight": 5000}'.""")
    return row


def _servers(urls: list[str] | None, key: str | None, seen_as: str | None) -> list[ModelServer]:
    from corrigenda.param_editors.consolidation.serving import ModelServer

    return [ModelServer(url, key=key, seen_as=seen_as) for url in urls or ()]


def _job(folder: Path, beginning: str) -> str:
    found = [path.name for path in folder.glob("*") if path.name.startswith(beginning)]
    if len(found) != 1:
        raise InvalidRequest(
            f"{len(found)} jobs begin with {beginning!r}", remedy="'corrigenda consolidate status' lists them."
        )
    return found[0]
