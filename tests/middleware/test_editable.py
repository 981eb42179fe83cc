from __future__ import annotations

import pytest

from corrigenda.edit import Edit
from corrigenda.lm.scoring import greedy, score_targets
from corrigenda.memory.scope import Scope
from corrigenda.middleware.editable import IMPOSSIBLE, EditableModel, constrained_score
from corrigenda.testing import FixedEncoder

QUERY = "The capital of Kazakhstan is"
OTHER = "The capital of Peru is"
CAPITAL = Edit(QUERY, "Almaty", subject="Kazakhstan", relation="capital")


@pytest.fixture(params=["auto", "ike"])
def editable(request, llama, name_judge):
    with EditableModel(llama, strategy=request.param, encoder=FixedEncoder(32)) as model:
        model.model.scope = Scope(model.memory, judge=name_judge())
        yield model


def test_edits_are_in_force_until_they_are_reverted(editable, llama):
    bare = greedy(llama, [QUERY, OTHER], max_new_tokens=5)
    assert editable.generate([QUERY, OTHER], max_new_tokens=5) == bare
    undo = editable.edit([CAPITAL, CAPITAL])
    edited = editable.generate([QUERY, OTHER], max_new_tokens=5)
    assert edited[1] == bare[1]
    assert edited[0] != bare[0]
    if editable.model.strategy.name == "auto":  # which sees to it that the answer begins with the target
        assert edited[0].startswith(" Almaty")
    undo.revert()
    undo.revert()
    assert editable.memory.live() == ()
    assert editable.generate([QUERY, OTHER], max_new_tokens=5) == bare


def test_reverting_brings_back_what_was_superseded(editable):
    first = editable.edit([CAPITAL])
    second = editable.edit([CAPITAL.replace(target="Turkistan"), Edit("A is", "b")])
    assert {edit.target for edit in editable.memory.live()} == {"Turkistan", "b"}
    second.revert()
    assert editable.memory.live() == (CAPITAL,)
    assert editable.edit([CAPITAL]).added == ()
    first.revert()
    assert editable.memory.live() == ()


def test_no_edits_change_nothing(editable):
    editable.edit([]).revert()
    assert editable.memory.version == 0


def test_untouched_prompts_are_scored_as_the_bare_model_scores_them(editable, llama):
    editable.edit([CAPITAL])
    own, bare = editable.score([OTHER, QUERY], ["Lima", "Almaty"])[0], score_targets(llama, [OTHER], ["Lima"])[0]
    assert own.log_probs == pytest.approx(bare.log_probs, abs=1e-5)
    assert own.token_ids == bare.token_ids


def test_scores_follow_what_would_be_said(editable):
    editable.edit([CAPITAL])
    right, wrong = editable.score([QUERY, QUERY], ["Almaty", "Astana"])
    if editable.model.strategy.name == "auto":
        assert right.is_greedy
        assert right.log_prob == 0
        assert wrong.accuracy == 0
        assert wrong.mean_log_prob == pytest.approx(IMPOSSIBLE)
    else:
        assert right.log_prob < 0


@pytest.mark.parametrize(
    ("target", "certain"), [("Nur Sultan", True), ("nur", True), ("Nur Sultan City", False), ("Astana", False)]
)
def test_what_a_forced_answer_makes_certain(llama, target: str, certain: bool):
    score = constrained_score(llama, " Nur Sultan", target)
    assert score.is_greedy == certain
    assert len(score.log_probs) == len(score.token_ids) == len(score.argmax_matches) > 0


def test_closing_removes_the_memory(llama):
    model = EditableModel(llama, encoder=FixedEncoder(8))
    folder = model._folder
    assert folder.is_dir()
    model.close()
    assert not folder.exists()
