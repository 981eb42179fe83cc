"""``corrigenda memory``: status, verify, compact, expire, reencode, snapshot, restore, migrate, import, rights."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from corrigenda.cli.common import AsJson, console, err_console, print_json
from corrigenda.errors import InvalidRequest

if TYPE_CHECKING:
    from corrigenda.memory.ledger import Store

app = typer.Typer(no_args_is_help=True)

Conflict = Literal["supersede", "coexist", "refuse"]
Where = Annotated[
    str,
    typer.Option("--memory", "-m", envvar="CORRIGENDA_MEMORY", help="A file, or redis://host:6379/0#ledger."),
]
Snapshot = Annotated[Path | None, typer.Option("--snapshot", help="Where the index of a server's memory lies.")]
DEFAULT = "corrigenda.db"


@app.command()
def status(memory: Where = DEFAULT, as_json: AsJson = False) -> None:
    """Count events, live edits, namespaces, vectors; say how old the index is, and how the server is."""
    from corrigenda.memory.upkeep import describe, open_store

    store = open_store(memory, readonly=True)
    try:
        row = describe(store, memory)
    finally:
        store.close()
    _print(row, as_json)


@app.command()
def verify(memory: Where = DEFAULT, snapshot: Snapshot = None, as_json: AsJson = False) -> None:
    """Check every event, and that index and tables hold what follows from them. Exit code 1 if something does not."""
    from corrigenda.memory.encoder import MiniLM
    from corrigenda.memory.upkeep import index_path, open_store
    from corrigenda.memory.upkeep import verify as check

    snapshot = snapshot or index_path(memory)
    there = snapshot.exists()
    store = open_store(memory, readonly=True)
    try:
        findings = check(store, snapshot, MiniLM.load() if there else None)
    finally:
        store.close()
    _print({**vars(findings), "whole": not findings.faults}, as_json)
    if findings.faults:
        raise typer.Exit(1)


@app.command()
def compact(memory: Where = DEFAULT, as_json: AsJson = False) -> None:
    """Drop the kept vectors that no live edit needs. No event and no edit is touched."""
    from corrigenda.memory.encoder import MiniLM
    from corrigenda.memory.ledger import replay
    from corrigenda.memory.upkeep import open_store, wanted_keys

    store = open_store(memory)
    try:
        dropped = store.compact(MiniLM.load().fingerprint, wanted_keys(replay(store.read())))
    finally:
        store.close()
    _print({"vectors_dropped": dropped}, as_json)


@app.command()
def expire(
    before: Annotated[str | None, typer.Option(help="What ended before this time, ISO 8601; now by default.")] = None,
    memory: Where = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Retract the edits whose time is over, so that the index need not carry them. The history keeps them."""
    from corrigenda.memory.upkeep import expire as retract_ended
    from corrigenda.memory.upkeep import open_memory

    with open_memory(memory) as store:
        _print({"retracted": retract_ended(store, before=_moment(before)), "live": len(store)}, as_json)


@app.command()
def reencode(memory: Where = DEFAULT, as_json: AsJson = False) -> None:
    """Encode all live edits with this version's encoder, and make it the ledger's. Stopped, it can be run again."""
    from corrigenda.memory.upkeep import open_memory
    from corrigenda.memory.upkeep import reencode as encode_again

    with open_memory(memory) as store:
        _print({"edits": encode_again(store, progress=_say("edits", as_json))}, as_json)


@app.command()
def rights(
    role: Annotated[Literal["reader", "writer", "keeper"], typer.Argument(help="What the user is for.")],
    ledger: Annotated[str, typer.Option(help="Whose keys.")] = "default",
    user: Annotated[str, typer.Option(help="Its name.")] = "corrigenda",
) -> None:
    """Print the command that makes a Redis user with the least rights for a role; put a password in its place."""
    from corrigenda.memory.redis_rights import acl_rules

    typer.echo(" ".join(["ACL SETUSER", user, "on", ">PASSWORD", *acl_rules(ledger, role)]))


@app.command("snapshot")
def write_snapshot(memory: Where = DEFAULT, snapshot: Snapshot = None, as_json: AsJson = False) -> None:
    """Write the index to disk, so that the next process starts without building it."""
    from corrigenda.memory.upkeep import index_path, is_url, open_memory

    with open_memory(memory, snapshot=snapshot) as store:
        store.replica.snapshot()
        notices, version = store.notices, store.version
    path = snapshot if is_url(memory) and snapshot is not None else index_path(memory)
    size = path.stat().st_size if path.exists() else 0
    _print({"file": str(path), "bytes": size, "version": version, "notices": list(notices)}, as_json)


@app.command()
def restore(
    version: Annotated[int | None, typer.Option(help="Ledger version to go back to.", min=0)] = None,
    at: Annotated[str | None, typer.Option(help="Or a time, ISO 8601; UTC unless it says otherwise.")] = None,
    memory: Where = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Make live again what was live at a version or time, and nothing else. The history keeps everything."""
    from corrigenda.memory.restoring import restore as put_back
    from corrigenda.memory.upkeep import open_memory

    with open_memory(memory) as store:
        events = put_back(store, version=version, at=_moment(at))
        _print({"events": events, "version": store.version, "live": len(store)}, as_json)


@app.command()
def migrate(
    source: Annotated[str, typer.Argument(help="A file, or redis://host:6379/0#ledger.")],
    target: Annotated[str, typer.Argument(help="The same; empty, or an earlier attempt.")],
    as_json: AsJson = False,
) -> None:
    """Copy a whole ledger, with its history and its vectors, from one place to another."""
    from corrigenda.memory.encoder import MiniLM
    from corrigenda.memory.upkeep import migrate as copy
    from corrigenda.memory.upkeep import open_store

    stores: list[Store] = []
    try:
        stores += [open_store(source, readonly=True)]
        stores += [open_store(target)]
        copied = copy(*stores, fingerprint=MiniLM.load().fingerprint, progress=_say("events", as_json))
    finally:
        for store in stores:
            store.close()
    _print({"copied": copied}, as_json)


@app.command("import")
def import_file(
    file: Annotated[
        Path, typer.Argument(help="CSV with a header, or a JSON object a line.", exists=True, dir_okay=False)
    ],
    on_conflict: Annotated[Conflict, typer.Option(help="What to do with live edits that contradict.")] = "coexist",
    batch: Annotated[int, typer.Option(min=1, help="Edits a transaction.")] = 5_000,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an import was stopped.")] = False,
    memory: Where = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Add the edits of a big file, batch by batch. Exit code 1 if lines were bad; the others are in."""
    from corrigenda.memory.big_files import import_big
    from corrigenda.memory.upkeep import open_memory

    with open_memory(memory) as store:
        say = _say("rows", as_json)
        rows, bad = import_big(store, file, on_conflict=on_conflict, batch=batch, resume=resume, progress=say)
        report = {"rows": rows, "live": len(store), "bad_lines": {str(number): why for number, why in bad.items()}}
        report["notices"] = list(store.notices)
    _print(report, as_json)
    if bad:
        raise typer.Exit(1)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequest(f"{text!r} is not a time", remedy="Write it as 2026-01-31T12:00.") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _say(what: str, quiet: bool) -> Any:
    target = err_console()

    def say(done: int) -> None:
        if not quiet:
            target.print(f"[dim]{done:,} {what}[/]", highlight=False)

    return say


def _print(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(row)
        return
    for name, value in row.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}: {item}" for key, item in value.items())
        elif isinstance(value, list):
            value = "; ".join(value)
        console().print(f"{name:>16}  {value}", highlight=False, markup=False)
