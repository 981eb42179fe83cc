"""Trial: a memory that one thread writes to and another reads from, while something goes wrong; and what to count.

The writer gives a few subjects ever new values, each superseding the last, and tries again when the server is away. The
reader asks its own replica all the time: it must find exactly one live value of each subject, never one that was not
written, and never go back to an older one (unless the newer one was not acknowledged yet, and went with its server).
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from waiting import until

from corrigenda.edit import Edit
from corrigenda.errors import StoreError
from corrigenda.memory.ledger import replay
from corrigenda.memory.memory import Memory
from corrigenda.memory.redis_link import Patience
from corrigenda.memory.shared import SharedMemory
from corrigenda.testing import FixedEncoder

SUBJECTS = 12
QUICK = Patience(answer=1.0, total=1.0, rest=0.1)


@dataclass
class Tally:
    """What a fault did, counted over its rounds.

    Attributes:
        rounds: How often it struck.
        acknowledged: Edits that somebody was told are in.
        lost: Of these, how many are in no event.
        excused: Of these, lost as the server's documentation says they may be.
        doubled: Edits that are in two events.
        wrong: Answers that were not what some state of the ledger says.
        withdrawn: Answers that went back from an edit that nobody had been told was in: it went with its server.
        answers: Answers in all.
        stuck: Rounds after which writer or reader did not come back by themselves.
        slowest: Seconds until they had, at worst.
    """

    rounds: int = 0
    acknowledged: int = 0
    lost: int = 0
    excused: int = 0
    doubled: int = 0
    wrong: int = 0
    withdrawn: int = 0
    answers: int = 0
    stuck: int = 0
    slowest: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether everything was as promised."""
        return self.rounds > 0 and not (self.lost or self.doubled or self.wrong or self.stuck)

    def recovered(self, seconds: float) -> None:
        """Count a round that ended well."""
        self.rounds += 1
        self.slowest = max(self.slowest, seconds)


def connect(url: str, **options: object) -> SharedMemory:
    """Connect to the memory of a trial."""
    values: dict[str, Any] = {"ledger": "trial", "encoder": FixedEncoder(16), "patience": QUICK} | options
    return Memory.connect(url, **values)


def fact(subject: int, value: int) -> Edit:
    """Return the edit that gives ``subject`` its value ``value``."""
    return Edit(f"Thing {subject} is", f"value {value}", subject=f"Thing {subject}", relation="is")


class Trial:
    """Starts writing and reading at once.

    Args:
        write_url: Where the writer connects.
        read_url: Where the reader does; the same by default.
        options: For the writer's connection.
    """

    def __init__(self, write_url: str, read_url: str | None = None, **options: object) -> None:
        self.tally = Tally()
        self.acknowledged: list[tuple[float, Edit]] = []
        self.url = write_url
        self.writer = connect(write_url, **options)
        self.reader = connect(read_url or write_url)
        self.forgiving = False
        """Whether the server may have lost its end: the reader may then see older values again."""
        self._given = [0] * SUBJECTS  # the newest value that each subject may have
        self._seen = [0] * SUBJECTS
        self._told = [0] * SUBJECTS  # the newest value that is acknowledged
        self._early = [0] * SUBJECTS  # the newest value that was seen before it was
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write), threading.Thread(target=self._read)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if kind is None:
            self._count()
        for memory in (self.writer, self.reader):
            memory.close()

    def progress(self, edits: int = 3, *, seconds: float = 60.0) -> float:
        """Wait until ``edits`` more are acknowledged; return how long it took."""
        wanted = len(self.acknowledged) + edits
        return until(lambda: len(self.acknowledged) >= wanted, seconds)

    def come_back(self) -> None:
        """Wait until both write and read as if nothing had been, and count the round."""
        try:
            waited = self.progress()
            goal = self.writer.version
            waited += until(lambda: self.reader.version >= goal and self.reader.stale_for == 0)
        except TimeoutError:
            self.tally.rounds += 1
            self.tally.stuck += 1
        else:
            self.tally.recovered(waited)

    def _write(self) -> None:
        number = 0
        while not self._stop.is_set():
            subject, value = number % SUBJECTS, number // SUBJECTS + 1
            self._given[subject] = value
            try:
                self.writer.add(fact(subject, value))
            except StoreError:
                self._stop.wait(0.01)  # and the same again: that is safe
                continue
            self._told[subject] = value
            self.acknowledged.append((time.monotonic(), fact(subject, value)))
            number += 1
            self._stop.wait(0.002)

    def _read(self) -> None:
        chance = random.Random(0)
        while not self._stop.wait(0.002):
            subject = chance.randrange(SUBJECTS)
            vector = self.reader.encoder.encode([f"Thing {subject} is"])
            hits = self.reader.search(vector, SUBJECTS + 1)[0]
            mine = [int(hit.edit.target.split()[1]) for hit in hits if hit.edit.subject == f"Thing {subject}"]
            self.tally.answers += 1
            if not mine and not self._seen[subject]:
                continue  # nothing was said about it yet
            before, now = self._seen[subject], mine[0] if mine else 0
            half = not mine and before > 1 and not self.forgiving  # the old value gone, the new one not there
            if half or len(mine) > 1 or now > self._given[subject]:
                self.tally.wrong += 1
            elif now < before and before == self._early[subject]:
                self.tally.withdrawn += 1
            elif now < before:
                self.tally.wrong += not self.forgiving
            if now > self._told[subject]:
                self._early[subject] = now
            self._seen[subject] = now

    def _count(self) -> None:
        """Compare what was acknowledged with a ledger read anew."""
        with connect(self.url, readonly=True, follow=False) as memory:
            events = memory._server.read()
            state = replay(events)
            until(lambda: self.reader.version == state.seq)
            written = Counter(event.edit.id for event in events)
            self.tally.acknowledged = len(self.acknowledged)
            self.tally.lost = sum(edit.id not in written for _, edit in self.acknowledged)
            self.tally.doubled = sum(count - 1 for count in written.values())
            subjects = Counter(edit.subject for edit in state.live.values())
            self.tally.wrong += sum(count - 1 for count in subjects.values())
            self.tally.wrong += memory._server.live().keys() != state.live.keys()
            self.tally.wrong += list(self.reader._replica.state.live) != list(state.live)
