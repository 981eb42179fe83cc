"""Model servers: loading adapters while they run, through the endpoints that vLLM has and others copied.

An adapter is loaded under its edition's name, and names are immutable: a server that keeps caches by name can never
serve a stale one. vLLM needs ``--enable-lora --max-lora-rank N`` and ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=True``.

==============================  ======================================================
``POST /v1/load_lora_adapter``  ``{"lora_name": …, "lora_path": …}``; 200, or 400 when the name is taken
``POST /v1/unload_lora_adapter``  ``{"lora_name": …}``; 200, or 404
``GET /v1/models``              what can be asked for now
==============================  ======================================================
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from corrigenda.errors import InvalidRequest, ServerRefused
from corrigenda.param_editors.consolidation.publishing import verify


@dataclass(frozen=True)
class ModelServer:
    """An OpenAI-compatible server that takes adapters while it runs.

    Attributes:
        url: ``http://host:port``, with or without ``/v1``.
        key: Its API key, if it wants one.
        seen_as: Where the server finds the folder that holds the editions, if not where it is found here (a volume
            mounted elsewhere).
        seconds: Longest wait for an answer; loading reads the adapter from disk.
    """

    url: str
    key: str | None = None
    seen_as: str | None = None
    seconds: float = 60.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise InvalidRequest(f"{self.url!r} is not the URL of a server", remedy="http://127.0.0.1:8000")

    def models(self) -> dict[str, str | None]:
        """Return what can be asked for: name → path, where the server tells it.

        Raises:
            ServerRefused: No answer, or not one of such a server.
        """
        answer = self._call("GET", "/models")
        try:
            return {row["id"]: row.get("root") for row in json.loads(answer)["data"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ServerRefused(f"{self.url} does not list models: {error}", remedy="Check the URL.") from None

    def load(self, edition: Path) -> str:
        """Load the adapter in the folder ``edition`` under its name, and see that it is there; return the name.

        Loading what is loaded already changes nothing.

        Raises:
            InvalidRequest: Not an adapter.
            ModelDamaged: Its files are not as they were written.
            ServerRefused: The server does not take it, or has another adapter of that name.
        """
        manifest = verify(edition)
        if manifest["kind"] != "lora":
            raise InvalidRequest(
                f"{edition.name} is a {manifest['kind']}; servers load adapters", remedy="Promote it with --as lora."
            )
        name, path = str(manifest["edition"]), self._path(edition)
        there = self.models()
        if name not in there:
            self._call("POST", "/load_lora_adapter", {"lora_name": name, "lora_path": path})
            there = self.models()
        if name not in there:
            raise ServerRefused(f"{self.url} took {name}, but does not list it", remedy="Look at the server's log.")
        if there[name] not in (None, path):
            raise ServerRefused(
                f"{self.url} has another adapter called {name}, from {there[name]}",
                remedy="Unload it, or promote again: names are used once.",
            )
        return name

    def unload(self, name: str) -> None:
        """Let the server forget the adapter ``name``; one that it does not have is fine."""
        if name in self.models():
            self._call("POST", "/unload_lora_adapter", {"lora_name": name})

    def _path(self, edition: Path) -> str:
        return str(PurePosixPath(self.seen_as) / edition.name) if self.seen_as else str(edition.resolve())

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        url = self.url.rstrip("/").removesuffix("/v1") + "/v1" + path
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        data = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(url, data=data, headers=headers, method=method), timeout=self.seconds) as answer:
                text: bytes = answer.read()
                return text
        except HTTPError as error:
            said = error.read(500).decode(errors="replace")
            raise ServerRefused(
                f"{method} {url}: {error.code} {said}",
                remedy="vLLM takes adapters with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True; "
                "--max-lora-rank must be at least the adapter's rank.",
            ) from None
        except (URLError, TimeoutError, OSError) as error:
            raise ServerRefused(f"{url} does not answer: {error}", remedy="Is the server up?") from None
