"""``corrigenda keys``: who may change edits through the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from corrigenda.cli.common import AsJson, console, err_console, print_json, print_table
from corrigenda.cli.memory import DEFAULT, Where

if TYPE_CHECKING:
    from corrigenda.middleware.gateway.keys import Keys

app = typer.Typer(no_args_is_help=True)


@app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose it is; the author of the edits made with it.")],
    role: Annotated[str, typer.Option(help="reader, editor or admin.")] = "editor",
    namespace: Annotated[
        list[str] | None, typer.Option("--namespace", "-n", help="Where it works; repeatable; * is everywhere.")
    ] = None,
    memory: Where = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Make an API key. It is shown now and never again."""
    keys = open_keys(memory)
    key, text = keys.create(name, role, namespace or ["default"])
    keys.close()
    if as_json:
        print_json({"key": text, **key.to_dict()})
    else:
        console().print(escape(text), highlight=False, soft_wrap=True)
        err_console().print("[dim]Keep it: it is not stored, only its hash is.[/]")


@app.command("list")
def listopen_keys(memory: Where = DEFAULT, as_json: AsJson = False) -> None:
    """List the keys, without their secrets."""
    keys = open_keys(memory)
    rows = [key.to_dict() for key in keys.all()]
    keys.close()
    if as_json:
        print_json(rows)
        return
    columns = ["id", "name", "role", "namespaces", "created", "revoked"]
    cells = [[", ".join(v) if isinstance(v := row.get(c, ""), list) else str(v) for c in columns] for row in rows]
    print_table(f"{len(rows)} keys", columns, cells)


@app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, see `keys list`.")],
    memory: Where = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Make a key stop working, at once and for good."""
    keys = open_keys(memory)
    key = keys.revoke(key_id)
    keys.close()
    if as_json:
        print_json(key.to_dict())
    else:
        console().print(f"[green]revoked[/] {key.id} ({escape(key.name)})", highlight=False)


def open_keys(memory: str) -> Keys:
    """Open the keys of a memory: a file beside its file, or a place beside its ledger on the server."""
    from corrigenda.memory.upkeep import is_url, server_and_ledger
    from corrigenda.middleware.gateway.keys import Keys

    if not is_url(memory):
        return Keys.beside(memory)
    from corrigenda.middleware.gateway.shared_keys import SharedRows

    return Keys(SharedRows(*server_and_ledger(memory)))
