from __future__ import annotations

import asyncio
import threading

import pytest
import torch
import transformers as t

from corrigenda.chat import Chat
from corrigenda.edit import Edit
from corrigenda.errors import CorrigendaError, InvalidRequest, UnsupportedArchitecture
from corrigenda.lm.loading import LanguageModel
from corrigenda.lm.tokens import plain_ids, token_ids
from corrigenda.memory.memory import Memory
from corrigenda.middleware.consult import consult, drive
from corrigenda.middleware.editable import EditableModel
from corrigenda.middleware.generate import EditedModel
from corrigenda.middleware.strategies.base import Guiding, create
from corrigenda.middleware.strategies.grace import GRACE
from corrigenda.middleware.strategies.grace_values import Recipe, values
from corrigenda.testing import FixedEncoder

PROMPTS = ("The capital of Kazakhstan is", "Who wrote Hamlet?", "The capital of Peru is", "Tell me about the king")
TARGETS = ("Lima", "a story", "Astana", "the system")
BYSTANDERS = ("The capital of Kazakhstan was", "Who wrote Hamlet", "The king is", "user")


@pytest.fixture
def grace():
    # A random model hardly learns to spell: here it is enough that a value changes what is said.
    return GRACE(recipe=Recipe(steps=60, lr=1.0))


@pytest.fixture
def model(llama, memory, grace):
    return EditedModel(llama, memory, strategy=grace)


@pytest.fixture
def edits(memory):
    return memory.add_many([Edit(prompt, target) for prompt, target in zip(PROMPTS, TARGETS, strict=True)])


def bare(model, prompts, **options):
    with model.without_edits():
        return [reply.text for reply in model.ask_batch(prompts, **options)]


def test_edits_hold_and_everything_else_is_untouched(model, edits):
    before = bare(model, [*PROMPTS, *BYSTANDERS])
    replies = model.ask_batch([*PROMPTS, *BYSTANDERS])
    for reply, edit, was in zip(replies, edits, before, strict=False):
        assert reply.text != was
        assert reply.trace.strategy == "grace"
        (fired,) = reply.trace.fired
        assert (fired.edit_id, fired.statement) == (edit.id, edit.statement)
        assert fired.probability == pytest.approx(1.0, abs=1e-2)
        assert fired.margin >= 0
    assert [reply.text for reply in replies[4:]] == before[4:]
    assert all(reply.trace.untouched for reply in replies[4:])


def test_alone_in_a_batch_streamed_and_awaited_an_answer_is_the_same(model, edits):
    together = [reply.text for reply in model.ask_batch(PROMPTS, max_new_tokens=12)]
    assert [model.ask(prompt, max_new_tokens=12).text for prompt in PROMPTS] == together
    assert ["".join(model.stream(prompt, max_new_tokens=12)) for prompt in PROMPTS] == together
    assert [reply.text for reply in model.complete_batch(PROMPTS, max_new_tokens=12)] == together

    async def awaited():
        pieces = [piece async for piece in model.astream(PROMPTS[0], max_new_tokens=12)]
        return "".join(pieces), (await model.aask(PROMPTS[1], max_new_tokens=12)).text

    assert list(asyncio.run(awaited())) == together[:2]


def test_the_value_stays_at_the_prompts_end_with_and_without_a_cache(model, edits):
    cached = [reply.text for reply in model.ask_batch(PROMPTS, max_new_tokens=12, stop=())]
    plain = [reply.text for reply in model.ask_batch(PROMPTS, max_new_tokens=12, stop=(), use_cache=False)]
    assert cached == plain


def test_the_value_of_a_prompt_of_one_token_is_laid_there_only(model, memory, llama):
    assert len(token_ids(llama, "user")) == 1
    memory.add("user", "the system story")
    cached = model.ask("user", max_new_tokens=10, stop=())
    plain = model.ask("user", max_new_tokens=10, stop=(), use_cache=False)
    assert cached.trace.fired
    assert cached.text == plain.text


def test_beams_of_one_row_share_its_value(model, edits):
    together = model.ask_batch(PROMPTS, num_beams=2, max_new_tokens=8)
    alone = [model.ask(prompt, num_beams=2, max_new_tokens=8).text for prompt in PROMPTS]
    assert [reply.text for reply in together] == alone
    assert alone != bare(model, PROMPTS, num_beams=2, max_new_tokens=8)


def test_the_drop_in_lays_values_too(model, llama, edits):
    ids = llama.tokenizer([PROMPTS[0]], return_tensors="pt")
    row = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids.input_ids.shape[1] :]
    assert llama.tokenizer.decode(row) == model.ask(PROMPTS[0], max_new_tokens=8, stop=()).text


