"""Work that takes minutes, as jobs: calibration of the scope classifier, and consolidation runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from corrigenda.errors import InvalidRequest, UnknownName
from corrigenda.memory.calibration import rate_above, threshold_for
from corrigenda.memory.scope_evaluation import highest
from corrigenda.memory.scope_thresholds import Calibration, Thresholds, selected
from corrigenda.middleware.gateway.access import Access
from corrigenda.middleware.gateway.admin.call import Call
from corrigenda.middleware.gateway.admin.jobs import Consolidator, Job
from corrigenda.middleware.gateway.replies import Refusal

if TYPE_CHECKING:
    from corrigenda.middleware.gateway.app import Gateway

_TOGETHER = 50
"""Queries that are scored between two lines of progress."""


class Runs:
    """The operations on jobs and consolidation runs; run in threads.

    Args:
        gateway: Whose memory and model they work on.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def calibrate(self, call: Call) -> dict[str, Any]:
        """Find the threshold that bounds false fires on queries that concern no edit; with ``apply``, keep it.

        It is kept beside the memory's file, for the namespace of the call, and holds from the next request.
        """
        apply = call.flag("apply")
        namespace = call.namespace("admin" if apply else "editor")
        queries = call.texts("queries", 5_000, 20_000)
        rate = call.body.get("rate", 0.003)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1:
            raise InvalidRequest(f"rate must be a number above 0 and below 1, not {rate!r:.80}")
        if apply and self.gateway.memory.path is None:
            raise Refusal(409, "nowhere_to_keep_it", "thresholds are kept beside a memory's file, and this has none")

        def work(job: Job) -> dict[str, Any]:
            scores: list[float] = []
            for start in range(0, len(queries), _TOGETHER):
                job.say(f"{start} of {len(queries)} queries")
                scores += highest(queries[start : start + _TOGETHER], self.gateway.consulting.scope, namespace)
            return self._calibrated(namespace, rate, scores, apply)

        request = {"queries": len(queries), "rate": rate, "apply": apply}
        return self.gateway.jobs.begin("calibrate", namespace, request, call.key, work).to_dict()

    def _calibrated(self, namespace: str, rate: float, scores: list[float], apply: bool) -> dict[str, Any]:
        scope = self.gateway.consulting.scope
        before = scope.threshold_in(namespace)
        threshold = threshold_for(rate, scores, least=scope.judge.threshold)
        bounded = threshold <= 1
        if apply and bounded and self.gateway.memory.path is not None:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            classifier = getattr(scope.judge, "fingerprint", "")
            found = Calibration(threshold, rate, len(scores), selected(scores), classifier, now)
            Thresholds.beside(self.gateway.memory.path).put(namespace, found)
        return {
            "queries": len(scores),
            "rate": rate,
            "threshold": threshold if bounded else None,
            "now": {"threshold": before, "rate": rate_above(scores, before)},
            # A threshold that the gateway was started with wins over what is kept.
            "applied": apply and bounded and scope.threshold_in(namespace) == threshold,
        }

    # Jobs

    def list_jobs(self, call: Call) -> dict[str, Any]:
        """List the jobs of a namespace, newest first, and the threshold in force there."""
        namespace = call.namespace("reader")
        jobs = [job.to_dict() for job in self.gateway.jobs.all(namespace)]
        return {"jobs": jobs, "threshold": self.gateway.consulting.scope.threshold_in(namespace)}

    def get_job(self, call: Call) -> dict[str, Any]:
        """Tell how far a job is."""
        return self._job(call).to_dict()

    def stop_job(self, call: Call) -> dict[str, Any]:
        """Ask a job to end; it does when it next says something."""
        job = self._job(call)
        Access.require(call.key, "admin", job.namespace)
        job.stop()
        return job.to_dict()

    # Consolidation

    def consolidate(self, call: Call) -> dict[str, Any]:
        """Print live edits of a namespace into weights."""
        namespace = call.namespace("admin")
        consolidator = self._consolidator()
        request: dict[str, Any] = {}
        if (editor := call.optional("editor", 100)) is not None:
            request["editor"] = editor
        if "edits" in call.body:
            request["edits"] = call.texts("edits", 10_000, 200)
        options = call.body.get("options", {})
        if not isinstance(options, dict):
            raise InvalidRequest("options must be a JSON object")
        request["options"] = options

        def work(job: Job) -> Any:
            return consolidator.consolidate(namespace, request, job.author, job.say)

        return self.gateway.jobs.begin("consolidate", namespace, request, call.key, work).to_dict()

    def list_runs(self, call: Call) -> dict[str, Any]:
        """List the consolidation runs of a namespace, newest first."""
        return {"runs": self._consolidator().runs(call.namespace("reader"))}

    def roll_back_run(self, call: Call) -> dict[str, Any]:
        """Undo a promoted run: the weights as before, its edits back in the memory."""
        namespace = call.namespace("admin")
        consolidator, run = self._consolidator(), call.path["run_id"]
        if not any(row["id"] == run for row in consolidator.runs(namespace)):
            raise Refusal(404, "unknown_run", "there is no such run")

        def work(job: Job) -> Any:
            return consolidator.roll_back(namespace, run, job.author)

        return self.gateway.jobs.begin("roll back", namespace, {"run": run}, call.key, work).to_dict()

    def _consolidator(self) -> Consolidator:
        if self.gateway.consolidator is None:
            raise Refusal(409, "no_consolidation", "this gateway was started without consolidation")
        return self.gateway.consolidator

    def _job(self, call: Call) -> Job:
        """Return the job of the path; one of a namespace that the key is not for does not exist for it."""
        try:
            job = self.gateway.jobs.get(call.path["job_id"])
        except UnknownName:
            job = None
        if job is None or not call.key.may("reader", job.namespace):
            raise Refusal(404, "unknown_job", "there is no such job")
        return job
