from __future__ import annotations

import json

import pytest
from learned import colour
from learned_consolidation import good_edits

pytest.importorskip("peft")
pytest.importorskip("starlette")
import httpx
import uvicorn
from adapter_server import AdapterServer
from gateway_harness import serving

from corrigenda.memory.memory import Memory
from corrigenda.middleware.gateway.app import Gateway
from corrigenda.middleware.gateway.switching import ModelSwitch
from corrigenda.param_editors.consolidation.promotion import promote, rollback
from corrigenda.param_editors.consolidation.serving import ModelServer
from corrigenda.testing import FixedEncoder


@pytest.fixture
def behind(world, tmp_path):
    """A server of adapters behind a gateway without edits of its own: what answers is the weights."""
    with (
        AdapterServer(world.model) as server,
        Memory.open(tmp_path / "none.db", encoder=FixedEncoder()) as nothing,
    ):
        switch = ModelSwitch(world.home, "base")
        gateway = Gateway(nothing, upstream=server.url, switch=switch)
        with serving(uvicorn.Config(gateway.app, port=0, log_level="error", lifespan="on")) as url:
            yield server, url


def test_the_gateway_asks_for_the_edition_in_force_and_for_the_base_after_rollback(world, behind):
    server, url = behind
    edit = good_edits()[0]

    def said():
        body = {"model": "base", "prompt": edit.prompt, "max_tokens": 2}
        answer = httpx.post(url + "/v1/completions", json=body, timeout=60).json()
        return answer["model"], answer["choices"][0]["text"].split(".")[0].strip()

    assert said() == ("base", colour(edit.subject))
    job = world.run().job
    target = ModelServer(server.url)
    change = promote(world.editions, job, world.memory, kind="lora", servers=[target])
    assert said() == (change.edition, edit.target)
    rollback(world.editions, change.edition, world.memory, servers=[target])
    assert said() == ("base", colour(edit.subject))
    whole = promote(world.editions, job, world.memory, kind="checkpoint")
    assert said()[0] == "base"  # a checkpoint is not something that a server loads beside the base
    assert whole.edition


def test_only_the_name_changes(world):
    change = promote_lora(world)
    switch = ModelSwitch(world.home, "base")
    data = b'{ "messages": [{"content": "say \\"model\\": \\"base\\""}],\n "model" : "base", "temperature": 0.70 }'
    assert switch(data) == data.replace(b' : "base"', b' : "' + change.edition.encode() + b'"')
    for other in (b'{"model": "gpt"}', b"no json", b"[1]", b'{"model": ["base"]}'):
        assert switch(other) == other
    twice = json.dumps({"metadata": {"model": "base"}, "model": "base"}).encode()
    assert json.loads(switch(twice)) == {"metadata": {"model": "base"}, "model": change.edition}


def promote_lora(world):
    return promote(world.editions, world.run().job, world.memory, kind="lora")
