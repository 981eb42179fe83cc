from __future__ import annotations

import pytest
from kill_nine_consolidation import rounds


@pytest.mark.slow
def test_a_killed_job_leaves_the_old_model_or_the_new_one_and_goes_on(tmp_path, learned_model):
    kills = rounds(20, 1, learned_model, tmp_path)
    assert sum(kill.died for kill in kills) >= 20
    assert {kill.stage for kill in kills} == {"run", "promote", "rollback"}
