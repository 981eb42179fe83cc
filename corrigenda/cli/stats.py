"""``corrigenda stats``: second moments of keys, which editors of weights need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from corrigenda.cli.common import (
    DEFAULT_MODEL,
    AsJson,
    ModelName,
    console,
    err_console,
    load_model,
    print_json,
)
from corrigenda.errors import InvalidRequest

app = typer.Typer(no_args_is_help=True)

FROM_MODEL = 20_000
"""Tokens that are sampled when neither a corpus nor a number is given: minutes on a CPU for a small model."""


@app.callback()
def stats() -> None:
    """Second moments of keys, which editors of weights need."""


@app.command()
def collect(
    layers: Annotated[
        str | None, typer.Option(help="Blocks, like 5 or 6-10 or 3,5,7-9.", show_default="those of the presets")
    ] = None,
    corpus: Annotated[Path | None, typer.Option(help="Text, UTF-8; paragraphs are documents.")] = None,
    from_model: Annotated[
        int | None, typer.Option(min=1, help="Sample so many tokens from the model instead of reading a corpus.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Read no more of the corpus.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    model: ModelName = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Collect them, or go on where an interrupted run stopped; nothing is done twice."""
    from corrigenda.param_editors.statistics import collect as over_text
    from corrigenda.param_editors.statistics import collect_from_model, paragraphs

    if corpus is not None and from_model is not None:
        raise InvalidRequest("a corpus and --from-model exclude each other", remedy="Give one of them.")
    texts = None if corpus is None else paragraphs(corpus)
    lm = load_model(model, quiet=as_json)
    wanted = parse_layers(layers) if layers else _preset_layers(lm)
    with bar(quiet=as_json) as shown:
        task = shown.add_task("", total=None)

        def report(stage: str, done: int, total: int) -> None:
            shown.update(task, description=stage, completed=done, total=total)

        if texts is not None:
            found = over_text(
                lm, wanted, texts, max_tokens=max_tokens, source=corpus.name if corpus else "", progress=report
            )
        else:
            found = collect_from_model(lm, wanted, from_model or FROM_MODEL, seed=seed, progress=report)
    tokens = found.moment(wanted[0]).tokens
    notes = found.notes(wanted)
    if as_json:
        print_json({"model": lm.name, "layers": wanted, "tokens": tokens, "source": found.source, "notes": notes})
        return
    console().print(f"second moments of {lm.name}, layers {', '.join(map(str, wanted))}: {tokens:,} tokens")
    for note in notes:
        console().print(f"[yellow]note[/] {note}", highlight=False)


def parse_layers(text: str) -> list[int]:
    """Read layers like ``3,5,7-9``.

    Raises:
        InvalidRequest: Not such a list.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise InvalidRequest(f"{text!r} is no list of layers", remedy="Write it like 5 or 6-10 or 3,5,7-9.")
        found.update(range(int(first), int(last or first) + 1))
    return sorted(found)


def _preset_layers(lm: object) -> list[int]:
    """Return every layer that some preset of the model writes."""
    from corrigenda.errors import InvalidParams
    from corrigenda.param_editors.editor import editor, editors

    found: set[int] = set()
    for name in editors():
        made = editor(name)
        if made.needs_statistics:
            try:
                found.update(made.params_type.preset(name, lm).layers)  # type: ignore[arg-type]
            except InvalidParams:
                continue
    if not found:
        raise InvalidRequest("there are no presets for this model", remedy="Name the layers: --layers 4-8")
    return sorted(found)


def bar(*, quiet: bool) -> Progress:
    """Return a progress bar on standard error; silent when ``quiet`` or not on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    target = err_console()
    return Progress(*columns, console=target, transient=True, disable=quiet or not target.is_terminal)
