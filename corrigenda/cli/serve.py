"""``corrigenda serve``: the gateway; ``keys``: who may change edits through it; ``bench gateway``: what it costs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from corrigenda.cli.common import (
    AsJson,
    Namespace,
    console,
    err_console,
    open_memory,
    print_json,
    print_table,
    with_status,
)
from corrigenda.cli.memory import DEFAULT, Where
from corrigenda.errors import InvalidRequest, MissingExtra

if TYPE_CHECKING:
    from corrigenda.memory.hits import Hits
    from corrigenda.memory.memory import Memory
    from corrigenda.middleware.gateway.app import Gateway
    from corrigenda.middleware.gateway.keys import Keys
    from corrigenda.middleware.gateway.spans import Spans

keys_app = typer.Typer(no_args_is_help=True)


def serve(
    upstream: Annotated[
        str | None, typer.Option(help="URL of an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A local model instead: known name, folder or GGUF file.")] = None,
    memory: Where = DEFAULT,
    namespace: Namespace = "default",
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 is everywhere.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="On which port; 0 is any that is free.")] = 8080,
    strategy: Annotated[
        str | None, typer.Option(help="What is done with requests in scope; the best for what is behind, by default.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Probability from which an edit fires, see scope calibrate.")
    ] = None,
    early_exit: Annotated[
        bool, typer.Option("--early-exit/--judge-all", help="Whether requests that name no subject skip the judge.")
    ] = True,
    on_failure: Annotated[
        Literal["refuse", "pass"], typer.Option("--on-failure", help="What to do when judging fails.")
    ] = "refuse",
    require_key: Annotated[bool, typer.Option("--require-key", help="Clients of /v1 need a key too.")] = False,
    trace_body: Annotated[bool, typer.Option("--trace-body", help="Put the trace into changed answers.")] = False,
    read_seconds: Annotated[
        float | None, typer.Option("--read-timeout", min=0.001, help="Longest silence of the upstream, seconds.")
    ] = None,
    upstream_key: Annotated[
        str | None,
        typer.Option(
            envvar="CORRIGENDA_UPSTREAM_KEY",
            show_envvar=True,
            help="Key of the upstream for what the admin page asks it; clients send their own.",
        ),
    ] = None,
    logs: Annotated[
        Literal["text", "json", "off"], typer.Option("--log", help="A line for each request, on standard error.")
    ] = "text",
    spans: Annotated[
        bool, typer.Option("--spans", help="Send OpenTelemetry spans to OTEL_EXPORTER_OTLP_ENDPOINT.")
    ] = False,
    editions: Annotated[
        Path | None, typer.Option(help="Offer consolidation, and keep what is printed in this folder.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The model that consolidation prints into; the local one, by default.")
    ] = None,
    serves: Annotated[
        str | None, typer.Option(help="What the upstream calls it: requests for it go to the adapter in force.")
    ] = None,
    shadow_share: Annotated[
        float,
        typer.Option(min=0, max=1, help="Of requests that a printed edit answers, ask the weights alone for so many."),
    ] = 0.05,
    hits: Annotated[
        Path | None, typer.Option(help="Count here how often edits answer.", show_default="MEMORY.hits")
    ] = None,
) -> None:
    """Serve an OpenAI-compatible API in which the edits of a memory hold, with an admin API and page."""
    if (upstream is None) == (model is None):
        raise InvalidRequest(
            "serve needs --upstream or --model, one of them",
            remedy="For instance: corrigenda serve --model smollm2, or --upstream http://127.0.0.1:8000/v1.",
        )
    try:
        import uvicorn

        from corrigenda.middleware.gateway import logs as log_lines
        from corrigenda.middleware.gateway import server
        from corrigenda.middleware.gateway.settings import Settings
    except ImportError as error:
        raise MissingExtra.named("gateway", error.name or "aiohttp") from error
    settings = Settings(
        namespace=namespace,
        early_exit=early_exit,
        on_failure=on_failure,
        require_key=require_key,
        upstream_key=upstream_key,
        trace_body=trace_body,
        read_seconds=read_seconds,
    )
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(open_memory(Path(memory), follow=True))
        keys = stack.enter_context(contextlib.closing(_keys(memory)))
        options: dict[str, Any] = {"keys": keys, "settings": settings, "spans": _spans(stack, spans)}
        if serves is not None:
            options["switch"] = _switch(editions, base, serves)
        options["hits"] = _hits(hits, memory)
        options["shadow_share"] = shadow_share
        gateway = _gateway(store, upstream, model, strategy, threshold, editions, base, options)
        _greet(host, port, memory, keys, upstream or str(model))
        more: dict[str, Any] = {}
        if logs != "off":
            stack.enter_context(log_lines.logging_to(logs))
            more = {"log_config": None}  # uvicorn would take its loggers back
        uvicorn.Server(server.config(gateway.app, settings, host=host, port=port, **more)).run()


def _switch(editions: Path | None, base: str | None, serves: str) -> Callable[[bytes], bytes]:
    """Send requests for the model that is served as ``serves`` to the adapter in force."""
    from corrigenda.middleware.gateway.switching import ModelSwitch

    if editions is None:
        raise InvalidRequest("--serves needs --editions, the folder that says what is in force")
    return ModelSwitch(editions, serves, base=base)


def _hits(path: Path | None, memory: str) -> Hits | None:
    """Return where answers are counted: beside the memory's file, where nothing else is said."""
    from corrigenda.memory.hits import Hits, beside

    place = path if path is not None else beside(memory)
    return Hits(place) if place is not None else None


