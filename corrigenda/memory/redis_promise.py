"""Promise: what an acknowledged write has reached, and how a script is run so that it has.

==============  =======================================================================================================
``"server"``    The server executed it. A crash of the server loses what its own settings allow: a second, two at worst,
                with ``appendfsync everysec``, nothing with ``always``, everything since the last dump without AOF.
``"disk"``      It is on the server's disk. Needs ``appendonly yes`` and either ``appendfsync always`` or, from Redis
                7.2 on, ``WAITAOF``; refused at connecting otherwise.
``"replicas"``  As many replicas as asked for have received it (``WAIT``). A failover may still choose one that has not,
                unless that is all of them.
==============  =======================================================================================================
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from corrigenda.errors import InvalidRequest, StoreError, StoreUnavailable
from corrigenda.memory.redis_link import Client, Link

Durability = Literal["server", "disk", "replicas"]

_WAITAOF = (7, 2)


class Promise:
    """Runs the script that appends, and keeps the promise of a durability.

    Args:
        link: To the server.
        durability: See above.
        replicas: How many, with ``replicas``.

    Raises:
        InvalidRequest: No such durability.
    """

    def __init__(self, link: Link, durability: Durability, replicas: int) -> None:
        if durability not in get_args(Durability):
            raise InvalidRequest(
                f"durability={durability!r} is none", remedy=f"Allowed: {', '.join(get_args(Durability))}."
            )
        if replicas < 1:
            raise InvalidRequest(f"replicas={replicas} is below 1")
        self._link = link
        self._durability = durability
        self._replicas = replicas
        self._waits_for_disk = False

    @property
    def waits(self) -> bool:
        """Whether an answer of the server is not enough."""
        return self._durability == "replicas" or (self._durability == "disk" and self._waits_for_disk)

    def check(self) -> None:
        """Make sure that the server can keep it.

        Raises:
            InvalidRequest: It cannot.
            StoreUnavailable: It does not answer.
        """
        if self._durability == "server":
            return
        if self._link.clustered:
            raise InvalidRequest(
                f"durability={self._durability!r} cannot be had from a cluster: its client cannot wait on a connection",
                remedy="Use durability='server' and appendfsync always on the cluster's servers.",
            )
        if self._durability == "replicas":
            return
        info = self._link.call(lambda db: db.info("server"))
        version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
        persistence = self._link.call(lambda db: db.info("persistence"))
        settings = {} if version >= _WAITAOF else self._link.call(lambda db: db.config_get("appendfsync"))
        self._waits_for_disk = version >= _WAITAOF
        if not persistence.get("aof_enabled") or settings.get("appendfsync", "always") != "always":
            raise InvalidRequest(
                f"{self._link.where} cannot promise durability='disk'",
                remedy="Set appendonly yes and, before Redis 7.2, appendfsync always on the server.",
            )

    def run(self, keys: list[str], arguments: list[Any]) -> tuple[bytes, int]:
        """Run :file:`append.lua`; return its answer once that is as durable as promised.

        Raises:
            StoreUnavailable: No answer, or no confirmation in time: it may be there all the same.
        """
        return self._link.call(lambda db: self._run(db, keys, arguments))

    def _run(self, db: Client, keys: list[str], arguments: list[Any]) -> tuple[bytes, int]:
        import redis

        source, digest = _script()
        for _ in range(2):
            try:
                if not self.waits:
                    return _pair(db.evalsha(digest, len(keys), *keys, *arguments))
                # Both on one connection, or the wait is for nothing.
                pipe = db.pipeline(transaction=False)
                pipe.evalsha(digest, len(keys), *keys, *arguments)
                answer, reached = self._waiting(pipe)
                if answer[0] != b"moved":
                    self._reached(reached)
                return _pair(answer)
            except redis.exceptions.NoScriptError:
                db.script_load(source)
        raise StoreError("the server forgets scripts as soon as they are loaded")

    def _waiting(self, pipe: Any) -> list[Any]:
        # Shorter than the time-out of an answer: a wait in vain must be told from a server that is gone.
        patience = int(800 * self._link.patience.answer)
        if self._durability == "disk":
            pipe.execute_command("WAITAOF", 1, 0, patience)
        else:
            pipe.execute_command("WAIT", self._replicas, patience)
        answers: list[Any] = pipe.execute()
        return answers

    def _reached(self, reached: Any) -> None:
        count, wanted, what = (
            (int(reached[0]), 1, "the server's disk")
            if self._durability == "disk"
            else (int(reached), self._replicas, f"{self._replicas} replicas")
        )
        if count < wanted:
            raise StoreUnavailable(
                f"{self._link.where}: written, but not confirmed by {what} in time",
                remedy="Not acknowledged, and perhaps there all the same. Adding it again is safe.",
            )


def _pair(answer: Any) -> tuple[bytes, int]:
    status, last = answer
    return status, int(last)


@lru_cache(maxsize=1)
def _script() -> tuple[str, str]:
    source = Path(__file__).with_name("append.lua").read_text()
    return source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
