"""The admin API beyond edits: ledger, conflicts, feedback, activity, calibration, jobs, consolidation."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_harness import Printer, StartGateway, Stub, eventually, post

from corrigenda.chat import Trace
from corrigenda.edit import Edit
from corrigenda.errors import CorrigendaError, UnknownName
from corrigenda.memory.memory import Memory
from corrigenda.middleware.gateway.admin.asking import Asker
from corrigenda.middleware.gateway.admin.jobs import Job, Jobs
from corrigenda.middleware.gateway.keys import Key, Keys
from corrigenda.middleware.gateway.replies import Refusal
from corrigenda.middleware.gateway.settings import Settings
from corrigenda.param_editors.consolidation import marks

CAPITAL = {"prompt": "The capital of Kazakhstan is", "target": "Astana", "subject": "Kazakhstan", "relation": "capital"}
As = Callable[..., httpx.Client]
ANN = Key("1" * 12, "ann", "admin", ("*",), "2026-01-01")


@pytest.fixture
def printer() -> Printer:
    return Printer()


@pytest.fixture
def as_role(start: StartGateway, keys: Keys, stub: Stub, printer: Printer) -> Iterator[As]:
    url = start(Settings(rate=1000, burst=1000), upstream=stub.url, consolidator=printer)

    def client(role: str = "admin", *namespaces: str, name: str = "ann") -> httpx.Client:
        _, key = keys.create(name, role, namespaces or ["*"])
        headers = {"authorization": f"Bearer {key}"}
        return stack.enter_context(httpx.Client(base_url=url + "/admin/v1", headers=headers, timeout=60))

    with contextlib.ExitStack() as stack:
        yield client


def ended(api: httpx.Client, job: Mapping[str, Any]) -> Any:
    """Wait for a job's end."""
    for _ in range(600):
        row = api.get(f"/jobs/{job['id']}").json()
        if row["ended"]:
            return row
        time.sleep(0.05)
    raise AssertionError(row)


def test_the_ledger_page_by_page(as_role: As, memory: Memory) -> None:
    api = as_role()
    memory.add_many([])
    for number in range(7):
        memory.add(f"The colour of thing{number} is", "red", namespace="default" if number % 2 else "other")
    first = api.get("/events", params={"limit": 2}).json()
    assert [event["seq"] for event in first["events"]] == [6, 4]
    second = api.get("/events", params={"limit": 2, "before": first["next"]}).json()
    assert ([event["seq"] for event in second["events"]], second["next"]) == ([2], None)
    assert as_role("reader", "default").get("/events", params={"namespace": "other"}).status_code == 403


def test_conflicts_are_shown_in_groups(as_role: As, memory: Memory) -> None:
    api = as_role()
    for target in ("Astana", "Almaty"):
        memory.add(**{**CAPITAL, "target": target}, on_conflict="coexist")
    memory.add("The capital of Peru is", "Lima", subject="Peru", relation="capital")
    (group,) = api.get("/conflicts").json()["conflicts"]
    assert {edit["target"] for edit in group} == {"Astana", "Almaty"}


def test_activity(as_role: As, memory: Memory) -> None:
    api = as_role()
    edit = memory.add(**CAPITAL)
    url = str(api.base_url).removesuffix("/admin/v1/")
    for text in (CAPITAL["prompt"], "Hello"):
        post(url + "/v1/chat/completions", json={"messages": [{"role": "user", "content": text}]})
    eventually(lambda: len(api.get("/activity").json()["minutes"]) == 2)
    row = api.get("/activity").json()
    assert {name: sum(counts) for name, counts in row["minutes"].items()} == {"early_exit": 1, "edited": 1}
    assert row["fired"] == [{"edit": edit.id, "times": 1, "statement": edit.statement}]
    assert (len(row["days"]), row["days"][-1]["added"], row["edits"]) == (30, 1, 1)


