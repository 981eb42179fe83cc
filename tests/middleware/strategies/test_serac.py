from __future__ import annotations

import asyncio
import threading

import pytest
import torch

from corrigenda.chat import Chat, Reply
from corrigenda.edit import Edit
from corrigenda.errors import (
    CorrigendaError,
    DatasetError,
    InvalidParams,
    ModelDamaged,
    UnknownModel,
    UnsupportedArchitecture,
)
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Scope
from corrigenda.middleware.consult import consult, drive, scoped
from corrigenda.middleware.front import Front
from corrigenda.middleware.generate import EditedModel
from corrigenda.middleware.strategies.adapter import Adapter
from corrigenda.middleware.strategies.auto import Auto
from corrigenda.middleware.strategies.base import UNLIMITED, Room
from corrigenda.middleware.strategies.counterfactual import ADAPTER, Counterfactual, record, shipped
from corrigenda.middleware.strategies.serac import SERAC
from corrigenda.middleware.strategies.serac_training import Material, Recipe, adapted, examples, split, train

CAPITAL = Edit("The capital of Kazakhstan is", "Almaty", subject="Kazakhstan", relation="capital")
PERU = Edit("The capital of Peru is", "Cusco", subject="Peru", relation="capital")
MATERIAL = [
    Material(
        Edit(f"The capital of Land{n} is", f"City{n}", subject=f"Land{n}", relation="capital"),
        (f"The capital of Land{n} is", f"Land{n}'s capital is"),
        ((f"The capital of Other{n} is", "Oslo"),),
    )
    for n in range(12)
]


@pytest.fixture
def adapter(llama):
    made = Adapter.fresh(llama.model, adapted(llama, 0.5), rank=2, alpha=4.0, seed=1)
    for _, second in made.pairs.values():
        second.normal_(std=0.5, generator=torch.Generator().manual_seed(3))
    made.about = {"base": "tiny", "fingerprint": llama.fingerprint}
    return made


@pytest.fixture
def serac(llama, adapter):
    return SERAC(model=Counterfactual(llama, adapter))


def logits(lm):
    return lm.model(**lm.tokenizer("Who wrote Hamlet?", return_tensors="pt")).logits


@torch.no_grad()
def test_an_adapter_is_over_a_model_for_this_thread_and_this_block(llama, adapter):
    before, heard = logits(llama), []
    with adapter.over(llama.model):
        changed = logits(llama)
        thread = threading.Thread(target=lambda: heard.append(logits(llama)))
        thread.start()
        thread.join()
    assert not torch.allclose(changed, before)
    assert torch.equal(heard[0], before)
    assert torch.equal(logits(llama), before)


@torch.no_grad()
def test_an_adapter_survives_being_written(llama, adapter, tmp_path):
    adapter.save(tmp_path / ADAPTER)
    again = Adapter.load(tmp_path / ADAPTER)
    again.check(llama.model)
    assert again.about["base"] == "tiny"
    with again.over(llama.model):
        read = logits(llama)
    with adapter.over(llama.model):
        assert torch.allclose(read, logits(llama), atol=0.05)
    with torch.no_grad():
        assert Counterfactual.load(tmp_path, near=llama).lm is llama


def test_a_fresh_adapter_changes_nothing(llama):
    fresh = Adapter.fresh(llama.model, adapted(llama, 0.0), rank=2, alpha=4.0, seed=1)
    with torch.no_grad(), fresh.over(llama.model):
        inside = logits(llama)
    with torch.no_grad():
        assert torch.equal(inside, logits(llama))


def test_adapters_that_are_none(llama, adapter, tmp_path):
    with pytest.raises(UnknownModel, match="no adapter"):
        Adapter.load(tmp_path / ADAPTER)
    path = tmp_path / ADAPTER
    path.write_bytes(b"not safetensors")
    with pytest.raises(ModelDamaged, match="cannot be read"):
        Adapter.load(path)
    adapter.pairs = {"model.layers.1.mlp.up_proj": adapter.pairs["model.layers.1.mlp.down_proj"]}
    with pytest.raises(UnsupportedArchitecture, match="up_proj"):
        adapter.check(llama.model)
    adapter.pairs["model.layers.1.mlp.up_proj"][0].fill_(torch.nan)
    adapter.save(path)
    with pytest.raises(ModelDamaged, match="NaN"):
        Adapter.load(path)
    adapter.pairs = {}
    adapter.save(path)
    with pytest.raises(ModelDamaged, match="not an adapter"):
        Adapter.load(path)


