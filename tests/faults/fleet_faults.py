"""What happens to fleets: a primary dies and Sentinel puts a replica in its place; a slot of a cluster moves."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from servers import RedisServer, free_port
from trial import Tally, Trial
from waiting import until

SENTINEL = """port {port}
dir {folder}
sentinel monitor it 127.0.0.1 {primary} 2
sentinel down-after-milliseconds it 800
sentinel failover-timeout it 3000
sentinel parallel-syncs it 2
"""


ELECTION = 90.0
"""Seconds for an election, at most: a sentinel that was kept from working does nothing for half a minute."""


class Fleet:
    """A primary, two replicas and three sentinels that watch them.

    Args:
        folder: For their files.
        stack: Ends them.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        settings = {"appendonly": "yes", "repl-backlog-size": "10mb", "repl-ping-replica-period": 1}
        self.servers = [RedisServer(folder / f"server{number}", **settings) for number in range(3)]
        for server in self.servers:
            if server is not self.servers[0]:
                server.settings["replicaof"] = f"127.0.0.1\n{self.servers[0].port}"
            stack.enter_context(server)
        self.sentinels = []
        for number in range(3):
            place, port = folder / f"sentinel{number}", free_port()
            place.mkdir(parents=True)
            (place / "it.conf").write_text(SENTINEL.format(port=port, folder=place, primary=self.servers[0].port))
            self.sentinels.append(stack.enter_context(RedisServer(place, port=port, configuration=place / "it.conf")))
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        self.url = f"redis+sentinel://{hosts}/it"

    def primary(self) -> RedisServer | None:
        """Return the server that is the primary, in the eyes of all sentinels and in its own."""
        seen = {int(one.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "it")[1]) for one in self.sentinels}
        (server,) = [one for one in self.servers if one.port == min(seen)]
        return server if len(seen) == 1 and server.running and server.command("ROLE")[0] == "master" else None

    def whole(self) -> bool:
        """Tell whether primary and both replicas are up and in step, and all sentinels know each other and that."""
        server = self.primary()
        if server is None or sum(int(offset) > 0 for _, _, offset in server.command("ROLE")[2]) < 2:
            return False
        for sentinel in self.sentinels:
            replicas = [_pairs(row) for row in sentinel.command("SENTINEL", "REPLICAS", "it")]
            good = [row for row in replicas if row["flags"] == "slave" and row["master-link-status"] == "ok"]
            if len(good) < 2 or len(sentinel.command("SENTINEL", "SENTINELS", "it")) < 2:
                return False
        return True

    def restart(self, server: RedisServer) -> None:
        """Start ``server`` as a replica of whoever is the primary now."""
        until(lambda: self.primary() is not None, ELECTION)
        primary = self.primary()
        assert primary is not None
        server.settings["replicaof"] = f"127.0.0.1\n{primary.port}"
        server.start()


def _pairs(row: dict[str, str] | list[str]) -> dict[str, str]:
    return row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))


def failover(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """SIGKILL to the primary; Sentinel chooses a replica. An edit is acknowledged when all replicas have it."""
    return _failover(rounds, folder, chance, replicas=2)


def failover_behind(rounds: int, folder: Path, chance: random.Random) -> Tally:
    """The same, but one replica of the two is enough: Redis documents that the other one may be chosen."""
    return _failover(rounds, folder, chance, replicas=1)


def _failover(rounds: int, folder: Path, chance: random.Random, *, replicas: int) -> Tally:
    with ExitStack() as stack:
        fleet = Fleet(folder, stack)
        until(fleet.whole, ELECTION)
        trial = stack.enter_context(Trial(fleet.url, durability="replicas", replicas=replicas))
        trial.forgiving = replicas < 2
        for _ in range(rounds):
            until(fleet.whole, ELECTION)
            trial.progress()
            time.sleep(chance.random() * 0.1)
            old = fleet.primary()
            if old is None:
                continue  # Sentinel was faster
            old.kill()
            until(lambda: fleet.primary() is not None, ELECTION)
            if replicas < 2:
                trial.progress()
            fleet.restart(old)
            trial.come_back()
    if trial.forgiving:
        trial.tally.lost, trial.tally.excused = 0, trial.tally.lost
    return trial.tally


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
