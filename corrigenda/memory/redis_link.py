"""Link to a Redis server: where it is, how long to wait for it, and what its errors mean to us.

redis-py repeats commands by itself and for long; here that is switched off, and repeating is ours: every call ends
after ``patience`` at the latest, and a server that did not answer is left alone for a moment, so that its absence costs
each caller microseconds and not a time-out.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from corrigenda.errors import InvalidRequest, MissingExtra, StoreError, StoreNotWritable, StoreUnavailable

T = TypeVar("T")
Client = Any
"""A client of redis-py. Its types are unions of everything, answers of asynchronous clients included: no help here."""

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server.

    Attributes:
        answer: Seconds for one answer, connecting included.
        total: Seconds after which no further attempt begins. An operation ends within ``answer + total``.
        rest: Seconds for which a server that did not answer is not asked again by callers that have other means.
    """

    answer: float = 1.0
    total: float = 3.0
    rest: float = 0.5

    def __post_init__(self) -> None:
        for name in ("answer", "total", "rest"):
            if not 0 < getattr(self, name) < 3600:
                raise InvalidRequest(f"{name}={getattr(self, name)!r} must be seconds, between 0 and 3600")


class Link:
    """A client and our rules for it. Safe to share between threads.

    Args:
        url: ``redis://``, ``rediss://`` (TLS), ``unix://``, ``redis+sentinel://host:port,host:port/service``,
            ``redis+cluster://host:port``; the latter two with ``rediss`` as well.
        patience: Time-outs.
        options: Passed to redis-py: ``ssl_ca_certs``, ``username``, ``password``…

    Raises:
        InvalidRequest: Not such a URL.
        MissingExtra: redis-py is not installed.
    """

    def __init__(self, url: str, *, patience: Patience | None = None, **options: Any) -> None:
        self.patience = patience if patience is not None else Patience()
        self.where = masked(url)
        self.clustered = urlsplit(url).scheme.endswith("+cluster")
        self.client: Client = _client(url, self.patience.answer, options)
        self._lock = threading.Lock()
        self._down_since: float | None = None
        self._asked = 0.0

    @property
    def down_for(self) -> float:
        """Seconds since the server stopped answering; 0.0 while it answers."""
        since = self._down_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def resting(self) -> bool:
        """Whether the server failed so recently that who can do without it should."""
        return self._down_since is not None and time.monotonic() - self._asked < self.patience.rest

    def call(self, command: Callable[[Client], T], *, total: float | None = None) -> T:
        """Return what ``command`` returns; it is repeated on trouble with the line, and so must bear repeating.

        Args:
            command: Talks to the server through the client that it gets.
            total: Seconds after which no further attempt begins; :attr:`Patience.total` by default.

        Raises:
            StoreUnavailable: No answer in time, or no server that may write.
            StoreNotWritable: The server refuses: out of memory, disk full, no permission.
            StoreError: Whatever else the server objects to.
        """
        import redis

        total = self.patience.total if total is None else total
        # Others have waited for long already: one attempt will do.
        deadline = time.monotonic() + (total if self.down_for < self.patience.total else 0.0)
        pause = 0.01
        while True:
            try:
                result = command(self.client)
            except redis.RedisError as error:
                ours = translate(error, self.where)
                if not isinstance(ours, StoreUnavailable):
                    self._heard()
                    raise ours from error
                self._missed()
                if time.monotonic() + pause > deadline:
                    raise ours from error
            else:
                self._heard()
                return result
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, 0.2)

    def close(self) -> None:
        """Close all connections."""
        self.client.close()

    def _heard(self) -> None:
        if self._down_since is not None:
            with self._lock:
                self._down_since = None

    def _missed(self) -> None:
        with self._lock:
            self._asked = time.monotonic()
            if self._down_since is None:
                self._down_since = self._asked


def masked(url: str) -> str:
    """Return ``url`` as it may be shown: without password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def translate(error: Exception, where: str) -> StoreError:
    """Return our error for one of redis-py."""
    import redis

    text = f"{where}: {error}"
    if isinstance(
        error, redis.AuthenticationError | redis.exceptions.AuthorizationError | redis.exceptions.NoPermissionError
    ):
        return StoreNotWritable(text, remedy="Check user name, password, and the user's ACL rules.")
    if isinstance(error, redis.OutOfMemoryError):
        return StoreNotWritable(text, remedy="Raise maxmemory; set maxmemory-policy noeviction.")
    reason = str(error).rpartition("of pipeline caused error: ")[2]
    if reason.startswith("MISCONF"):
        return StoreNotWritable(text, remedy="The server cannot write to its disk: free space there.")
    passing = (
        redis.ConnectionError,
        redis.TimeoutError,
        redis.ReadOnlyError,
        redis.exceptions.ClusterError,
        redis.exceptions.MasterDownError,
        redis.exceptions.TryAgainError,
        redis.exceptions.RedisClusterException,
        redis.exceptions.AskError,
    )
    waits = ("BUSY ", "NOREPLICAS", "LOADING", "UNBLOCKED", "READONLY")  # BUSY: with somebody's long script
    if isinstance(error, passing) or reason.startswith(waits):
        return StoreUnavailable(f"{where} does not answer: {error}", remedy="Is the server up? Try again; it is safe.")
    return StoreError(text)


def _client(url: str, timeout: float, options: dict[str, Any]) -> Client:
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise MissingExtra.named("redis", "redis") from error
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise InvalidRequest(
            f"{masked(url)!r} is not the URL of a Redis server", remedy=f"Schemes: {', '.join(_SCHEMES)}."
        )
    rules: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
        "health_check_interval": 0,
        "legacy_responses": False,
        "retry": Retry(NoBackoff(), 0),
    }
    rules |= options
    try:
        if parts.scheme.endswith("+sentinel"):
            return _sentinel(url, rules)
        if parts.scheme.endswith("+cluster"):
            plain = url.replace("+cluster", "", 1)
            # The cluster client finds a slot's new owner by repeating: that much it must be allowed.
            rules["retry"] = Retry(NoBackoff(), 3)
            return redis.RedisCluster.from_url(plain, **rules)
        return redis.Redis.from_url(url, **rules)
    except redis.RedisError as error:
        raise translate(error, masked(url)) from error
    except ValueError as error:
        raise InvalidRequest(f"{masked(url)!r} is not the URL of a Redis server: {error}") from error


def _sentinel(url: str, rules: dict[str, Any]) -> Client:
    from redis.sentinel import Sentinel

    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    service = parts.path.strip("/")
    if not service:
        raise InvalidRequest(f"{masked(url)!r} names no service", remedy="redis+sentinel://host:26379/mymaster")
    nodes = []
    for host in hosts.split(","):
        name, _, port = host.rpartition(":")
        nodes.append((name or port, int(port) if name else 26379))
    waits = {key: rules[key] for key in ("socket_timeout", "socket_connect_timeout", "retry")}
    if parts.scheme.startswith("rediss"):
        rules["ssl"] = True
    given = {"username": unquote(user), "password": unquote(password), **dict(parse_qsl(parts.query))}
    rules = {key: value for key, value in given.items() if value} | rules
    sentinels: Client = Sentinel
    return sentinels(nodes, sentinel_kwargs=waits).master_for(service, **rules)
