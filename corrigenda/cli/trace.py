"""``corrigenda trace``: at which token and layer a model keeps a fact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

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

SHADES = " ·░▒▓█"


def trace(
    prompt: Annotated[str, typer.Argument(help="Text up to the answer.")],
    subject: Annotated[str, typer.Option(help="The subject, as it stands in the prompt.")],
    answer: Annotated[str | None, typer.Option(help="What to look at.", show_default="what the model says")] = None,
    part: Annotated[
        Literal["block", "mlp", "attention"], typer.Option(help="What is put back: whole states, or what a part adds.")
    ] = "block",
    samples: Annotated[int, typer.Option(min=1, help="Disturbances that are averaged over.")] = 10,
    noise: Annotated[float, typer.Option(min=0.01, help="Their size, in standard deviations of the embeddings.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json-file", help="Write everything to this file too.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the heat map (needs matplotlib).")] = None,
    model: ModelName = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Find the layers to edit: disturb the subject, put back one state after the other, see which brings the answer."""
    from corrigenda.param_editors import tracing

    for path in (json_file, png):
        if path is not None:
            check_output(path)
    lm = load_model(model, quiet=as_json)
    found = with_status(
        "tracing",
        lambda: tracing.trace(lm, prompt, subject, answer=answer, part=part, noise=noise, samples=samples, seed=seed),
        quiet=as_json,
    )
    if json_file is not None:
        json_file.write_text(json.dumps(found.to_dict(), ensure_ascii=False, indent=2), encoding="utf-8")
    if png is not None:
        found.save_png(png)
    if as_json:
        print_json(found.to_dict())
        return
    _show(found)


def _show(found: object) -> None:
    """Print the heat map with characters: a row a token, a column a layer."""
    from corrigenda.param_editors.tracing import Trace

    assert isinstance(found, Trace)
    top = max(max(row) for row in found.effects)
    span = max(top - found.corrupted, 1e-9)
    width = max(len(token) for token in found.tokens) + 1
    for place, row in enumerate(found.effects):
        cells = "".join(SHADES[round(max(0.0, (value - found.corrupted) / span) * (len(SHADES) - 1))] for value in row)
        mark = "*" if place == found.subject_end else " "
        console().print(Text(f"{found.tokens[place].strip():>{width}}{mark} {cells}"))
    console().print(
        Text(
            f"p({found.answer.strip()}): {found.clean:.3f} as it is, {found.corrupted:.3f} disturbed, {top:.3f} at best"
        )
    )
    console().print(Text(f"largest effect at the subject's last token (*): layer {found.best_layer}"))
