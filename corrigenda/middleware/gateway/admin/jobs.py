"""Jobs: work of minutes that the admin API begins and does not wait for; consolidation above all.

One job runs at a time: each wants all the cores there are. Jobs are remembered until the gateway ends; what they did to
the edits is in the ledger, and what they did to weights in the folder they wrote.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from corrigenda.errors import CorrigendaError, UnknownName
from corrigenda.middleware.gateway.keys import Key
from corrigenda.middleware.gateway.replies import Refusal

log = logging.getLogger("corrigenda.gateway.jobs")

State = Literal["queued", "running", "done", "failed", "stopped"]
_MOST_JOBS = 200
_MOST_LINES = 200


class Stopped(Exception):
    """Raised by :meth:`Job.say` in a job that somebody stopped: it unwinds as it would from any other error."""


class Job:
    """One job, as others may look at it while it runs.

    Attributes:
        id: Which.
        kind: What it does, in one word.
        namespace: Whose edits it is about.
        request: What was asked for.
        author: Who asked, the name of the key.
        state: How far it is.
        lines: What it has said about its progress, the last 200 lines.
        result: What came of it, once it is done.
        error: Why it failed, if it did.
    """

    def __init__(self, kind: str, namespace: str, request: Mapping[str, Any], author: str) -> None:
        self.id = secrets.token_hex(8)
        self.kind, self.namespace, self.request, self.author = kind, namespace, dict(request), author
        self.state: State = "queued"
        self.lines: list[str] = []
        self.result: Mapping[str, Any] | None = None
        self.error: str | None = None
        self.created = _now()
        self.ended: str | None = None
        self._stop = threading.Event()

    def say(self, line: str) -> None:
        """Note progress; raise :class:`Stopped` if somebody wants the job to end."""
        if self._stop.is_set():
            raise Stopped
        self.lines.append(line[:1_000])
        del self.lines[:-_MOST_LINES]

    def stop(self) -> None:
        """Ask the job to end; it does when it next says something."""
        self._stop.set()
        if self.state == "queued":
            self.end("stopped")

    def end(self, state: State, error: str | None = None) -> None:
        """Note that the job is over."""
        self.state, self.error, self.ended = state, error, _now()

    def to_dict(self) -> dict[str, Any]:
        """Return the job as a JSON-ready dict."""
        return {
            "id": self.id,
            "kind": self.kind,
            "namespace": self.namespace,
            "request": self.request,
            "author": self.author,
            "state": self.state,
            "lines": list(self.lines),
            "result": self.result,
            "error": self.error,
            "created": self.created,
            "ended": self.ended,
        }


Work = Callable[[Job], Mapping[str, Any]]
"""Does a job, saying how far it is, and returns what came of it as a JSON-ready dict."""


class Consolidator(Protocol):
    """Prints edits into weights; what the gateway needs to know of :mod:`corrigenda.param_editors.consolidation`."""

    def consolidate(self, namespace: str, request: Mapping[str, Any], author: str, say: Callable[[str], None]) -> Any:
        """Plan, apply to a copy, gate, and promote or revert; return a JSON-ready report."""
        ...

    def runs(self, namespace: str) -> list[dict[str, Any]]:
        """Return the runs there have been, newest first, each with an ``id``."""
        ...

    def roll_back(self, namespace: str, run: str, author: str) -> Any:
        """Undo a promoted run: weights bit for bit as before, its edits back in the memory. Raises `UnknownName`."""
        ...


class Jobs:
    """The jobs of a gateway. Safe to share between threads."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="job")
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, kind: str, namespace: str, request: Mapping[str, Any], key: Key, work: Work) -> Job:
        """Queue ``work``; return its job.

        Raises:
            Refusal: 429 when too many jobs wait already.
        """
        job = Job(kind, namespace, request, key.name)
        with self._lock:
            over = [known for known in self._jobs.values() if known.ended is not None]
            if len(self._jobs) - len(over) >= 20:
                raise Refusal(429, "too_many_jobs", "twenty jobs are waiting already", retry_after=60)
            for known in over[: max(0, len(self._jobs) - _MOST_JOBS)]:
                del self._jobs[known.id]
            self._jobs[job.id] = job
        self._pool.submit(self._run, job, work)
        return job

    def all(self, namespace: str) -> list[Job]:
        """Return the jobs of ``namespace``, newest first."""
        with self._lock:
            return [job for job in reversed(self._jobs.values()) if job.namespace == namespace]

    def get(self, job_id: str) -> Job:
        """Return the job ``job_id``. Raises :class:`UnknownName`."""
        with self._lock:
            if job_id in self._jobs:
                return self._jobs[job_id]
        raise UnknownName("there is no such job", remedy="List the jobs to see their ids.")

    def close(self) -> None:
        """Stop what runs, and wait for it."""
        with self._lock:
            for job in self._jobs.values():
                if job.ended is None:
                    job.stop()
        self._pool.shutdown(cancel_futures=True)

    @staticmethod
    def _run(job: Job, work: Work) -> None:
        if job.ended is not None:
            return
        job.state = "running"
        try:
            job.result = work(job)
            job.end("done")
        except Stopped:
            job.end("stopped")
        except CorrigendaError as error:
            job.end("failed", f"{error.message} {error.remedy}".strip())
            log.warning("job %s (%s) failed: %s", job.id, job.kind, type(error).__name__)
        except BaseException as error:
            # Whatever it is, whoever looks at the job must not be told that it still runs.
            job.end("failed", type(error).__name__)
            log.exception("job %s (%s) failed", job.id, job.kind)
            raise


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