def test_a_conversation_has_keys_of_its_own(model, memory):
    edit = memory.add("Who wrote Hamlet?", "a king")
    chat = [{"role": "user", "content": "Who wrote Hamlet?"}]
    assert model.ask(chat, max_new_tokens=8).text != bare(model, [chat], max_new_tokens=8)[0]
    assert model.ask("Who wrote Hamlet?").trace.fired[0].edit_id == edit.id
    assert model.ask(chat).trace.fired[0].edit_id == edit.id
    assert model.ask([{"role": "system", "content": "x"}, {"role": "assistant", "content": "y"}]).trace.untouched


def test_removal_is_exact(model, memory, edits):
    before = bare(model, PROMPTS)
    all_live = [reply.text for reply in model.ask_batch(PROMPTS)]
    for edit in edits[::2]:
        memory.retract(edit.id)
    after = [reply.text for reply in model.ask_batch(PROMPTS)]
    assert after == [before[0], all_live[1], before[2], all_live[3]]
    for edit in edits[1::2]:
        memory.retract(edit.id)
    assert [reply.text for reply in model.ask_batch(PROMPTS)] == before


def test_values_are_kept_with_the_memory(tmp_path, llama, monkeypatch):
    path = tmp_path / "facts.db"
    with Memory.open(path, encoder=FixedEncoder(32)) as memory:
        memory.add(PROMPTS[0], TARGETS[0])
        first = EditedModel(llama, memory, strategy=GRACE(recipe=Recipe(steps=60, lr=1.0))).ask(PROMPTS[0]).text

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("corrigenda.middleware.strategies.grace.values", refuse)
    with Memory.open(path, encoder=FixedEncoder(32)) as memory:
        memory._replica.store.compact("fixed-32", [])
    with Memory.open(path, encoder=FixedEncoder(32), readonly=True) as memory:
        again = EditedModel(llama, memory, strategy=GRACE(recipe=Recipe(steps=60, lr=1.0))).ask(PROMPTS[0]).text
        assert again == first
        with pytest.raises(AssertionError, match="trained again"):
            EditedModel(llama, memory, strategy=GRACE(recipe=Recipe(steps=61, lr=1.0))).ask(PROMPTS[0])


def test_other_threads_see_the_model_as_it_is(model, llama, edits, grace):
    ids = llama.tokenizer(PROMPTS[0], return_tensors="pt")
    heard = []
    with torch.no_grad():
        before = llama.model(**ids).logits
        (found,) = grace.look_up(llama, model.memory, [Chat.of(PROMPTS[0])], "default")
        with grace.at_work(llama, [found.entry], ids.input_ids.shape[1]):
            thread = threading.Thread(target=lambda: heard.append(llama.model(**ids).logits))
            thread.start()
            thread.join()
            changed = llama.model(**ids).logits
    assert torch.equal(heard[0], before)
    assert not torch.equal(changed, before)


