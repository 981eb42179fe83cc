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