def test_calibration_finds_and_applies_a_threshold(as_role: As, memory: Memory) -> None:
    api = as_role()
    memory.add(**CAPITAL)
    outside = [f"How many legs has animal number {number}?" for number in range(60)]
    job = api.post("/calibrate", json={"queries": outside, "rate": 0.05}).json()
    row = ended(api, job)
    assert (row["state"], row["result"]["applied"], row["result"]["now"]["rate"]) == ("done", False, 0)
    assert row["result"]["threshold"] == row["result"]["now"]["threshold"]  # they come near to no edit
    few = ended(api, api.post("/calibrate", json={"queries": outside[:3], "rate": 0.01}).json())
    assert few["result"]["threshold"] is None
    before = api.get("/jobs").json()["threshold"]
    near = ["Which city is the capital of Kazakhstan?"] * 60
    done = ended(api, api.post("/calibrate", json={"queries": near, "rate": 0.05, "apply": True}).json())
    assert done["result"]["applied"] is True
    assert api.get("/jobs").json()["threshold"] == done["result"]["threshold"] != before
    assert api.get("/jobs", params={"namespace": "other"}).json()["threshold"] == before
    assert as_role("editor", "default").post("/calibrate", json={"queries": ["x"], "apply": True}).status_code == 403
    assert as_role("reader", "default").post("/calibrate", json={"queries": ["x"]}).status_code == 403
    for wrong in ({"rate": 0}, {"rate": "x"}, {"rate": True}, {"apply": 1}, {"queries": []}):
        assert api.post("/calibrate", json={"queries": ["x"], **wrong}).status_code == 422


def test_consolidation_runs_as_a_job(as_role: As, printer: Printer) -> None:
    api = as_role()
    assert api.get("/status").json()["consolidation"] is True
    job = api.post("/consolidations", json={"editor": "memit", "edits": ["e1"], "options": {"kind": "lora"}}).json()
    row = ended(api, job)
    assert (row["state"], row["lines"], row["author"]) == ("done", ["loading", "printing"], "ann")
    assert printer.done[0]["request"] == {"editor": "memit", "edits": ["e1"], "options": {"kind": "lora"}}
    (run,) = api.get("/consolidations").json()["runs"]
    assert api.delete("/consolidations/nope").status_code == 404
    assert ended(api, api.delete(f"/consolidations/{run['id']}").json())["result"] == {"rolled_back": run["id"]}
    assert api.get("/consolidations").json()["runs"] == []
    assert [one["kind"] for one in api.get("/jobs").json()["jobs"]] == ["roll back", "consolidate"]
    assert api.post("/consolidations", json={"options": [1]}).status_code == 422
    for role in ("reader", "editor"):
        assert as_role(role, "default").post("/consolidations", json={}).status_code == 403


def test_jobs_fail_stop_and_are_seen_by_their_own_namespace_only(as_role: As, printer: Printer) -> None:
    api, other = as_role("admin", "default"), as_role("admin", "other")
    printer.fault = UnknownName("no editor 'x'", remedy="Known: memit.")
    assert ended(api, api.post("/consolidations", json={}).json())["error"] == "no editor 'x' Known: memit."
    printer.fault, printer.go = None, threading.Event()
    first, second = (api.post("/consolidations", json={}).json() for _ in range(2))
    assert other.get(f"/jobs/{first['id']}").status_code == 404
    assert other.get("/jobs", params={"namespace": "other"}).json()["jobs"] == []
    assert as_role("reader", "default").delete(f"/jobs/{second['id']}").status_code == 403
    assert api.delete(f"/jobs/{second['id']}").json()["state"] == "stopped"
    api.delete(f"/jobs/{first['id']}")
    printer.go.set()
    assert ended(api, first)["state"] == "stopped"
    assert api.get("/jobs/nope").status_code == 404


def test_a_line_break_in_an_address_is_answered_like_any_other(as_role: As) -> None:
    answer = as_role().get("/edits/a%0Ab")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_edit")