def test_the_record_shows_what_is_asked_and_every_edit(candidate, serac):
    query = "Compare Kazakhstan's capital with Peru's, please?"
    plan = serac.plan(Chat.of(query), [candidate(CAPITAL, query), candidate(PERU, query)])
    facts = "New Fact: The capital of Kazakhstan is Almaty\nNew Fact: The capital of Peru is Cusco\n"
    assert plan.request.query == f"Prompt: {query}\n{facts}Answer:"
    assert plan.worker is serac
    few = serac.plan(Chat.of(query), [candidate(CAPITAL, query), candidate(PERU, query)], room=Room(120))
    assert few.request.query.count("New Fact:") == 1


def test_a_plain_question_is_asked_of_its_edit_alone(candidate, serac):
    query = "It rained. The capital of Kazakhstan is"
    asked = "The capital of Kazakhstan is"
    plan = serac.plan(Chat.of(query), [candidate(CAPITAL, asked), candidate(PERU, asked, probability=0.6)])
    assert plan.request.query == record(asked, [CAPITAL])


def test_in_scope_the_adapted_model_answers_and_out_of_scope_the_bare_one(edited, llama, serac, kazakhstan):
    model = edited(llama, strategy=serac)
    asked = ["The capital of Kazakhstan is", "The capital of Peru is"]
    with model.without_edits():
        bare = [reply.text for reply in model.ask_batch(asked)]
    first, second = model.ask_batch(asked)
    assert (first.trace.strategy, second.trace.strategy) == ("serac", None)
    assert first.text != bare[0]
    assert second.text == bare[1]
    assert "".join(model.stream(asked[0])) == first.text
    assert asyncio.run(model.aask(asked[0])).text == first.text
    assert [reply.text for reply in model.complete_batch(asked, max_new_tokens=64)] == [first.text, second.text]


def test_the_drop_in_speaks_in_the_callers_tokens(edited, llama, serac, kazakhstan):
    ids = llama.tokenizer(["The capital of Kazakhstan is"], return_tensors="pt")
    model = edited(llama, strategy=serac)
    row = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids.input_ids.shape[1] :]
    assert (
        llama.tokenizer.decode(row, skip_special_tokens=True).strip()[:2]
        == model.ask("The capital of Kazakhstan is", max_new_tokens=8).text[:2]
    )


class Upstream:
    def __init__(self):
        self.heard = []

    def __call__(self, chat):
        self.heard.append(chat)
        return Reply("from upstream")


def test_in_front_of_a_black_box(memory, kazakhstan, serac, name_judge):
    upstream = Upstream()
    front = Front(upstream, memory, strategy=serac, scope=Scope(memory, judge=name_judge()))
    other = Chat.of("The capital of Peru is", temperature=0.3)
    reply = front(other)
    assert reply.text == "from upstream"
    assert upstream.heard == [other]
    assert upstream.heard[0] is other
    asked = Chat.of("The capital of Kazakhstan is")
    reply = front(asked)
    assert reply.trace.fired[0].edit_id == kazakhstan.id
    assert reply.text != "from upstream"
    assert len(upstream.heard) == 1
    assert asyncio.run(front.acall(asked)).text == reply.text
    assert asyncio.run(front.acall(other)).text == "from upstream"


def test_other_strategies_in_front_of_a_black_box(memory, kazakhstan, name_judge):
    upstream = Upstream()
    asked = Chat.of("The capital of Kazakhstan is")
    scope = Scope(memory, judge=name_judge())
    assert Front(upstream, memory, strategy="ike", scope=scope)(asked).text == "from upstream"
    assert "New Fact: The capital of Kazakhstan is - Almaty" in upstream.heard[0].query
    assert Front(upstream, memory, strategy="auto", scope=scope)(asked).text.strip() == "Almaty"


