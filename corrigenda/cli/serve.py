"""``corrigenda serve``: its options. The gateway itself is put together in :mod:`corrigenda.cli.serving`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from corrigenda.cli.common import Namespace
from corrigenda.cli.memory import DEFAULT, Where
from corrigenda.cli.serving import Behind, Printing, Serving
from corrigenda.middleware.gateway.settings import Settings

Upstream = Annotated[
    str | None, typer.Option(help="URL of an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1.")
]
LocalModel = Annotated[str | None, typer.Option(help="A local model instead: known name, folder or GGUF file.")]
Host = Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 is everywhere.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="On which port; 0 is any that is free.")]
Strategy = Annotated[
    str | None, typer.Option(help="What is done with requests in scope; the best for what is behind, by default.")
]
Threshold = Annotated[
    float | None, typer.Option(min=0, max=1, help="Probability from which an edit fires, see scope calibrate.")
]
EarlyExit = Annotated[
    bool, typer.Option("--early-exit/--judge-all", help="Whether requests that name no subject skip the judge.")
]
OnFailure = Annotated[Literal["refuse", "pass"], typer.Option("--on-failure", help="What to do when judging fails.")]
RequireKey = Annotated[bool, typer.Option("--require-key", help="Clients of /v1 need a key too.")]
TraceBody = Annotated[bool, typer.Option("--trace-body", help="Put the trace into changed answers.")]
ReadTimeout = Annotated[
    float | None, typer.Option("--read-timeout", min=0.001, help="Longest silence of the upstream, seconds.")
]
UpstreamKey = Annotated[
    str | None,
    typer.Option(
        envvar="CORRIGENDA_UPSTREAM_KEY",
        show_envvar=True,
        help="Key of the upstream for what the admin page asks it; clients send their own.",
    ),
]
Logs = Annotated[
    Literal["text", "json", "off"], typer.Option("--log", help="A line for each request, on standard error.")
]
Spans = Annotated[bool, typer.Option("--spans", help="Send OpenTelemetry spans to OTEL_EXPORTER_OTLP_ENDPOINT.")]
Editions = Annotated[Path | None, typer.Option(help="Offer consolidation, and keep what is printed in this folder.")]
Base = Annotated[str | None, typer.Option(help="The model that consolidation prints into; the local one, by default.")]
Serves = Annotated[
    str | None, typer.Option(help="What the upstream calls it: requests for it go to the adapter in force.")
]
ShadowShare = Annotated[
    float,
    typer.Option(min=0, max=1, help="Of requests that a printed edit answers, ask the weights alone for so many."),
]
HitsFile = Annotated[Path | None, typer.Option(help="Count here how often edits answer.", show_default="MEMORY.hits")]


def serve(
    upstream: Upstream = None,
    model: LocalModel = None,
    memory: Where = DEFAULT,
    namespace: Namespace = "default",
    host: Host = "127.0.0.1",
    port: Port = 8080,
    strategy: Strategy = None,
    threshold: Threshold = None,
    early_exit: EarlyExit = True,
    on_failure: OnFailure = "refuse",
    require_key: RequireKey = False,
    trace_body: TraceBody = False,
    read_seconds: ReadTimeout = None,
    upstream_key: UpstreamKey = None,
    logs: Logs = "text",
    spans: Spans = False,
    editions: Editions = None,
    base: Base = None,
    serves: Serves = None,
    shadow_share: ShadowShare = 0.05,
    hits: HitsFile = None,
) -> None:
    """Serve an OpenAI-compatible API in which the edits of a memory hold, with an admin API and page."""
    settings = Settings(
        namespace=namespace,
        early_exit=early_exit,
        on_failure=on_failure,
        require_key=require_key,
        upstream_key=upstream_key,
        trace_body=trace_body,
        read_seconds=read_seconds,
    )
    behind = Behind(upstream, model, strategy, threshold)
    printing = Printing(editions, base, serves, shadow_share, hits)
    Serving(memory, host, port, behind, printing, settings, logs, spans).run()
