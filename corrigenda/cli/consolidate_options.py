"""The options of ``corrigenda consolidate``, and what is made of their values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corrigenda.errors import InvalidRequest

if TYPE_CHECKING:
    from corrigenda.param_editors.consolidation.gate import GatePlan
    from corrigenda.param_editors.consolidation.serving import ModelServer

DEFAULT_HOME = Path("corrigenda.editions")
DEFAULT_PLAN = Path("plan.json")

# Which edits
Edits = Annotated[list[str] | None, typer.Option("--edit", help="These edits; all by default.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Edits with this tag; several: with all.")]
MinAge = Annotated[float, typer.Option(min=0, help="Live for so many days.")]
MinHits = Annotated[int, typer.Option(min=0, help="Answered so often, see --hits.")]
Hits = Annotated[
    Path | None,
    typer.Option(
        help="How often edits answered: what 'serve' counted, {id: count}, or an id a line.", show_default="MEMORY.hits"
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="No more than these, most hits first.")]

# How they are printed
Method = Annotated[str | None, typer.Option("--editor", help="By count and architecture otherwise.")]
Layers = Annotated[str | None, typer.Option(help="Blocks to write, like 6-10.")]
Params = Annotated[str | None, typer.Option(help="Other hyper-parameters, as a JSON object.")]
Corpus = Annotated[Path | None, typer.Option(help="Take second moments over this text.")]
FromModel = Annotated[int | None, typer.Option(min=1, help="Or over so many tokens of the model's own.")]
Reword = Annotated[
    bool, typer.Option("--reword", help="Give each edit other wordings of its relation to learn from; see the plan.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Edits that are printed together.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")]

# The gate
Minimums = Annotated[list[str] | None, typer.Option("--min", help="Gate: neighbours=0.85, say.")]
MaxDrops = Annotated[list[str] | None, typer.Option("--max-drop", help="Gate: piqa=0.01, say.")]
Cases = Annotated[list[Path] | None, typer.Option("--cases", help="Dataset with neighbours of the edits.")]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="A task that must not suffer: piqa_valid.jsonl.")]
GateLimit = Annotated[int, typer.Option(min=0, help="Most questions of one figure; 0 is all.")]

# Where things are
Out = Annotated[Path, typer.Option("--out", "-o", help="The plan; replaced if it exists.")]
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


def statistics_from(corpus: Path | None, from_model: int | None) -> dict[str, Any]:
    """Return where second moments come from, as plans have it."""
    if corpus is not None and from_model is not None:
        raise InvalidRequest("a corpus and --from-model exclude each other", remedy="Give one of them.")
    if corpus is not None:
        return {"corpus": str(corpus)}
    return {"from_model": from_model} if from_model is not None else {"from": "cache"}


def gate_of(
    minimum: list[str] | None,
    max_drop: list[str] | None,
    cases: list[Path] | None,
    task: list[str] | None,
    limit: int,
) -> GatePlan:
    """Return the gate: what is given, and the defaults for what is not."""
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


def json_object(text: str | None) -> dict[str, Any] | None:
    """Return the hyper-parameters that were given."""
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


def layers_of(text: str | None) -> list[int] | None:
    """Return the blocks that were named."""
    from corrigenda.cli.stats import parse_layers

    return parse_layers(text) if text else None


def servers_at(urls: list[str] | None, key: str | None, seen_as: str | None) -> list[ModelServer]:
    """Return the servers that take adapters."""
    from corrigenda.param_editors.consolidation.serving import ModelServer

    return [ModelServer(url, key=key, seen_as=seen_as) for url in urls or ()]


def counted(hits: Path | None, memory: Path) -> dict[str, int] | None:
    """Return how often edits answered: from the file that was named, else from the one beside the memory, if any."""
    from corrigenda.memory.hits import beside, read_hits

    found = hits if hits is not None else beside(memory)
    return read_hits(found) if found is not None and (hits is not None or found.exists()) else None
