"""``corrigenda edit``: add, amend, retract, list, show, history, import, export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from corrigenda.cli import expanding
from corrigenda.cli.common import (
    DEFAULT_MEMORY,
    AsJson,
    MemoryPath,
    Namespace,
    console,
    err_console,
    open_memory,
    print_json,
    print_table,
    refuse_idle,
)
from corrigenda.edit import Edit
from corrigenda.errors import InvalidEdit

if TYPE_CHECKING:
    from corrigenda.memory.memory import Memory
    from corrigenda.middleware.expansion import Expansion

app = typer.Typer(no_args_is_help=True)

Conflict = Literal["supersede", "coexist", "refuse"]
EditIdArgument = Annotated[str, typer.Argument(metavar="ID", help="Edit id, or its first characters (4 or more).")]
Subject = Annotated[str | None, typer.Option(help="What the edit is about; best when it occurs in the prompt.")]
Relation = Annotated[str | None, typer.Option(help="In which respect; with the subject it finds conflicts.")]
OldAnswer = Annotated[str | None, typer.Option("--old-answer", help="What the model says now.")]
Aliases = Annotated[list[str] | None, typer.Option("--alias", help="Another name of the subject; repeatable.")]
TargetAliases = Annotated[
    list[str] | None, typer.Option("--target-alias", help="Another spelling of the target; repeatable.")
]
Paraphrases = Annotated[list[str] | None, typer.Option("--paraphrase", help="Another wording; repeatable.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A label; repeatable.")]
Author = Annotated[str | None, typer.Option(help="On whose word.")]
Source = Annotated[str | None, typer.Option(help="Where it is written.")]
ValidFrom = Annotated[str | None, typer.Option("--valid-from", help="ISO date or time from which it holds.")]
ValidTo = Annotated[str | None, typer.Option("--valid-to", help="ISO date or time until which it holds.")]


@app.command()
def add(
    prompt: Annotated[str, typer.Argument(help="A statement up to its object, or a question.")],
    target: Annotated[str, typer.Argument(help="The new answer.")],
    subject: Subject = None,
    relation: Relation = None,
    old_answer: OldAnswer = None,
    alias: Aliases = None,
    target_alias: TargetAliases = None,
    paraphrase: Paraphrases = None,
    tag: Tags = None,
    author: Author = None,
    source: Source = None,
    valid_from: ValidFrom = None,
    valid_to: ValidTo = None,
    on_conflict: Annotated[
        Conflict,
        typer.Option("--on-conflict", help="What to do about an edit of the same subject and relation."),
    ] = "supersede",
    expand: Annotated[bool, typer.Option("--expand", help="Add what follows from it, too: see 'edit expand'.")] = False,
    review: expanding.Review = False,
    alias_table: expanding.Aliases = None,
    facts: expanding.Facts = None,
    ask_model: expanding.AskModel = None,
    many_valued: expanding.ManyValued = None,
    relations: expanding.RelationFile = None,
    reword: expanding.Reword = False,
    namespace: Namespace = "default",
    memory: MemoryPath = DEFAULT_MEMORY,
    as_json: AsJson = False,
) -> None:
    """Add an edit; it is durable when this returns, and acts on the next request."""
    edit = Edit.from_dict(
        _given(
            prompt=prompt,
            target=target,
            subject=subject,
            relation=relation,
            old_answer=old_answer,
            aliases=alias,
            target_aliases=target_alias,
            paraphrases=paraphrase,
            tags=tag,
            author=author,
            source=source,
            valid_from=valid_from,
            valid_to=valid_to,
            namespace=namespace,
        )
    )
    wanted = expanding.Wanted(review, alias_table, facts, ask_model, many_valued, relations, reword)
    if not expand:
        refuse_idle(wanted.options(), remedy="Add --expand, or leave them out.")
    _add(edit, memory, on_conflict, wanted if expand else None, as_json)


@app.command()
def expand(
    edit_id: EditIdArgument,
    review: expanding.Review = False,
    alias_table: expanding.Aliases = None,
    facts: expanding.Facts = None,
    ask_model: expanding.AskModel = None,
    many_valued: expanding.ManyValued = None,
    relations: expanding.RelationFile = None,
    reword: expanding.Reword = False,
    memory: MemoryPath = DEFAULT_MEMORY,
    as_json: AsJson = False,
) -> None:
    """Add what follows from a live edit: other names of its subject, its inverse, consequences one step on."""
    wanted = expanding.Wanted(review, alias_table, facts, ask_model, many_valued, relations, reword)
    propose = wanted.proposing(quiet=as_json)
    with open_memory(memory) as store:
        edit = store.get(edit_id)
        _expand("expanded", edit, store, propose, review, as_json)


def _add(edit: Edit, memory: Path, on_conflict: Conflict, wanted: expanding.Wanted | None, as_json: bool) -> None:
    """Add ``edit``, and what follows from it if that is wanted; report both."""
    propose = wanted.proposing(quiet=as_json) if wanted is not None else None  # files may be missing: nothing is added
    with open_memory(memory) as store:
        stored = store.add(edit, on_conflict=on_conflict)
        if wanted is None or not as_json:
            _report("added", stored, store.version, as_json)
        if wanted is not None and propose is not None:
            _expand("added", stored, store, propose, wanted.review, as_json)
    if stored.subject is None and not as_json:
        err_console().print("[yellow]note:[/] without --subject the scope classifier has less to go by")


def _expand(
    done: str, edit: Edit, store: Memory, propose: Callable[[Edit, Memory], Expansion], review: bool, as_json: bool
) -> None:
    """Add what follows from ``edit``, after asking if that is wanted, and say so."""
    from corrigenda.middleware.expansion import adopt

    found = propose(edit, store)
    if review and as_json:
        proposed = expanding.rows_of(found)
        print_json({"done": done, "version": store.version, "edit": _row(edit), "proposed": proposed})
        return
    chosen = expanding.reviewed(found) if review else found
    derived = adopt(store, [chosen])
    if as_json:
        kept = {"aliases": list(chosen.aliases), "paraphrases": list(chosen.paraphrases)}
        added = {**kept, "derived": [_row(item) for item in derived]}
        print_json({"done": done, "version": store.version, "edit": _row(store.get(edit.id)), "expansion": added})
    else:
        expanding.show(chosen, derived)


@app.command()
def amend(
    edit_id: EditIdArgument,
    prompt: Annotated[str | None, typer.Option(help="New wording.")] = None,
    target: Annotated[str | None, typer.Option(help="New answer.")] = None,
    subject: Subject = None,
    relation: Relation = None,
    old_answer: OldAnswer = None,
    alias: Aliases = None,
    target_alias: TargetAliases = None,
    paraphrase: Paraphrases = None,
    tag: Tags = None,
    author: Author = None,
    source: Source = None,
    valid_from: ValidFrom = None,
    valid_to: ValidTo = None,
    memory: MemoryPath = DEFAULT_MEMORY,
    as_json: AsJson = False,
) -> None:
    """Change fields of a live edit; the old form stays in its history. Lists are replaced, not extended."""
    changes = _given(
        prompt=prompt,
        target=target,
        subject=subject,
        relation=relation,
        old_answer=old_answer,
        aliases=alias,
        target_aliases=target_alias,
        paraphrases=paraphrase,
        tags=tag,
        author=author,
        source=source,
        valid_from=valid_from,
        valid_to=valid_to,
    )
    if not changes:
        raise InvalidEdit("nothing to amend", remedy="Name at least one field, for instance --target 'Astana'.")
    with open_memory(memory) as store:
        # Through a dict, so that times given as text are read the same way as everywhere.
        changed = Edit.from_dict({**store.get(edit_id).to_dict(), **changes})
        fields = {name: getattr(changed, name) for name in changes if not name.startswith("valid_")}
        if changed.validity != store.get(edit_id).validity:
            fields["validity"] = changed.validity
        _report("amended", store.amend(edit_id, **fields), store.version, as_json)


@app.command()
def retract(
    edit_id: EditIdArgument,
    reason: Annotated[str | None, typer.Option(help="Why; kept in the history.")] = None,
    memory: MemoryPath = DEFAULT_MEMORY,
    as_json: AsJson = False,
) -> None:
    """Withdraw an edit; the model answers as before. The history keeps it."""
    with open_memory(memory) as store:
        _report("retracted", store.retract(edit_id, reason=reason), store.version, as_json)


@app.command("list")
def list_edits(
    tag: Annotated[str | None, typer.Option(help="Only edits with this label.")] = None,
    contains: Annotated[str | None, typer.Option(help="Only edits whose statement holds this text.")] = None,
    version: Annotated[int | None, typer.Option(help="As of this ledger version.", min=0)] = None,
    namespace: Namespace = "default",
    memory: MemoryPath = DEFAULT_MEMORY,
    as_json: AsJson = False,
) -> None:
    """List live edits, or those that were live at a ledger version."""
    with open_memory(memory, readonly=True) as store:
        edits = store.live(namespace) if version is None else store.state(version, namespace)
        chosen = [
            edit
            for edit in edits
            if (tag is None or tag in edit.tags)
            and (contains is None or contains.casefold() in edit.statement.casefold())
        ]
        shown = store.version if version is None else version
    if as_json:
        print_json({"version": shown, "edits": [_row(edit) for edit in chosen]})
        return
    rows = [[edit.id[:12], edit.prompt, edit.target, edit.subject or "", ", ".join(edit.tags)] for edit in chosen]
    print_table(f"{len(chosen)} edits, ledger version {shown}", ["id", "prompt", "target", "subject", "tags"], rows)


@app.command()
def show(edit_id: EditIdArgument, memory: MemoryPath = DEFAULT_MEMORY, as_json: AsJson = False) -> None:
    """Show one edit with all its fields, live or not."""
    with open_memory(memory, readonly=True) as store:
        edit = store.get(edit_id)
        row = {**_row(edit), "live": store.is_live(edit.id)}
    if as_json:
        print_json(row)
        return
    for name, value in row.items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        console().print(f"[bold]{name:>15}[/]  {escape(text)}", highlight=False)


@app.command()
def history(edit_id: EditIdArgument, memory: MemoryPath = DEFAULT_MEMORY, as_json: AsJson = False) -> None:
    """Show everything that happened to an edit, from its first form on."""
    with open_memory(memory, readonly=True) as store:
        events = store.history(edit_id)
    if as_json:
        print_json([event.to_dict() for event in events])
        return
    rows = [
        [
            str(event.seq),
            event.when.strftime("%Y-%m-%d %H:%M:%S"),
            event.kind,
            event.edit.statement,
            event.reason or "",
        ]
        for event in events
    ]
    print_table(f"History of {edit_id}", ["version", "UTC", "event", "statement", "reason"], rows)


@app.command("import")
def import_edits(
    file: Annotated[Path, typer.Argument(help="JSON lines: one edit a line.")],
    on_error: Annotated[
        Literal["stop", "skip"],
        typer.Option("--on-error", help="stop: keep none when a line is bad; skip: keep the good ones."),
    ] = "stop",
    on_conflict: Annotated[
        Conflict,
        typer.Option(
            "--on-conflict",
            help="What to do with live edits that contradict; coexist brings back all that was exported.",
        ),
    ] = "coexist",
    memory: MemoryPath = DEFAULT_MEMORY,
    as_json: AsJson = False,
) -> None:
    """Add many edits from a file, each to the namespace that its line names, in one transaction."""
    with open_memory(memory) as store:
        report = store.import_jsonl(file, on_error=on_error, on_conflict=on_conflict)
        version = store.version
    if as_json:
        bad = {str(number): reason for number, reason in report.bad_lines.items()}
        row = {"imported": report.added, "superseded": report.superseded, "bad_lines": bad, "version": version}
        print_json(row)
        return
    instead = f", superseded {report.superseded}" if report.superseded else ""
    console().print(f"[green]imported[/] {report.added} edits{instead}, ledger version {version}")
    for number, reason in sorted(report.bad_lines.items()):
        err_console().print(f"[yellow]skipped[/] line {number}: {escape(reason)}", highlight=False)


@app.command("export")
def export_edits(
    file: Annotated[Path, typer.Argument(help="Where to write JSON lines.")],
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Only edits of this namespace; those of all by default.")
    ] = None,
    memory: MemoryPath = DEFAULT_MEMORY,
    as_json: AsJson = False,
) -> None:
    """Write the live edits, whenever they hold, to a file that ``import`` reads."""
    with open_memory(memory, readonly=True) as store:
        count = store.export_jsonl(file, namespace=namespace)
    if as_json:
        print_json({"exported": count, "file": str(file)})
    else:
        console().print(f"[green]exported[/] {count} edits to {escape(str(file))}")


def _given(**fields: Any) -> dict[str, Any]:
    """Return the fields that the user gave."""
    return {name: value for name, value in fields.items() if value not in (None, [])}


def _row(edit: Edit) -> dict[str, Any]:
    return {"id": edit.id, **edit.to_dict()}


def _report(done: str, edit: Edit, version: int, as_json: bool) -> None:
    if as_json:
        print_json({"done": done, "version": version, "edit": _row(edit)})
    else:
        message = f"[green]{done}[/] {edit.id[:12]}  {escape(edit.statement)}  [dim](ledger version {version})[/]"
        console().print(message, highlight=False)
