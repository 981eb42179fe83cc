"""What happens to fleets: a primary dies and Sentinel puts a replica in its place; a slot of a cluster moves."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from servers import RedisServer, free_port
from trial import Tally, Trial, until

SENTINEL = """port {port}
dir {folder}
sentinel monitor it 127.0.0.1 {primary} 2
sentinel down-after-milliseconds it 800
sentinel failover-timeout it 3000
sentinel parallel-syncs it 2
"""


@contextmanager
def watched(folder: Path) -> Iterator[tuple[str, list[RedisServer]]]:
    """Run a primary, two replicas and three sentinels; yield the URL and the servers."""
    with ExitStack() as stack:
        settings = {"appendonly": "yes", "repl-backlog-size": "10mb", "repl-ping-replica-period": 1}
        servers = [RedisServer(folder / f"server{number}", **settings) for number in range(3)]
        for number, server in enumerate(servers):
            if number:
                server.settings["replicaof"] = f"127.0.0.1\n{servers[0].port}"
            stack.enter_context(server)
        ports = []
        for number in range(3):
            place, port = folder / f"sentinel{number}", free_port()
            place.mkdir(parents=True)
            (place / "it.conf").write_text(SENTINEL.format(port=port, folder=place, primary=servers[0].port))
            sentinel = RedisServer(place, port=port, configuration=place / "it.conf")
            stack.enter_context(sentinel)
            ports.append(port)
            stack.callback(sentinel.kill)
        first = ports[0]
        watch = RedisServer(folder / "watch", port=first)
        until(lambda: _sees(watch, "slaves") == 2 and _sees(watch, "sentinels") == 2)
        url = "redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in ports) + "/it"
        yield url, servers


def _sees(sentinel: RedisServer, what: str) -> int:
    return len(sentinel.command("SENTINEL", what, "it"))


def failover(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """SIGKILL to the primary; Sentinel chooses a replica. An edit is acknowledged when all replicas have it."""
    return _failover(rounds, folder, chance, replicas=2)


def failover_behind(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """The same, but one replica of the two is enough: Redis documents that the other one may be chosen."""
    return _failover(rounds, folder, chance, replicas=1)


def _failover(rounds: int, folder: Path, chance: random.Random, *, replicas: int) -> Tally:
    with watched(folder) as (url, servers), Trial(url, durability="replicas", replicas=replicas) as trial:
        trial.forgiving = replicas < 2
        for _ in range(rounds):
            until(lambda: _primary(servers, attached=2) is not None)
            trial.progress()
            time.sleep(chance.random() * 0.1)
            old = _primary(servers)
            if old is None:
                continue  # Sentinel was faster
            old.kill()
            until(lambda: _primary(servers) is not None)
            if replicas < 2:
                trial.progress()
                until(lambda: _primary(servers) is not None)
            old.settings["replicaof"] = f"127.0.0.1\n{_port(servers)}"
            old.start()
            trial.come_back()
    if trial.forgiving:
        trial.tally.lost, trial.tally.excused = 0, trial.tally.lost
    return trial.tally


def _primary(servers: list[RedisServer], *, attached: int = 0) -> RedisServer | None:
    """Return the one server that says it is the primary, with so many replicas in step."""
    roles = [(server, server.command("ROLE")) for server in servers if server.running]
    primaries = [(server, role[2]) for server, role in roles if role[0] == "master"]
    if len(primaries) != 1:
        return None
    ((server, replicas),) = primaries
    return server if sum(int(offset) > 0 for _, _, offset in replicas) >= attached else None


def _port(servers: list[RedisServer]) -> int:
    primary = _primary(servers)
    assert primary is not None
    return primary.port


@contextmanager
def clustered(folder: Path) -> Iterator[list[RedisServer]]:
    """Run a cluster of three primaries."""
    with ExitStack() as stack:
        settings = {"cluster-enabled": "yes", "cluster-node-timeout": 2000, "appendonly": "yes"}
        servers = [RedisServer(folder / f"node{number}", port=_low_port(), **settings) for number in range(3)]
        for number, server in enumerate(servers):
            stack.enter_context(server)
            first, last = 16_384 * number // 3, 16_384 * (number + 1) // 3 - 1
            server.command("CLUSTER", "ADDSLOTSRANGE", first, last)
            server.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in servers[1:]:
            servers[0].command("CLUSTER", "MEET", "127.0.0.1", server.port)
        until(lambda: all("cluster_state:ok" in server.command("CLUSTER", "INFO") for server in servers))
        until(lambda: all(server.command("CLUSTER", "NODES").count("connected") == 3 for server in servers))
        yield servers


def _low_port() -> int:
    while (port := free_port()) > 50_000:  # its bus listens 10,000 above
        pass
    return port


def moving_slot(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """The slot of the ledger moves to another node, key by key, while it is written to and followed."""
    with clustered(folder) as servers, Trial(f"redis+cluster://127.0.0.1:{servers[0].port}") as trial:
        slot = int(servers[0].command("CLUSTER", "KEYSLOT", "{trial}"))
        names = [server.command("CLUSTER", "MYID") for server in servers]
        owner = next(number for number in range(3) if 16_384 * number // 3 <= slot < 16_384 * (number + 1) // 3)
        for _ in range(rounds):
            trial.progress()
            target = chance.choice([number for number in range(3) if number != owner])
            servers[target].command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[owner])
            servers[owner].command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
            while keys := servers[owner].command("CLUSTER", "GETKEYSINSLOT", slot, 1):
                servers[owner].command("MIGRATE", "127.0.0.1", servers[target].port, keys[0], 0, 5000)
                time.sleep(chance.random() * 0.05)
            for server in (servers[target], servers[owner], *servers):
                server.command("CLUSTER", "SETSLOT", slot, "NODE", names[target])
            owner = target
            trial.come_back()
    return trial.tally
