"""Shadows on live traffic, behind real servers; and counts of answers, from the gateway to the plan."""

from __future__ import annotations

import time

import pytest
from learned_consolidation import good_edits

pytest.importorskip("peft")
pytest.importorskip("starlette")
import httpx
from adapter_server import AdapterServer
from gateway_harness import serving

from corrigenda.chat import Fired, Trace
from corrigenda.errors import InvalidRequest
from corrigenda.lm.loading import load
from corrigenda.memory.hits import Hits, beside, read_hits
from corrigenda.middleware.gateway import server as http
from corrigenda.middleware.gateway.app import Gateway
from corrigenda.middleware.gateway.shadowing import Shadowing
from corrigenda.middleware.gateway.switching import ModelSwitch
from corrigenda.middleware.generate import EditedModel
from corrigenda.param_editors.consolidation.probation import Probation, Terms
from corrigenda.param_editors.consolidation.promotion import promote, rollback
from corrigenda.param_editors.consolidation.selection import Selection
from corrigenda.param_editors.consolidation.serving import ModelServer


def ask(url, prompt):
    body = {"model": "base", "prompt": prompt, "max_tokens": 2}
    answer = httpx.post(url + "/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


def watched(world, share=1.0):
    return Shadowing(world.memory, world.home, str(world.model), share=share)


def standings(world, *, wait_for=0):
    """How the shadows are doing, once so many looks have been noted: they come after the answer."""
    probation = Probation(world.editions, world.memory)
    until = time.monotonic() + 30
    while sum(row.asked for row in probation.standings()) < wait_for and time.monotonic() < until:
        time.sleep(0.05)
    return {row.edit.id: row for row in probation.standings(Terms(days=0, asked=1)) if row.asked}


def test_an_upstream_is_asked_for_the_adapter_alone_after_the_client_has_its_answer(world, tmp_path):
    one, other = good_edits()[:2]
    hits = Hits(tmp_path / "edits.db.hits")
    with AdapterServer(world.model) as upstream:
        switch = ModelSwitch(world.home, "base")
        gateway = Gateway(world.memory, upstream=upstream.url, switch=switch, hits=hits, shadowing=watched(world))
        with serving(http.config(gateway.app, gateway.settings, port=0, log_level="critical")) as url:
            ask(url, one.prompt)
            assert len(upstream.log) == 1  # nothing is printed yet: nobody to look at
            change = promote(
                world.editions, world.run().job, world.memory, kind="lora", servers=[ModelServer(upstream.url)]
            )
            upstream.log.clear()
            assert "x-corrigenda-trace" in ask(url, one.prompt).headers
            found = standings(world, wait_for=1)
            assert [(row.edit.id, row.asked, row.right, row.due) for row in found.values()] == [(one.id, 1, 1, True)]
            assert upstream.log == [f"/v1/completions {change.edition}"] * 2  # the client's request, and the look
            ask(url, "The shape of Lodell")
            rollback(world.editions, change.edition, world.memory, servers=[ModelServer(upstream.url)])
            ask(url, other.prompt)
    assert standings(world) == {}
    assert read_hits(hits.path) == {one.id: 2, other.id: 1}
    plan = world.plan(selection=Selection(min_hits=2), hits=read_hits(hits.path))
    assert [edit.id for edit in plan.edits] == [one.id]


def test_a_local_model_is_asked_only_where_it_is_the_edition_in_force(world):
    one = good_edits()[0]
    change = promote(world.editions, world.run().job, world.memory, kind="checkpoint")
    for served, looks in ((world.model, 0), (change.path, 1)):
        edited = EditedModel(load(str(served)), world.memory)
        gateway = Gateway(world.memory, model=edited, shadowing=watched(world))
        with serving(http.config(gateway.app, gateway.settings, port=0, log_level="critical")) as url:
            ask(url, one.prompt)
        found = standings(world, wait_for=looks)
        assert [(row.asked, row.right) for row in found.values()] == [(1, 1)] * looks


def test_no_share_no_looks_and_shares_that_mean_nothing(world):
    promote(world.editions, world.run().job, world.memory, kind="delta")
    never = watched(world, share=0.0)
    never.alone = lambda *given: pytest.fail("nobody was to be asked")
    edit = good_edits()[0]
    never.note("completions", b"{}", Trace((Fired(edit.id, 0.9, 0.4, edit.statement),)))
    with pytest.raises(InvalidRequest, match="share"):
        watched(world, share=1.5)


def test_counts_survive_a_file_that_cannot_be_written_and_add_up_over_processes(tmp_path):
    hits, more = Hits(tmp_path / "nowhere" / "a.hits"), Hits(tmp_path / "b.hits")
    hits.note(["e1", "e1", "e2"])
    hits.flush()
    hits.path.parent.mkdir()
    hits.note(["e1"])
    hits.flush()
    hits.flush()
    assert read_hits(hits.path) == {"e1": 3, "e2": 1}
    other = Hits(more.path)
    for one in (more, other):
        one.note(["e3"])
        one.flush()
    assert read_hits(more.path) == {"e3": 2}
    assert beside("facts.db").name == "facts.db.hits"
    assert beside("redis://localhost:6379/0#facts") is None


def test_counts_of_others_are_read_too(tmp_path):
    path = tmp_path / "hits"
    path.write_text('{"e1": 3}')
    assert read_hits(path) == {"e1": 3}
    path.write_text("e1 2026-01-01\ne2\n\ne1\n")
    assert read_hits(path) == {"e1": 2, "e2": 1}
    for wrong in ('{"e1": [', '{"e1": []}'):
        path.write_text(wrong)
        with pytest.raises(InvalidRequest, match="cannot be read"):
            read_hits(path)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_hits(tmp_path / "missing")
