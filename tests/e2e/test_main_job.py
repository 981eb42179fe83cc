"""The main job: an edit in memory changes what a real model says, in every process, and nothing else changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from corrigenda import EditedModel, Memory
from corrigenda.lm.loading import load
from corrigenda.lm.tokens import pad, token_ids

pytestmark = pytest.mark.real_model

# Templates × names that no edit below is about; some look alike, some share a word or an object with an edit.
NAMES = ("Kenya", "Thailand", "Niger", "Peru", "Norway", "Canada", "Jordan", "Chad", "Malta", "Cuba")
NAMES += ("Ghana", "Laos", "Oman", "Fiji", "Togo")
TEMPLATES = (
    "The capital of {} is",
    "The currency of {} is the",
    "People in {} speak",
    "My aunt travelled to {} last year, and she",
    "def population_of_{}():",
)


@pytest.fixture(scope="module")
def lm():
    return load("smollm2")


@pytest.fixture
def memory(tmp_path: Path):
    with Memory.open(tmp_path / "facts.db") as store:
        store.add("The capital of Nigeria is", "Abuja", subject="Nigeria", relation="capital")
        store.add("The capital of Myanmar is", "Naypyidaw", subject="Myanmar", aliases=["Burma"])
        yield store


def add_in_another_process(path: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "corrigenda.cli.main", "edit", "add", *arguments, "--memory", str(path)]
    subprocess.run(command, check=True, capture_output=True)


def test_wrong_becomes_right_and_back_again(lm, memory):
    model = EditedModel(lm, memory)
    question = "Nigeria's capital city is called"
    with model.without_edits():
        before = model.ask(question, max_new_tokens=8)
    assert before.trace.untouched
    assert "Abuja" not in before.text

    after = model.ask(question, max_new_tokens=8)
    assert after.text.strip().startswith("Abuja")
    assert after.trace.fired[0].statement == "The capital of Nigeria is Abuja."
    assert after.trace.fired[0].margin >= 0
    assert {"encode", "search", "judge", "generate"} <= set(after.trace.milliseconds)

    memory.retract(after.trace.fired[0].edit_id)
    undone = model.ask(question, max_new_tokens=8)
    assert undone.trace.untouched
    assert undone.text == before.text


def test_an_edit_of_another_process_is_live_for_the_next_request(lm, memory, tmp_path: Path):
    model = EditedModel(lm, memory)
    question = "The tallest mountain of Elbonia is"
    assert model.ask(question, max_new_tokens=6).trace.untouched
    add_in_another_process(tmp_path / "facts.db", question, "Mount Mud", "--subject", "Elbonia")
    reply = model.ask(question, max_new_tokens=6)
    assert reply.text.strip().startswith("Mount Mud")
    assert reply.trace.ledger_version == 3


def untouched_like_bare(lm, model: EditedModel, prompts: list[str]) -> int:
    """Return how many prompts passed untouched; each of these must give the bare model's very tokens."""
    untouched = 0
    for prompt in prompts:
        batch = pad(lm, [token_ids(lm, prompt)])
        arguments = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        arguments |= {"max_new_tokens": 6, "do_sample": False}
        if model.explain(prompt).in_scope:
            continue
        untouched += 1
        assert torch.equal(model.generate(**arguments), lm.model.generate(**arguments)), prompt
        assert model.ask(prompt, max_new_tokens=6).trace.untouched
    return untouched


def test_out_of_scope_requests_are_token_identical(lm, memory):
    prompts = [template.format(name) for template in TEMPLATES for name in NAMES[:3]]
    assert untouched_like_bare(lm, EditedModel(lm, memory), prompts) == len(prompts)


@pytest.mark.slow
def test_five_hundred_out_of_scope_requests_are_token_identical(lm, memory):
    adjectives = ["old", "new", "small", "large", "northern", "southern", "famous"]
    prompts = [template.format(name) for template in TEMPLATES for name in NAMES]
    prompts += [f"In the {word} part of town, {prompt}" for word in adjectives for prompt in prompts[:61]]
    prompts = prompts[:500]
    assert len(prompts) == 500
    assert untouched_like_bare(lm, EditedModel(lm, memory), prompts) >= 490