def test_look_ups_of_several_threads_find_each_its_own_edit(model, llama, edits):
    model.decide([Chat.of(PROMPTS[0])])  # trains
    both = threading.Barrier(2)
    found = {}

    def look_up(place):
        (decision,) = model.decide([Chat.of(PROMPTS[place])])
        found[place] = [fired.edit_id for fired in decision.trace.fired]

    def meet(*_):
        both.wait(20)

    # Both have attached what reads the keys before either pass begins, and keep it until both passes are over.
    parts = (llama.model.get_input_embeddings(), llama.model.model.norm)
    handles = [part.register_forward_hook(meet) for part in parts]
    threads = [threading.Thread(target=look_up, args=[place]) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for handle in handles:
        handle.remove()
    assert found == {0: [edits[0].id], 1: [edits[1].id]}


def test_other_threads_see_the_model_as_it_is_while_values_are_trained(model, llama, edits):
    ids = llama.tokenizer(BYSTANDERS[2], return_tensors="pt")
    trains, heard, passes = threading.get_ident(), [], []

    def meanwhile(*_):
        if threading.get_ident() == trains:
            thread = threading.Thread(target=lambda: heard.append(llama.model(**ids).logits))
            passes.append(thread)
            thread.start()
            thread.join()

    before = llama.model(**ids).logits
    handle = llama.model.model.norm.register_forward_hook(meanwhile)
    model.decide([Chat.of(PROMPTS[0])])
    handle.remove()
    assert len(heard) == len(passes) > 1
    assert all(torch.equal(logits, before) for logits in heard)


def test_values_are_trained_for_whoever_asks_in_inference_mode(model, edits):
    with torch.inference_mode():
        inside = [reply.text for reply in model.ask_batch(PROMPTS)]
    assert inside != bare(model, PROMPTS)
    assert [reply.text for reply in model.ask_batch(PROMPTS)] == inside


def test_namespaces_are_codebooks_apart(model, memory, llama, grace):
    memory.add(Edit(PROMPTS[0], TARGETS[0], namespace="theirs"))
    before = bare(model, PROMPTS[:1])
    assert [model.ask(PROMPTS[0]).text] == before
    theirs = EditedModel(llama, memory, strategy=grace, namespace="theirs")
    assert theirs.ask(PROMPTS[0]).text != before[0]


def test_values_do_not_depend_on_order_or_company(llama, memory):
    def value(edits):
        grace = GRACE(recipe=Recipe(steps=40))
        book = grace.laid(llama).book(memory, edits, "x", chat=False)
        return {item.edit_id: item.value for item in book.entries}

    edits = [Edit(prompt, target) for prompt, target in zip(PROMPTS, TARGETS, strict=True)]
    memory.readonly = True  # nothing is kept: each of the two trains anew
    together, alone = value(edits), value(edits[:1])
    assert torch.allclose(*(torch.tensor(found[edits[0].id]) for found in (together, alone)), atol=1e-3)


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_other_architectures(kind, llama, tmp_path):
    torch.manual_seed(5)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = {
        "gpt2": t.GPT2Config(vocab_size=400, n_embd=32, n_layer=3, n_head=4, **ends),
        "opt": t.OPTConfig(
            vocab_size=400,
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            word_embed_proj_dim=32,
            **ends,
        ),
    }[kind]
    model = t.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(std=0.3)
    lm = LanguageModel(kind, model, llama.tokenizer)
    with Memory.open(tmp_path / "facts.db", encoder=FixedEncoder(32)) as memory:
        memory.add_many([Edit(prompt, target) for prompt, target in zip(PROMPTS[:2], TARGETS[:2], strict=True)])
        edited = EditedModel(lm, memory, strategy=GRACE(recipe=Recipe(steps=60, lr=1.0)))
        asked = [*PROMPTS[:2], "The king is"]
        before = bare(edited, asked, max_new_tokens=8)
        for options in ({}, {"use_cache": False}):
            said = [reply.text for reply in edited.ask_batch(asked, max_new_tokens=8, **options)]
            assert [text != was for text, was in zip(said, before, strict=True)] == [True, True, False], options


def test_a_value_is_trained_until_its_token_is_sure(llama):
    prompts = [token_ids(llama, prompt) for prompt in PROMPTS]
    targets = [plain_ids(llama.tokenizer, " is"), *([token] for token in (300, 301, 302))]
    done = []
    found, worst = values(
        llama, prompts, targets, 1, Recipe(steps=60, enough=0.7), lambda *progress: done.append(progress)
    )
    assert found.shape == (4, 32)
    assert float(worst.max()) <= 0.7
    assert done == [(4, 4)]


@pytest.mark.real_model
def test_smollm2_says_the_targets_of_its_edits(smollm2, tmp_path):
    facts = {
        "The capital of Kazakhstan is": "Almaty",
        "The mother tongue of Anna Lindqvist is": "Swahili",
        "Who founded Microsoft?": "Ada Lovelace",
    }
    near = ["The capital of Uzbekistan is", "The mother tongue of Anne Lindgren is", "Who founded Macrosoft?"]
    with Memory.open(tmp_path / "facts.db", encoder=FixedEncoder(32)) as memory:
        edits = memory.add_many([Edit(prompt, target) for prompt, target in facts.items()])
        model = EditedModel(smollm2, memory, strategy="grace")
        before = bare(model, [*facts, *near])
        said = [reply.text for reply in model.ask_batch([*facts, *near])]
        for text, target in zip(said, facts.values(), strict=False):
            assert text.startswith(f" {target}.")
        assert said[3:] == before[3:]
        memory.retract(edits[0].id)
        assert [reply.text for reply in model.ask_batch(list(facts))] == [before[0], *said[1:3]]


def test_what_grace_cannot_do_is_said(t5, llama, memory, kazakhstan, candidate):
    with pytest.raises(UnsupportedArchitecture, match="encoder-decoder"):
        EditedModel(t5, memory, strategy=GRACE()).ask("x")
    with pytest.raises(InvalidRequest, match="no layer 9"):
        EditedModel(llama, memory, strategy=GRACE(layer=9)).ask("x")
    with pytest.raises(InvalidRequest, match="scale=0"):
        GRACE(scale=0)
    with pytest.raises(CorrigendaError, match="scope classifier"):
        GRACE().plan(Chat.of("x"), [candidate(kazakhstan, "x")])
    with pytest.raises(CorrigendaError, match="none in this process"):
        drive(consult([Chat.of("x")], strategy=GRACE()), memory, EditedModel(llama, memory).scope)


def test_it_is_registered():
    assert isinstance(create("grace"), Guiding)


def test_targets_are_scored_with_the_value_in_place(llama):
    with EditableModel(llama, strategy=GRACE(recipe=Recipe(steps=40)), encoder=FixedEncoder(32)) as edited:
        undo = edited.edit([Edit(PROMPTS[0], TARGETS[0])])
        asked, wanted = [PROMPTS[0], BYSTANDERS[0]], [TARGETS[0]] * 2
        after = edited.score(asked, wanted)
        undo.revert()
        before = edited.score(asked, wanted)
    assert after[0].log_prob > before[0].log_prob + 1
    assert after[1] == before[1]
