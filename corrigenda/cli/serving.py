"""A gateway, put together from what ``corrigenda serve`` was given, and run until it is stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape

from corrigenda.cli.common import err_console, open_memory, with_status
from corrigenda.cli.keys import open_keys
from corrigenda.errors import InvalidRequest, MissingExtra

if TYPE_CHECKING:
    from corrigenda.memory.hits import Hits
    from corrigenda.memory.memory import Memory
    from corrigenda.middleware.gateway.app import Gateway
    from corrigenda.middleware.gateway.keys import Keys
    from corrigenda.middleware.gateway.settings import Settings
    from corrigenda.middleware.gateway.spans import Spans


@dataclass(frozen=True)
class Behind:
    """What answers behind the gateway, and how edits reach it.

    Attributes:
        upstream: URL of an OpenAI-compatible server; or
        model: a local model. Exactly one of the two.
        strategy: Name of a strategy; the best for what is behind, by default.
        threshold: Probability from which an edit fires, 0…1.

    Raises:
        InvalidRequest: Neither or both of upstream and model.
    """

    upstream: str | None
    model: str | None
    strategy: str | None
    threshold: float | None

    def __post_init__(self) -> None:
        if (self.upstream is None) == (self.model is None):
            raise InvalidRequest(
                "serve needs --upstream or --model, one of them",
                remedy="For instance: corrigenda serve --model smollm2, or --upstream http://127.0.0.1:8000/v1.",
            )


@dataclass(frozen=True)
class Printing:
    """Consolidation through the gateway.

    Attributes:
        editions: Folder of what is printed; none for no consolidation.
        base: The model that is printed into.
        serves: What the upstream calls it; requests for it go to the adapter in force.
        shadow_share: Of the requests that a printed edit answers, how many the weights are asked alone, 0…1.
        hits: Where it is counted how often edits answer; beside the memory's file, by default.
    """

    editions: Path | None
    base: str | None
    serves: str | None
    shadow_share: float
    hits: Path | None

    def switch(self) -> Callable[[bytes], bytes] | None:
        """Return what sends requests for :attr:`serves` to the adapter in force, if that is wanted."""
        if self.serves is None:
            return None
        from corrigenda.middleware.gateway.switching import ModelSwitch

        if self.editions is None:
            raise InvalidRequest("--serves needs --editions, the folder that says what is in force")
        return ModelSwitch(self.editions, self.serves, base=self.base)

    def counter(self, memory: str) -> Hits | None:
        """Return where answers from ``memory`` are counted; a memory on a server has no file to count beside."""
        from corrigenda.memory.hits import Hits, beside

        place = self.hits if self.hits is not None else beside(memory)
        return Hits(place) if place is not None else None

    def watched(self, store: Memory, served: str | None) -> dict[str, Any]:
        """Return the gateway's options for printing: jobs, and looks at shadows.

        Args:
            store: The memory that is printed.
            served: The local model behind the gateway, printed into where no base is named.

        Raises:
            InvalidRequest: There is no saying which model is printed into.
        """
        if self.editions is None:
            return {}
        from corrigenda.middleware.gateway.consolidating import LocalConsolidator
        from corrigenda.middleware.gateway.shadowing import Shadowing

        printed = self.base or served
        if printed is None:
            raise InvalidRequest("--editions in front of an upstream needs --base, the model that it serves")
        return {
            "consolidator": LocalConsolidator(store, printed, self.editions),
            "shadowing": Shadowing(store, self.editions, printed, share=self.shadow_share),
        }


@dataclass(frozen=True)
class Serving:
    """One run of the gateway.

    Attributes:
        memory: A file, or the URL of a server.
        host, port: Where to listen.
        behind, printing: See there.
        settings: See :class:`corrigenda.middleware.gateway.settings.Settings`.
        logs: Form of the line for each request.
        spans: Whether OpenTelemetry spans are sent.
    """

    memory: str
    host: str
    port: int
    behind: Behind
    printing: Printing
    settings: Settings
    logs: Literal["text", "json", "off"]
    spans: bool

    def run(self) -> None:
        """Serve until the process is told to stop.

        Raises:
            MissingExtra: What the gateway needs is not installed.
            InvalidRequest: Options that do not go together.
        """
        try:
            import uvicorn

            from corrigenda.middleware.gateway import logs as log_lines
            from corrigenda.middleware.gateway import server
        except ImportError as error:
            raise MissingExtra.named("gateway", error.name or "aiohttp") from error
        with contextlib.ExitStack() as stack:
            store = stack.enter_context(open_memory(Path(self.memory), follow=True))
            keys = stack.enter_context(contextlib.closing(open_keys(self.memory)))
            options = {"keys": keys, "spans": _spans(stack, self.spans), "switch": self.printing.switch()}
            gateway = self._gateway(store, hits=self.printing.counter(self.memory), **options)
            self._greet(keys)
            more: dict[str, Any] = {}
            if self.logs != "off":
                stack.enter_context(log_lines.logging_to(self.logs))
                more = {"log_config": None}  # uvicorn would take its loggers back
            uvicorn.Server(server.config(gateway.app, self.settings, host=self.host, port=self.port, **more)).run()

    def _gateway(self, store: Memory, **options: Any) -> Gateway:
        """Put the gateway together in front of ``store``."""
        from corrigenda.memory.scope import Scope
        from corrigenda.middleware.gateway.app import Gateway
        from corrigenda.middleware.strategies.base import create

        behind = self.behind
        scope = Scope(store, threshold=behind.threshold)
        options |= {"settings": self.settings, **self.printing.watched(store, behind.model)}
        if (name := behind.model) is None:
            chosen = create(behind.strategy) if behind.strategy is not None else None
            return Gateway(store, upstream=behind.upstream, strategy=chosen, scope=scope, **options)
        from corrigenda.middleware.generate import EditedModel

        more = {"strategy": behind.strategy} if behind.strategy is not None else {}
        edited = with_status(
            f"loading {name}",
            lambda: EditedModel.load(name, store, scope=scope, namespace=self.settings.namespace, **more),
            quiet=False,
        )
        return Gateway(store, model=edited, **options)

    def _greet(self, keys: Keys) -> None:
        """Say where the gateway is and what it stands in front of, and if no keys would let anyone look after it."""
        from corrigenda.memory.upkeep import is_url

        out, url = err_console(), f"http://{self.host}:{self.port}"
        place = self.memory
        if is_url(place):  # a URL may hold a password
            from corrigenda.memory.redis_link import masked

            place = masked(place)
        behind = self.behind.upstream or str(self.behind.model)
        out.print(f"[green]corrigenda[/] in front of {escape(behind)}: {url}/v1", highlight=False)
        out.print(f"[dim]edits of {escape(place)}, admin page at {url}/admin[/]", highlight=False)
        if not any(key.revoked is None for key in keys.all()):
            out.print(
                f"[yellow]note:[/] no keys yet, so the admin API refuses everyone: "
                f"corrigenda keys create NAME --role admin --memory {escape(place)}",
                highlight=False,
            )


def _spans(stack: contextlib.ExitStack, wanted: bool) -> Spans:
    """Return where spans go; what is still on its way when the gateway ends is sent first."""
    from corrigenda.middleware.gateway.spans import Spans, exporting

    if not wanted:
        return Spans()
    provider = exporting()
    stack.callback(provider.shutdown)
    return Spans(provider)
