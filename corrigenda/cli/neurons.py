"""``corrigenda neurons`` and ``corrigenda detect``: where a fact is kept, and which facts a model has wrong."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from corrigenda.cli.common import (
    DEFAULT_MODEL,
    AsJson,
    ModelName,
    check_output,
    console,
    load_model,
    print_json,
    with_status,
)
from corrigenda.errors import MissingExtra

if TYPE_CHECKING:
    import torch


def neurons(
    prompt: Annotated[str, typer.Argument(help="A statement up to the answer.")],
    answer: Annotated[str | None, typer.Option(help="Whose neurons; the model's own answer by default.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many to list.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Points of the integration.")] = 20,
    plot: Annotated[Path | None, typer.Option(help="PNG of how much each block contributes.")] = None,
    model: ModelName = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """List the feed-forward neurons that an answer hangs on (integrated gradients)."""
    from corrigenda.edit import Edit
    from corrigenda.param_editors.anatomy import Anatomy
    from corrigenda.param_editors.attribution import attributions, strongest
    from corrigenda.param_editors.knowledge_neurons import old_token

    if plot is not None:
        check_output(plot)
    lm = load_model(model, quiet=as_json)
    token = old_token(lm, Edit(prompt, "-", old_answer=answer))
    anatomy = Anatomy(lm)
    table = with_status(
        "following the gradients", lambda: attributions(anatomy, prompt, token, steps=steps), quiet=as_json
    )
    found = strongest(table, range(anatomy.map.count), top)
    said = lm.tokenizer.decode([token])
    if plot is not None:
        _draw(table, f"{prompt} → {said}", plot)
    if as_json:
        rows = [asdict(neuron) for neuron in found]
        print_json({"prompt": prompt, "token": said, "neurons": rows, "blocks": table.sum(1).tolist()})
        return
    shown = Table("block", "neuron", "attribution", title=f"{prompt} →{said}", title_justify="left")
    for neuron in found:
        shown.add_row(str(neuron.layer), str(neuron.index), f"{neuron.attribution:.4f}")
    console().print(shown)
    if plot is not None:
        console().print(f"Plot: {plot}")


def detect(
    data: Annotated[Path, typer.Option("--data", "-d", help="Statements: JSONL of edits, or a dataset.")],
    threshold: Annotated[float, typer.Option(min=0.0, help="CKA at or below which a fact counts as unknown.")] = 1.0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    model: ModelName = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """List the facts that the model does not know, by contrast with prompts that do not ask for them (CKA)."""
    from corrigenda.eval.datasets import load as load_data
    from corrigenda.param_editors.detection import false_facts

    edits = [edit for case in load_data(str(data)).cases for edit in case.edits][:limit]
    lm = load_model(model, quiet=as_json)
    found = with_status("assessing", lambda: false_facts(lm, edits, threshold=threshold), quiet=as_json)
    if as_json:
        rows: list[dict[str, Any]] = [
            {"prompt": one.edit.prompt, "target": one.edit.target, "cka": one.cka, "known": one.known} for one in found
        ]
        print_json({"n": len(found), "unknown": sum(not one.known for one in found), "facts": rows})
        return
    shown = Table("CKA", "statement")
    for one in sorted(found, key=lambda one: one.cka):
        if not one.known:
            shown.add_row(f"{one.cka:.2f}", f"{one.edit.prompt} {one.edit.target}")
    console().print(shown)
    console().print(f"{sum(not one.known for one in found)} of {len(found)} are not known to {model}.")


def _draw(table: torch.Tensor, title: str, path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra.named("trace", "matplotlib") from error
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.bar(range(len(table)), table.clamp(min=0).sum(1).tolist(), color="#b5533c")
    axes.set(title=title, xlabel="block", ylabel="attribution")
    figure.savefig(path, dpi=120)