def _gateway(
    store: Memory,
    upstream: str | None,
    model: str | None,
    strategy: str | None,
    threshold: float | None,
    editions: Path | None,
    base: str | None,
    options: dict[str, Any],
) -> Gateway:
    """Put a gateway together."""
    from corrigenda.memory.scope import Scope
    from corrigenda.middleware.gateway.app import Gateway
    from corrigenda.middleware.gateway.consolidating import LocalConsolidator
    from corrigenda.middleware.strategies.base import create

    scope = Scope(store, threshold=threshold)
    share = options.pop("shadow_share")
    if editions is not None:
        from corrigenda.middleware.gateway.shadowing import Shadowing

        printed = base or model
        if printed is None:
            raise InvalidRequest("--editions in front of an upstream needs --base, the model that it serves")
        options["consolidator"] = LocalConsolidator(store, printed, editions)
        options["shadowing"] = Shadowing(store, editions, printed, share=share)
    if model is None:
        chosen = create(strategy) if strategy is not None else None
        return Gateway(store, upstream=upstream, strategy=chosen, scope=scope, **options)
    from corrigenda.middleware.generate import EditedModel

    settings = options["settings"]
    more = {"strategy": strategy} if strategy is not None else {}
    edited = with_status(
        f"loading {model}",
        lambda: EditedModel.load(model, store, scope=scope, namespace=settings.namespace, **more),
        quiet=False,
    )
    return Gateway(store, model=edited, **options)


def _spans(stack: contextlib.ExitStack, wanted: bool) -> Spans:
    """Return where spans go; what is still on its way when the gateway ends is sent first."""
    from corrigenda.middleware.gateway.spans import Spans, exporting

    if not wanted:
        return Spans()
    provider = exporting()
    stack.callback(provider.shutdown)
    return Spans(provider)


def _greet(host: str, port: int, memory: str, keys: Keys, behind: str) -> None:
    from corrigenda.memory.upkeep import is_url

    out = err_console()
    place = memory
    if is_url(memory):  # a URL may hold a password
        from corrigenda.memory.redis_link import masked

        place = masked(memory)
    out.print(f"[green]corrigenda[/] in front of {escape(behind)}: http://{host}:{port}/v1", highlight=False)
    out.print(f"[dim]edits of {escape(place)}, admin page at http://{host}:{port}/admin[/]", highlight=False)
    if not any(key.revoked is None for key in keys.all()):
        out.print(
            f"[yellow]note:[/] no keys yet, so the admin API refuses everyone: "
            f"corrigenda keys create NAME --role admin --memory {escape(place)}",
            highlight=False,
        )


@keys_app.command("create")
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
    keys = _keys(memory)
    key, text = keys.create(name, role, namespace or ["default"])
    keys.close()
    if as_json:
        print_json({"key": text, **key.to_dict()})
    else:
        console().print(escape(text), highlight=False, soft_wrap=True)
        err_console().print("[dim]Keep it: it is not stored, only its hash is.[/]")


@keys_app.command("list")
def list_keys(memory: Where = DEFAULT, as_json: AsJson = False) -> None:
    """List the keys, without their secrets."""
    keys = _keys(memory)
    rows = [key.to_dict() for key in keys.all()]
    keys.close()
    if as_json:
        print_json(rows)
        return
    columns = ["id", "name", "role", "namespaces", "created", "revoked"]
    cells = [[", ".join(v) if isinstance(v := row.get(c, ""), list) else str(v) for c in columns] for row in rows]
    print_table(f"{len(rows)} keys", columns, cells)


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, see `keys list`.")],
    memory: Where = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Make a key stop working, at once and for good."""
    keys = _keys(memory)
    key = keys.revoke(key_id)
    keys.close()
    if as_json:
        print_json(key.to_dict())
    else:
        console().print(f"[green]revoked[/] {key.id} ({escape(key.name)})", highlight=False)


def _keys(memory: str) -> Keys:
    """Open the keys of a memory: a file beside its file, or a place beside its ledger on the server."""
    from corrigenda.memory.upkeep import is_url, server_and_ledger
    from corrigenda.middleware.gateway.keys import Keys

    if not is_url(memory):
        return Keys.beside(memory)
    from corrigenda.middleware.gateway.shared_keys import SharedRows

    return Keys(SharedRows(*server_and_ledger(memory)))


def bench(
    edits: Annotated[int, typer.Option(min=1, help="How many live edits.")] = 10_000,
    requests: Annotated[int, typer.Option(min=100, help="Requests of a measurement.")] = 2_000,
    connections: Annotated[int, typer.Option(min=1, help="How many at once, for throughput.")] = 16,
    soak: Annotated[float, typer.Option(min=0, help="Seconds of mixed traffic afterwards, to watch its memory.")] = 0,
    folder: Annotated[
        Path | None, typer.Option(help="Keep the memory here, to measure again without filling it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the gateway against a bare proxy of the same stack, in front of the same upstream, in one run."""
    try:
        from corrigenda.middleware.gateway.bench import measure
    except ImportError as error:
        raise MissingExtra.named("gateway", error.name or "aiohttp") from error
    with tempfile.TemporaryDirectory() as fresh:
        place = folder or Path(fresh)
        place.mkdir(parents=True, exist_ok=True)

        def work() -> dict[str, Any]:
            return measure(place, edits=edits, requests=requests, connections=connections, soak_seconds=soak)

        figures = with_status("measuring", work, quiet=as_json)
    if as_json:
        print_json(figures)
        return
    kinds = [kind for kind in ("bare", "early_exit", "judged") if kind in figures]
    columns = list(dict.fromkeys(name for kind in kinds for name in figures[kind]))
    cells = [[kind, *(str(figures[kind].get(name, "")) for name in columns)] for kind in kinds]
    print_table(f"{edits:,} live edits, {connections} connections", ["", *columns], cells)
    if "soak" in figures:
        console().print(figures["soak"])
