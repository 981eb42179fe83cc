from __future__ import annotations

import json
import urllib.request

import pytest
from learned import colour
from learned_consolidation import EDITED, good_edits

from corrigenda.errors import InvalidRequest, ModelDamaged, ServerRefused
from corrigenda.param_editors.consolidation.promotion import promote, rollback
from corrigenda.param_editors.consolidation.selection import Selection
from corrigenda.param_editors.consolidation.serving import ModelServer

pytest.importorskip("peft")
from adapter_server import AdapterServer


@pytest.fixture
def server(world):
    with AdapterServer(world.model) as running:
        yield running


def said(server, model, prompt):
    body = json.dumps({"model": model, "prompt": prompt, "max_tokens": 2}).encode()
    request = urllib.request.Request(server.url + "/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())["choices"][0]["text"].split(".")[0].strip()


def test_adapters_are_loaded_before_they_are_in_force_and_old_ones_stay_asked_for(world, server):
    target = ModelServer(server.url)
    ids = [one.id for one in good_edits()]
    first = good_edits()[0]
    old = world.run(world.plan(selection=Selection(ids=tuple(ids[:4]))))
    one = promote(world.editions, old.job, world.memory, kind="lora", servers=[target])
    assert target.models()[one.edition] == str(one.path.resolve())
    assert said(server, one.edition, first.prompt) == first.target
    assert said(server, "base", first.prompt) == colour(first.subject)
    new = world.run(world.plan(selection=Selection(ids=tuple(ids[4:]))))
    two = promote(world.editions, new.job, world.memory, kind="lora", servers=[target])
    # The adapter of the second edition holds both promotions: a request names one.
    last = good_edits()[-1]
    assert [said(server, two.edition, edit.prompt) for edit in (first, last)] == [first.target, last.target]
    assert said(server, one.edition, last.prompt) == colour(last.subject)
    back = rollback(world.editions, two.edition, world.memory, servers=[target])
    assert back.edition == one.edition
    assert said(server, back.edition, first.prompt) == first.target
    assert len(EDITED) == len(ids)


def test_what_a_server_does_not_take_is_not_promoted(world, server):
    result = world.run()
    server.max_rank = 2
    with pytest.raises(ServerRefused, match=r"max_lora_rank(.|\n)*--max-lora-rank"):
        promote(world.editions, result.job, world.memory, kind="lora", servers=[ModelServer(server.url)])
    assert world.editions.current().edition is None
    server.max_rank = 64
    change = promote(world.editions, result.job, world.memory, kind="lora", servers=[ModelServer(server.url)])
    assert change.edition in server.roots


def test_names_are_pinned_to_what_was_loaded(world, server, tmp_path):
    target = ModelServer(server.url + "/v1", key="secret")
    change = promote(world.editions, world.run().job, world.memory, kind="lora")
    assert target.load(change.path) == target.load(change.path) == change.edition
    assert sum("load_lora_adapter" in line for line in server.log) == 1
    server.roots[change.edition] = "/somewhere/else"
    with pytest.raises(ServerRefused, match="another adapter"):
        target.load(change.path)
    target.unload(change.edition)
    target.unload(change.edition)
    assert change.edition not in server.roots
    (change.path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelDamaged):
        target.load(change.path)


def test_servers_that_are_not_there_or_no_such_servers(world, server):
    change = promote(world.editions, world.run().job, world.memory)
    with pytest.raises(InvalidRequest, match="servers load adapters"):
        ModelServer(server.url).load(change.path)
    with pytest.raises(ServerRefused, match="does not answer"):
        ModelServer("http://127.0.0.1:9", seconds=2).models()
    with pytest.raises(InvalidRequest, match="not the URL"):
        ModelServer("file:///etc")
    with pytest.raises(ServerRefused, match="does not list"):
        ModelServer(server.url + "/x/v1").models()
