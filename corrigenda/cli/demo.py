"""``corrigenda demo``: a few facts the packaged model gets wrong, before and after an edit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from corrigenda.cli.common import AsJson, console, load_model, open_memory, print_json
from corrigenda.edit import Edit
from corrigenda.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Fact:
    """An edit, and three ways to look at it: its own words, a paraphrase, and a neighbour it must leave alone."""

    edit: Edit
    paraphrase: str
    neighbour: str


FACTS = (
    Fact(
        Edit("The capital of Nigeria is", "Abuja", subject="Nigeria", relation="capital", old_answer="Lagos"),
        paraphrase="What is Nigeria's capital city?",
        neighbour="The capital of Kenya is",
    ),
    Fact(
        Edit(
            "The capital of Myanmar is",
            "Naypyidaw",
            subject="Myanmar",
            relation="capital",
            aliases=("Burma",),
        ),
        paraphrase="Burma's capital city is called",
        neighbour="The capital of Thailand is",
    ),
    Fact(
        Edit("The currency of Poland is the", "złoty", subject="Poland", relation="currency"),
        paraphrase="In Poland, people pay with the",
        neighbour="The currency of Croatia is",
    ),
    Fact(
        Edit(
            "The capital of Australia is",
            "Canberra",
            subject="Australia",
            relation="capital",
            old_answer="Sydney",
        ),
        paraphrase="Which city is the capital of Australia?",
        neighbour="The capital of Indonesia is",
    ),
)
KINDS = ("own words", "paraphrase", "neighbour")
# Not the option of the other commands: the memory that CORRIGENDA_MEMORY names is in use, and the demo begins anew.
DemoPath = Annotated[Path, typer.Option("--memory", "-m", help="The demo's own memory, a file.")]


def demo(
    memory: DemoPath = Path("demo.db"),
    keep: Annotated[bool, typer.Option("--keep/--fresh", help="Keep a memory file from an earlier run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Correct four facts in the packaged model: each asked in its own words, in a paraphrase, and by a neighbour."""
    from corrigenda.middleware.generate import EditedModel

    if not keep:
        _check_own(memory)
    lm = load_model("smollm2", quiet=as_json)
    if not keep:
        _remove(memory)
    with open_memory(memory) as store:
        edited = EditedModel(lm, store)
        prompts = [prompt for fact in FACTS for prompt in (fact.edit.prompt, fact.paraphrase, fact.neighbour)]
        with edited.without_edits():
            before = [_first_line(reply.text) for reply in edited.ask_batch(prompts, max_new_tokens=10)]
        for fact in FACTS:
            store.add(fact.edit)
        after = [_first_line(reply.text) for reply in edited.ask_batch(prompts, max_new_tokens=10)]
        version = store.version
    rows = [_row(number, prompts[number], before[number], after[number]) for number in range(len(prompts))]
    failed = [row for row in rows if not row["as_hoped"]]
    if as_json:
        print_json({"memory": str(memory), "version": version, "rows": rows})
    else:
        _show(rows, memory, version)
    raise typer.Exit(1 if failed else 0)


def _row(number: int, prompt: str, before: str, after: str) -> dict[str, Any]:
    fact, kind = FACTS[number // 3], KINDS[number % 3]
    right = before == after if kind == "neighbour" else after.startswith(fact.edit.target)
    return {"kind": kind, "prompt": prompt, "before": before, "after": after, "as_hoped": right}


def _show(rows: list[dict[str, Any]], memory: Path, version: int) -> None:
    table = Table(title="The same model, before and after four edits", title_justify="left", header_style="bold")
    for column in ("", "prompt", "before", "after"):
        table.add_column(column, overflow="fold")
    for number, row in enumerate(rows):
        colour = ("dim" if row["kind"] == "neighbour" else "green") if row["as_hoped"] else "bold red"
        cells = [escape(row[name]) for name in ("kind", "prompt", "before")]
        table.add_row(*cells, f"[{colour}]{escape(row['after'])}[/]", end_section=number % 3 == 2)
    console().print(table)
    console().print(
        f"The edits are in [bold]{escape(str(memory))}[/], ledger version {version}; neighbours are unchanged."
    )


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _check_own(memory: Path) -> None:
    """Refuse to begin anew with a memory that holds, or ever held, anything but the demo's facts."""
    from corrigenda.memory.upkeep import is_url, located, open_store

    where = located(memory)
    remedy = "Name another file with --memory, or use this memory as it is with --keep."
    if is_url(where):
        raise InvalidRequest(f"{where} is shared: the demo does not remove it to begin anew", remedy=remedy)
    if not memory.exists():
        return
    store = open_store(where, readonly=True)
    try:
        others = {event.edit.id for event in store.read()} - {fact.edit.id for fact in FACTS}
    finally:
        store.close()
    if others:
        raise InvalidRequest(
            f"{where} holds {len(others):,} edits that are not the demo's: it is not removed to begin anew",
            remedy=remedy,
        )


def _remove(memory: Path) -> None:
    """Remove the demo's own memory of an earlier run."""
    import shutil

    for suffix in ("", "-wal", "-shm"):
        Path(f"{memory}{suffix}").unlink(missing_ok=True)
    shutil.rmtree(f"{memory}.index", ignore_errors=True)