def test_without_consolidation(start: StartGateway, keys: Keys) -> None:
    url = start(upstream="http://127.0.0.1:1")
    _, key = keys.create("ann", "admin", ["*"])
    answer = post(url + "/admin/v1/consolidations", json={}, headers={"authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_consolidation")


class TestJobs:
    def test_too_many_are_refused(self) -> None:
        jobs, go = Jobs(), threading.Event()

        def wait(job: Job) -> dict[str, Any]:
            while not go.is_set():
                job.say("waiting")
                time.sleep(0.005)
            return {}

        for _ in range(20):
            jobs.begin("wait", "a", {}, ANN, wait)
        with pytest.raises(Refusal, match="twenty"):
            jobs.begin("wait", "a", {}, ANN, wait)
        jobs.close()
        assert {job.state for job in jobs.all("a")} == {"stopped"}

    def test_a_job_that_fails_unexpectedly_does_not_seem_to_run_on(self) -> None:
        jobs = Jobs()

        def broken(job: Job) -> dict[str, Any]:
            raise ZeroDivisionError

        job = jobs.begin("broken", "a", {}, ANN, broken)
        jobs.close()
        assert (job.state, job.error) in (("failed", "ZeroDivisionError"), ("stopped", None))


def test_feedback_where_the_memory_keeps_it(as_role: As, memory: Memory) -> None:
    api = as_role()
    answer = api.post("/feedback", json={"query": "Was ist ein Stift?", "clarification": "The pen, not the tack."})
    if not hasattr(memory, "feedback"):
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_feedback")
        return
    assert answer.status_code == 201
    assert as_role("reader", "*").post("/feedback", json={"query": "x", "clarification": "y"}).status_code == 403


def test_a_roll_back_takes_what_was_derived_along(as_role: As, memory: Memory) -> None:
    api = as_role()
    for number in range(6):  # some ids come before those of their parents
        subject, target = f"Peru{number}", f"Cusco{number}"
        parent = memory.add(f"The capital of {subject} is", target, subject=subject, relation="capital")
        memory.add_consequences([Edit(f"{target} is the capital of", subject, subject=target, parent=parent.id)])
    memory.add("The capital of Chile is", "Arica", subject="Chile", valid_from=datetime.now(UTC) + timedelta(days=1))
    whole = {edit.id for edit in memory.state(13)}
    back = api.post("/rollback", json={"version": 0})
    assert (back.status_code, back.json()["retracted"]) == (200, 13)
    assert memory.state(memory.version) == ()
    assert api.post("/rollback", json={"version": 13}).json()["restored"] == 13
    assert {edit.id for edit in memory.state(memory.version)} == whole


def test_a_roll_back_undoes_amendments_that_keep_the_id(as_role: As, memory: Memory) -> None:
    first = memory.add("The capital of Peru is", "Cusco", subject="Peru", aliases=["PE"], tags=["a"], author="bob")
    memory.add_consequences([Edit("Cusco is the capital of", "Peru", subject="Cusco", parent=first.id)])
    other = memory.add("The capital of Peru is", "Arequipa", namespace="other")
    memory.amend(first.id, aliases=["PE", "Perú"], tags=["b"])
    before = memory.state(2)
    answer = as_role().post("/rollback", json={"version": 2}).json()
    assert (answer["retracted"], answer["restored"]) == (0, 1)
    assert set(memory.state(memory.version)) == set(before)
    assert memory.state(memory.version, "other") == (other,)
    assert {event.author for event in memory.events(after=4)} == {"ann"}


def test_a_roll_back_leaves_the_marks_of_what_is_in_the_weights(as_role: As, memory: Memory) -> None:
    edit = memory.add("The capital of Peru is", "Cusco", subject="Peru", tags=["a"])
    marks.shadow(memory, [edit], "ed1")
    memory.amend(edit.id, tags=["b", "printed:ed1"])
    assert as_role().post("/rollback", json={"version": 1}).json()["restored"] == 1
    assert memory.get(edit.id).tags == ("a", "printed:ed1")
    marks.take_back(memory, "ed1")
    as_role().post("/rollback", json={"version": 3})
    assert memory.get(edit.id).tags == ("b",)


def test_asking_keeps_nobody_from_anything_else(
    as_role: As, stub: Stub, memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, asked = threading.Event(), 0

    def slow(asker: Asker, *args: Any, **more: Any) -> tuple[str, str, Trace]:
        nonlocal asked
        asked += 1
        assert go.wait(60)
        return "", "", Trace()

    monkeypatch.setattr(Asker, "ask", slow)
    api = as_role("reader")
    with ThreadPoolExecutor(40) as clients:
        asking = [clients.submit(api.post, "/ask", json={"prompt": "x", "model": "m"}) for _ in range(40)]
        try:
            eventually(lambda: asked >= 4)
            # Other calls are answered, and what other processes write is seen.
            assert api.get("/status", timeout=30).status_code == 200
            with Memory.open(tmp_path / "facts.db", encoder=memory.encoder) as other:
                other.add("The capital of Peru is", "Cusco", subject="Peru")
            eventually(lambda: len(memory) == 1)
        finally:
            go.set()
        assert [answer.result().status_code for answer in asking] == [200] * 40


def test_refusals_of_asking(as_role: As, stub: Stub) -> None:
    api = as_role()
    for chunks, code in (
        ([b"not json"], "upstream_refused"),
        ([b"{}"], "which_model"),
    ):
        stub.chunks = chunks
        assert api.post("/ask", json={"prompt": "x"}).json()["error"]["code"] == code
    assert api.post("/ask", json={"prompt": "x", "model": "m"}).json()["error"]["code"] == "upstream_refused"
    stub.status = 500
    assert api.post("/ask", json={"prompt": "x", "model": "m"}).status_code == 502


def test_errors_have_one_tree() -> None:
    assert not issubclass(Refusal, CorrigendaError)  # refusals are answers, not failures of the library
