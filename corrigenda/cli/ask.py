"""``corrigenda ask`` and ``corrigenda explain``: what the edited model says, and why an edit fired or did not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from corrigenda.chat import Message, Prompt, Reply, check_query
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

if TYPE_CHECKING:
    from corrigenda.memory.scope import Candidate, Consideration
    from corrigenda.middleware.generate import EditedModel


def ask(
    query: Annotated[str, typer.Argument(help="A question, or the beginning of a sentence.")],
    compare: Annotated[bool, typer.Option("--compare", help="Also show what the bare model says.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Ask as a chat turn, through the chat template.")] = False,
    strategy: Annotated[str, typer.Option(help="auto, ike, or another registered strategy.")] = "auto",
    max_new_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Longest answer, in tokens.")] = 32,
    model: ModelName = DEFAULT_MODEL,
    namespace: Namespace = "default",
    memory: MemoryPath = DEFAULT_MEMORY,
    as_json: AsJson = False,
) -> None:
    """Ask the model in the light of the edits."""
    check_query(query)
    prompt: Prompt = [Message("user", query)] if chat else query
    with open_memory(memory) as store:
        from corrigenda.middleware.generate import EditedModel

        def load() -> EditedModel:
            return EditedModel.load(model, store, strategy=strategy, namespace=namespace)

        edited = with_status(f"loading {model}", load, quiet=as_json)
        before, after, seconds = _answers(edited, prompt, max_new_tokens, compare)
    if as_json:
        row: dict[str, Any] = {
            "query": query,
            "answer": after.text,
            "trace": after.trace.to_dict(),
            "seconds": seconds,
        }
        print_json(row | ({"before": before.text} if before is not None else {}))
        return
    out = console()
    if before is not None:
        out.print(f"[dim]before[/]  {escape(before.text.strip())}", highlight=False)
    out.print(f"[bold]{'after ' if compare else 'answer'}[/]  {escape(after.text.strip())}", highlight=False)
    for hit in after.trace.fired:
        out.print(
            f"[dim]edit    {hit.probability:.3f}  {hit.edit_id[:12]}  {escape(hit.statement)}[/]",
            highlight=False,
        )
    if after.trace.untouched:
        out.print("[dim]no edit concerns this: the model was asked as it is[/]")


def _answers(
    edited: EditedModel, prompt: Prompt, max_new_tokens: int, compare: bool
) -> tuple[Reply | None, Reply, float]:
    before = None
    if compare:
        with edited.without_edits():
            before = edited.ask(prompt, max_new_tokens=max_new_tokens)
    began = time.perf_counter()
    after = edited.ask(prompt, max_new_tokens=max_new_tokens)
    return before, after, round(time.perf_counter() - began, 3)


def explain(
    query: Annotated[str, typer.Argument(help="What a user might ask.")],
    namespace: Namespace = "default",
    memory: MemoryPath = DEFAULT_MEMORY,
    as_json: AsJson = False,
) -> None:
    """Show which edits were considered for a query, on what grounds, and the verdict."""
    check_query(query)
    from corrigenda.memory.scope import Scope

    with open_memory(memory) as store:
        (considered,) = Scope(store).consider([query], namespace)
    if as_json:
        print_json(_consideration_row(considered))
        return
    rows = [
        [
            candidate.verdict,
            f"{candidate.probability:.3f}",
            f"{candidate.threshold:.3f}",
            candidate.edit.statement,
            candidate.segment,
            "  ".join(f"{name} {value:.2f}" for name, value in candidate.features.items()),
        ]
        for candidate in considered.candidates
    ]
    columns = ["verdict", "probability", "threshold", "edit", "judged against", "features"]
    print_table(f"{len(rows)} candidates", columns, rows)
    stages = "  ".join(f"{stage} {ms:.1f} ms" for stage, ms in considered.milliseconds.items())
    console().print(f"[dim]{stages}[/]")


def _consideration_row(considered: Consideration) -> dict[str, Any]:
    return {
        "query": considered.query,
        "fires": [candidate.edit.id for candidate in considered.in_scope],
        "candidates": [_candidate_row(candidate) for candidate in considered.candidates],
        "milliseconds": {stage: round(ms, 3) for stage, ms in considered.milliseconds.items()},
    }


def _candidate_row(candidate: Candidate) -> dict[str, Any]:
    mention = candidate.mention
    return {
        "edit": candidate.edit.id,
        "statement": candidate.edit.statement,
        "verdict": candidate.verdict,
        "probability": round(candidate.probability, 6),
        "threshold": round(candidate.threshold, 6),
        "similarity": round(candidate.similarity, 6),
        "mention": None if mention is None else mention.name,
        "segment": candidate.segment,
        "features": {name: round(float(value), 6) for name, value in candidate.features.items()},
    }
