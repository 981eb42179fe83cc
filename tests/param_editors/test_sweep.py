"""The layers that edits work best at, found by trying."""

from __future__ import annotations

import json

import pytest
from tiny_editing import EDITS, quick, random_statistics, same, tiny_models, weights
from typer.testing import CliRunner

from corrigenda.cli.main import app
from corrigenda.errors import InvalidParams
from corrigenda.lm.scoring import greedy
from corrigenda.param_editors.sweep import Fact, Tried, sweep, windows

FACTS = [Fact(edit, (f"Well. {edit.prompt}",), ("Hello there", "Two and two are")) for edit in EDITS]


def test_windows_are_runs_of_neighbours():
    assert windows([3, 4, 5, 6], 3) == [(3, 4, 5), (4, 5, 6)]
    assert windows([3, 5], 1) == [(3,), (5,)]
    with pytest.raises(InvalidParams, match="no 2 neighbouring"):
        windows([3, 5], 2)


def test_no_score_can_be_bought_with_another():
    assert Tried((1,), 1.0, 1.0, 0.0, 0, 0.0).score == 0
    assert Tried((1,), 1.0, 0.5, 1.0, 0, 0.0).score == pytest.approx(0.75)


def test_every_choice_is_tried_the_best_comes_first_and_nothing_stays(fresh):
    lm = fresh("llama")
    before = weights(lm)
    told = []
    found = sweep(
        lm,
        "rome",
        FACTS,
        [(0,), (1,)],
        params=quick("rome"),
        stats=random_statistics(lm),
        progress=lambda *step: told.append(step),
    )
    assert {tried.layers for tried in found} == {(0,), (1,)}
    assert found[0].score >= found[1].score
    assert told[-1] == ("edits", 6, 6)
    assert same(lm, before)
    assert json.loads(json.dumps(found[0].to_dict()))["score"] == found[0].score


def test_a_refused_edit_counts_as_failed(fresh):
    lm = fresh("llama")
    params = quick("rome", max_norm_ratio=1e-9)
    (tried,) = sweep(lm, "rome", FACTS[:1], [(1,)], params=params, stats=random_statistics(lm))
    assert (tried.refused, tried.reliability, tried.locality) == (1, 0.0, 1.0)


def test_facts_are_needed(llama):
    with pytest.raises(InvalidParams, match="needs facts"):
        sweep(llama, "rome", [], [(1,)], params=quick("rome"))


@pytest.fixture
def folder(fresh, tmp_path):
    lm = fresh("llama")
    lm.model.save_pretrained(tmp_path / "tiny")
    lm.tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def facts_file(path, answers):
    rows = [
        {
            "case_id": place,
            "requested_rewrite": {
                "prompt": edit.prompt.replace(edit.subject, "{}"),
                "subject": edit.subject,
                "target_new": {"str": edit.target},
                "target_true": {"str": answer},
            },
            "paraphrase_prompts": [f"Well. {edit.prompt}"],
            "neighborhood_prompts": ["Hello there"],
        }
        for place, (edit, answer) in enumerate(zip(EDITS, answers, strict=True))
    ]
    path.write_text(json.dumps(rows))
    return str(path)


def test_the_command_takes_facts_that_the_model_knows(folder, tmp_path):
    lm = tiny_models.tiny("llama")
    said = [answer.split() for answer in greedy(lm, [edit.prompt for edit in EDITS], max_new_tokens=8)]
    answers = [words[0] if words and words[0].isalnum() else "nothing" for words in said]
    data = facts_file(tmp_path / "facts.json", answers)
    arguments = ["sweep", data, "--method", "ft-m", "--layers", "0-2", "--width", "1", "--model", str(folder)]
    arguments += ["--params", '{"epochs": 1, "lr": 0.01}']
    if all(answer == "nothing" for answer in answers):
        assert CliRunner().invoke(app, arguments).exit_code != 0
        return
    printed = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert sorted(tried["layers"] for tried in printed["tried"]) == [[0], [1], [2]]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "best: layers" in shown.stdout


def test_unknown_facts_and_bad_params_are_refused(folder, tmp_path):
    data = facts_file(tmp_path / "facts.json", ["Xyzzy"] * 3)
    arguments = ["sweep", data, "--method", "ft-m", "--layers", "1", "--width", "1", "--model", str(folder)]
    for more, word in (
        ([], "knows no fact"),
        (["--params", "nope"], "not JSON"),
        (["--params", "[1]"], "no JSON object"),
    ):
        refused = CliRunner().invoke(app, [*arguments, *more])
        assert refused.exit_code != 0
        assert word in refused.output + str(refused.exception)
