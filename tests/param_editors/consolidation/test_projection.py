from __future__ import annotations

import pytest

from corrigenda.param_editors.consolidation.projection import Throughput, project

MEASURED = Throughput(target=2.0, key=0.5, solve=1.0, question=0.1, batch=100, trials=2.0)


def test_a_run_like_the_measured_one_takes_as_long():
    found = project(MEASURED, 100, batch=100, questions=50)
    assert found["targets"] == pytest.approx(200)
    assert found["keys"] == pytest.approx(100)
    assert found["solve"] == pytest.approx(2)
    assert found["gate"] == pytest.approx(0.1 * (50 * 3 + 2 * 100))
    assert found["total"] == pytest.approx(sum(found[name] for name in ("targets", "keys", "solve", "gate")))


def test_workers_share_everything_but_the_algebra():
    one = project(MEASURED, 1_000, batch=200, questions=50)
    four = project(MEASURED, 1_000, batch=200, questions=50, workers=4, efficiency=0.8)
    assert four["targets"] == pytest.approx(one["targets"] / 3.2)
    assert four["solve"] == one["solve"]
    assert one["solve"] == pytest.approx(2 * 5 * 4)