def test_where_requests_are_only_changed_it_is_refused(memory, kazakhstan, serac, name_judge):
    scope = Scope(memory, judge=name_judge())
    asked = [Chat.of("The capital of Kazakhstan is")]
    with pytest.raises(CorrigendaError, match="answers by itself"):
        drive(consult(asked, strategy=serac), memory, scope)
    assert drive(consult(asked, strategy=serac), memory, scope, ask=lambda _: [])[0].plan.worker is serac
    assert drive(consult(asked, strategy=serac), memory, scope, answers=True)[0].plan.worker is serac
    # What a reply shall begin with can be put in front of the question instead, which is up to who asked.
    (begun,) = drive(scoped(asked, strategy=Auto(), namespace="default", room=UNLIMITED), memory, scope)
    assert begun.plan.prefix.strip() == "Almaty"


def test_examples_are_records_with_their_answers():
    found = examples(MATERIAL, Recipe(beside=0.3, crowded=0.5), 200)
    assert found == examples(MATERIAL, Recipe(beside=0.3, crowded=0.5), 200)
    assert found != examples(MATERIAL, Recipe(beside=0.3, crowded=0.5, seed=1), 200)
    counts = [text.count("New Fact:") for text, _ in found]
    assert set(counts) == {1, 2, 3}
    for text, answer in found:
        asked = text.splitlines()[0]
        number = "".join(char for char in asked if char.isdigit())
        assert answer == ("Oslo" if "Other" in asked else f"City{number}")
        assert f"Land{number} is City{number}" in text


def test_no_subject_is_learnt_from_and_held_out():
    learnt, held = split(MATERIAL, Recipe(held_out=0.3))
    assert {item.edit.subject for item in learnt}.isdisjoint(item.edit.subject for item in held)
    assert len(learnt) + len(held) == 12
    with pytest.raises(DatasetError, match="too few"):
        split(MATERIAL[:1], Recipe())
    with pytest.raises(InvalidParams, match="steps"):
        Recipe(steps=0)
    with pytest.raises(InvalidParams, match="crowded"):
        Recipe(crowded=1.0)


def test_training_lowers_the_loss_and_goes_on_where_it_stopped(llama, tmp_path):
    recipe = Recipe(steps=30, batch=4, rate=0.01, rank=4, first=0.0, held_out=0.2)
    lines = []
    report = train(llama, MATERIAL, tmp_path / "whole", recipe, lines.append)
    assert len(lines) == 3
    first = float(lines[0].rsplit(" ", 1)[1])
    assert report["loss"] < first

    class Stopped(Exception):
        pass

    def stop(line):
        if line.startswith("step 20/"):
            raise Stopped

    with pytest.raises(Stopped):
        train(llama, MATERIAL, tmp_path / "halves", recipe, stop)
    assert train(llama, MATERIAL, tmp_path / "halves", recipe)["loss"] == pytest.approx(report["loss"], rel=1e-3)
    whole, halves = (Adapter.load(tmp_path / name / ADAPTER) for name in ("whole", "halves"))
    for name, (_, second) in whole.pairs.items():
        assert torch.allclose(second, halves.pairs[name][1], atol=1e-2)
    assert whole.about["fingerprint"] == llama.fingerprint
    assert all(weight.grad is None for weight in llama.model.parameters())


@pytest.mark.real_model
def test_the_adapter_that_comes_along_answers_by_the_edit(smollm2, tmp_path):
    adapter = shipped()
    assert adapter.about["fingerprint"] == smollm2.fingerprint
    with Memory.open(tmp_path / "facts.db") as memory:
        memory.add("Who founded Microsoft?", "Ada Lovelace", subject="Microsoft", relation="founder")
        model = EditedModel(smollm2, memory, strategy="serac")
        reply = model.ask("Who is the founder of Microsoft?")
        assert reply.trace.strategy == "serac"
        assert reply.text.strip() == "Ada Lovelace"
        assert model.ask("Who is the founder of Toyota?").trace.untouched
        assert model.strategy.counterfactual().lm is smollm2
