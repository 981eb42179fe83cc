"""Settings of a gateway: one frozen value, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from corrigenda.errors import InvalidRequest

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """How a gateway behaves.

    Attributes:
        namespace: Whose edits apply where a client names no other.
        early_exit: Whether a request that shares no name with any edit goes on without being encoded and judged.
        on_failure: When judging fails: ``refuse`` the request (503), or ``pass`` it on without edits.
        require_key: Whether clients of ``/v1`` need a key of the gateway too, in ``x-corrigenda-key``.
        upstream_key: Key of the upstream for what the admin page asks it; clients send their own. Never shown.
        trace_body: Whether a JSON answer that edits changed carries the trace as ``corrigenda``.
        max_body: Longest request body that is read, bytes; longer ones are refused with 413.
        max_admin_body: The same for the admin API.
        header_seconds: Longest time for the header of a request to arrive.
        body_seconds: Longest time for the body of a request to arrive, once its header is there.
        connect_seconds: Longest time to reach the upstream.
        read_seconds: Longest silence of the upstream; ``None`` waits as long as the client does.
        rate: Admin requests a second and key, in the long run.
        burst: Admin requests of a key at once.
        refresh_seconds: How often edits of other processes are looked for.
        threads: Threads that judge; more than one only pays with idle cores.
    """

    namespace: str = "default"
    early_exit: bool = True
    on_failure: Literal["refuse", "pass"] = "refuse"
    require_key: bool = False
    upstream_key: str | None = field(default=None, repr=False)
    trace_body: bool = False
    max_body: int = 64 * MIB
    max_admin_body: int = 4 * MIB
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    connect_seconds: float = 10.0
    read_seconds: float | None = None
    rate: float = 20.0
    burst: int = 60
    refresh_seconds: float = 0.25
    threads: int = 1

    def __post_init__(self) -> None:
        if self.on_failure not in ("refuse", "pass"):
            raise InvalidRequest(f"on_failure={self.on_failure!r}", remedy="Allowed: refuse, pass.")
        for name in ("max_body", "max_admin_body", "burst", "threads"):
            if getattr(self, name) < 1:
                raise InvalidRequest(f"{name}={getattr(self, name)} is below 1")
        for name in ("header_seconds", "body_seconds", "connect_seconds", "rate", "refresh_seconds"):
            if getattr(self, name) <= 0:
                raise InvalidRequest(f"{name}={getattr(self, name)} is not above 0")


def upstream_base(url: str) -> str:
    """Return ``url`` as the place under which ``/v1/...`` lies: without a slash or ``/v1`` at its end.

    Raises:
        InvalidRequest: Not an absolute http(s) URL, or one with a user name, a query or a fragment.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest(f"{url!r} is not an http(s) URL", remedy="For instance http://127.0.0.1:8000/v1.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidRequest(
            "the upstream's URL holds a user name, a query or a fragment",
            remedy="Give scheme, host, port and path only; keys go into the Authorization header.",
        )
    return url.rstrip("/").removesuffix("/v1")
