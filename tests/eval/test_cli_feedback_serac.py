from __future__ import annotations

import json

import pytest

from corrigenda.middleware.strategies.adapter import Adapter
from corrigenda.middleware.strategies.counterfactual import ADAPTER

ROWS = [
    {
        "case_id": number,
        "requested_rewrite": {
            "prompt": "The capital of {} is",
            "relation_id": "P36",
            "target_new": {"str": f"City{number}"},
            "target_true": {"str": "Paris"},
            "subject": f"Land{number}",
        },
        "paraphrase_prompts": [f"Land{number}'s capital is"],
        "neighborhood_prompts": [f"The capital of Other{number} is"],
    }
    for number in range(4)
]
WORDING = {
    "type": "syn",
    "template_id": "syn0",
    "question": "What is akin to < {word1} > ?",
    "clarification": "clarification: I want a synonym.",
    "answer": "the synonym for {word1} is {word2}",
}


def test_serac_is_trained_from_records(call, tiny, tmp_path):
    data = tmp_path / "facts.json"
    data.write_text(json.dumps(ROWS))
    arguments = ("serac", "train", "-d", data, "--out", tmp_path / "out", "--steps", 2, "--dtype", "float32")
    report = json.loads(call(*arguments, "--model", tiny, "--json").stdout)
    assert (report["learnt_from"], report["held_out"]) == (3, 1)
    adapter = Adapter.load(tmp_path / "out" / ADAPTER)
    assert adapter.about["report"] == report
    assert json.loads((tmp_path / "out" / "serac.json").read_text())["recipe"]["steps"] == 2
    assert not (tmp_path / "out" / "training.pt").exists()
    assert "answered by their target" in call(*arguments, "--model", tiny).stdout


@pytest.mark.real_model
def test_memprompt_is_simulated(call, tiny, tmp_path):
    (tmp_path / "templates.json").write_text(json.dumps({"ling": [WORDING]}))
    rows = [{"meta": {"word1": f"a{n}", "word2": "b"}, "type": "syn", "template_id": "syn0"} for n in range(7)]
    data = tmp_path / "ling.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    arguments = ("eval", "memprompt", "-d", data, "--limit", 4, "--tells", 1.0, "--shots", 1, "--batch", 2)
    found = json.loads(call(*arguments, "--model", tiny, "--json").stdout)
    assert (found["shots"], found["without"]["n"], found["with_feedback"]["n"]) == (1, 4, 4)
    assert found["without"]["told"] == 0
    assert found["with_feedback"]["told"] == 4  # random weights understand nothing
    assert "by quarter" in call(*arguments, "--model", tiny).stdout
    few = call(*arguments, "--shots", 7, "--model", tiny, code=2)
    assert "all of which are examples" in few.output
