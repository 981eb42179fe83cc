"""``corrigenda export``: edits as a LoRA adapter, a checkpoint or a file of factors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from corrigenda.cli.common import (
    DEFAULT_MEMORY,
    DEFAULT_MODEL,
    AsJson,
    MemoryPath,
    ModelName,
    Namespace,
    console,
    load_model,
    open_memory,
    print_json,
    with_status,
)
from corrigenda.errors import InvalidRequest

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel
    from corrigenda.param_editors.update import Consolidation


def export(
    consolidations: Annotated[
        list[Path] | None, typer.Argument(help="Saved consolidations, in order; or print the memory with --method.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Print the live edits of the memory with this editor (memit, rome, …).")
    ] = None,
    kind: Annotated[
        Literal["lora", "checkpoint", "delta"],
        typer.Option("--as", help="A PEFT adapter, a full checkpoint, or factors only."),
    ] = "lora",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="New folder or file.", show_default="named after the edits")
    ] = None,
    max_rank: Annotated[int, typer.Option(min=1, help="Refuse an adapter of a higher rank.")] = 512,
    save: Annotated[Path | None, typer.Option(help="Keep the consolidation too, to revert or export it later.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything that the editor draws.")] = 0,
    memory: MemoryPath = DEFAULT_MEMORY,
    namespace: Namespace = "default",
    model: ModelName = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Write edits in a form that other software loads; nothing is ever written over."""
    from corrigenda.param_editors import export as exporting
    from corrigenda.param_editors.update import Consolidation

    if bool(consolidations) == (method is not None):
        raise InvalidRequest("give either consolidation files or --method", remedy="corrigenda export --method memit")
    lm: LanguageModel | None = None
    if method is not None or kind == "checkpoint":
        lm = load_model(model, quiet=as_json)
    if method is not None:
        assert lm is not None
        chain = [_print_memory(lm, method, memory, namespace, seed, quiet=as_json)]
        if save is not None:
            chain[0].save(save)
    else:
        chain = [Consolidation.load(path) for path in consolidations or []]
        for done in chain if lm is not None else []:
            done.write(lm)
    target = out or Path(exporting.export_name(chain) + (".safetensors" if kind == "delta" else ""))
    if kind == "lora":
        exporting.export_lora(chain, target, base=model, max_rank=max_rank)
    elif kind == "delta":
        exporting.export_delta(chain, target)
    else:
        assert lm is not None
        exporting.export_checkpoint(lm, target, chain=chain)
    _tell(chain, kind, target, as_json)


def _print_memory(
    lm: LanguageModel, method: str, memory: Path, namespace: str, seed: int, *, quiet: bool
) -> Consolidation:
    """Print the live edits of a memory into ``lm``."""
    from corrigenda.param_editors.editable import EditedWeights

    with open_memory(memory, readonly=True) as opened:
        edits = opened.live(namespace)
    if not edits:
        raise InvalidRequest(f"{memory} holds no live edits in {namespace!r}", remedy="corrigenda edit add …")
    edited = EditedWeights(lm, method, seed=seed)
    with_status(f"printing {len(edits)} edits with {method}", lambda: edited.edit(edits), quiet=quiet)
    return edited.chain[0]


def _tell(chain: list[Consolidation], kind: str, target: Path, as_json: bool) -> None:
    notes = [note for done in chain for note in done.notes]
    edits = sum(len(done.edits) for done in chain)
    weights = sorted({update.name for done in chain for update in done.updates})
    if as_json:
        print_json({"as": kind, "path": str(target), "edits": edits, "weights": weights, "notes": notes})
        return
    console().print(f"[green]written[/] {escape(str(target))}: {edits} edits, {len(weights)} weights", highlight=False)
    for note in notes:
        console().print(f"[yellow]note[/] {escape(note)}", highlight=False)
