"""lm-evaluation-harness with an edited model; the adapter's arithmetic needs no harness."""

from __future__ import annotations

import json

import pytest
from tiny_editing import tiny_models

from corrigenda.cli.eval_harness import figures_of
from corrigenda.edit import Edit
from corrigenda.errors import MissingExtra
from corrigenda.eval.editable import Bare
from corrigenda.eval.harness import continuations, harness_model, loglikelihoods
from corrigenda.lm.scoring import TargetScore, score_targets


class Model:
    """Scores by the length of the target; continues with a fixed text."""

    def generate(self, prompts, *, max_new_tokens):
        return [f" {prompt.upper()}. More\nand more"[: 4 * max_new_tokens] for prompt in prompts]

    def score(self, prompts, targets):
        return [TargetScore((-float(len(target)),), (target == " yes",)) for target in targets]


def test_continuations_are_cut_at_the_stops_of_each_request():
    requests = [
        ("a", {"until": ["\n"]}),
        ("b", {"until": ". ", "max_gen_toks": 100}),
        ("c", {}),
        ("d", {"until": ["zzz"], "max_gen_toks": 1}),
    ]
    assert continuations(Model(), requests) == [" A. More", " B", " C. More\nand more", " D. "]


def test_loglikelihoods():
    lm = tiny_models.cached("llama")
    pairs = [("Is it?", " yes"), ("", "a text"), ("Is it?", " no")]
    found = loglikelihoods(Model(), lm, pairs)
    assert found[0] == (-4.0, True)
    assert found[2] == (-3.0, False)
    # a text by itself is scored by the weights, whatever the method: after the end-of-text token
    assert found[1][0] < 0
    assert found[1] == loglikelihoods(Bare(lm), lm, pairs)[1]


def test_a_continuation_is_scored_as_the_harness_wrote_it():
    lm = tiny_models.cached("llama")
    (close, spaced) = loglikelihoods(Bare(lm), lm, [("It is (", "B)"), ("It is (", " B)")])
    assert close != spaced
    assert spaced[0] == pytest.approx(score_targets(lm, ["It is ("], ["B)"])[0].log_prob, abs=1e-4)


def test_the_bare_model_stops_where_it_is_told():
    lm = tiny_models.cached("llama")
    (whole,) = Bare(lm).continue_until(["The capital"], max_new_tokens=12, stops=())
    mark = whole[3:5]
    (cut,) = Bare(lm).continue_until(["The capital"], max_new_tokens=12, stops=(mark,))
    assert mark not in cut
    assert whole.startswith(cut)


def test_figures_of_several_filters_are_kept_apart():
    found = {"gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.1, "exact_match,flexible-extract": 0.3}}
    found["piqa"] = {"acc,none": 0.6, "acc_stderr,none": 0.01}
    assert figures_of(found) == {
        "gsm8k": {"exact_match,strict-match": 0.1, "exact_match,flexible-extract": 0.3},
        "piqa": {"acc": 0.6, "acc_stderr": 0.01},
    }


def test_without_the_harness_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.api.model", None)
    with pytest.raises(MissingExtra, match=r"pip install 'corrigenda\[lm-eval\]'"):
        harness_model(Model(), None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["none", "auto"])
def test_the_harness_scores_an_edited_model(tmp_path, method):
    pytest.importorskip("lm_eval")
    from corrigenda.cli.eval_harness import run_harness

    rows = [{"q": f"Question {number}?", "choices": ["yes", "no"], "gold": number % 2} for number in range(4)]
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    task = {
        "task": "tiny",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.json")}, "cache_dir": str(tmp_path / "cache")},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}],
    }
    edits = [Edit("The capital of France is", "Lyon", subject="France")]
    found = run_harness(tiny_models.cached("llama"), method, edits, [task], None)
    assert found["tiny"]["acc"] in (0.0, 0.25, 0.5, 0.75, 1.0)
