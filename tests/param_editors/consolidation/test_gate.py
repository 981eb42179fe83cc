from __future__ import annotations

import pytest

from corrigenda.param_editors.consolidation.gate import GatePlan


def row(before, after):
    return {"before": before, "after": after, "asked": 200}


@pytest.mark.parametrize(
    ("figures", "share"),
    [
        ({"neighbours": row(1.0, 0.7)}, 0.5),
        ({"neighbours": row(1.0, 0.7), "piqa": row(0.70, 0.66)}, 0.25),
        ({"neighbours": row(1.0, 0.9), "piqa": row(0.70, 0.695)}, None),
        ({"edits": row(0.0, 0.5), "neighbours": row(1.0, 0.7)}, 0.5),  # edits that fail are dropped one by one
        ({"neighbours": row(0.8, 0.7)}, None),  # it was never good enough
        ({}, None),
    ],
)
def test_the_share_of_a_loss_that_is_allowed_is_of_the_figure_that_misses_most(figures, share):
    plan = GatePlan(minimums={"edits": 0.9, "neighbours": 0.85}, max_drops={"piqa": 0.01})
    assert plan.share(figures) == (share if share is None else pytest.approx(share))


def test_a_model_that_says_nan_chooses_nothing(monkeypatch):
    from types import SimpleNamespace

    from corrigenda.param_editors.consolidation import questions

    scores = [SimpleNamespace(log_prob=float("nan"))] * 2 + [SimpleNamespace(log_prob=value) for value in (-2.0, -1.0)]
    monkeypatch.setattr(questions, "score_targets", lambda *args, **options: scores)
    monkeypatch.setattr(questions, "greedy", lambda *args, **options: [])
    asked = [questions.Question("Who wrote Hamlet?", options=("Shakespeare", "Smith"))] * 2
    assert questions.answer_task(None, asked) == [-1, 1]
