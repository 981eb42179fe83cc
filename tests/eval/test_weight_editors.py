"""Editors of weights through the protocols of many edits."""

from __future__ import annotations

import pytest
from scripted_methods import make_case

from corrigenda.eval.asking import Columns
from corrigenda.eval.journal import Journal
from corrigenda.eval.metrics import metrics
from corrigenda.eval.protocol import Run
from corrigenda.eval.scoring import scores_of

LANDS = [make_case(str(number), f"Land {number}", f"Town {number}") for number in range(4)]


@pytest.fixture
def weights(tmp_path):
    """An editor of weights on a tiny model of its own; returns the method and how often the editor was at work."""
    from tiny_editing import quick, random_statistics, tiny_models

    from corrigenda.cli.eval_methods import Weights
    from corrigenda.eval.contexts import COMPLETION
    from corrigenda.param_editors.editable import EditedWeights

    lm = tiny_models.tiny("llama")
    stats = random_statistics(lm)

    def weights():
        edited = EditedWeights(lm, "memit", params=quick("memit"), stats=stats, keep=tmp_path / "kept")
        made = []
        apply = edited.editor.apply

        def counted(*arguments, **options):
            made.append(1)
            return apply(*arguments, **options)

        edited.editor.apply = counted
        return Weights(edited, COMPLETION), made

    return weights


@pytest.mark.parametrize("protocol", ["batch", "sequential", "stream"])
def test_editors_of_weights_go_through_every_protocol(weights, budget, protocol):
    method, made = weights()
    settings = {"retracted": 0.4} if protocol == "stream" else {}
    columns = Columns(success=True, divergence=True)
    run = Run(method, method, budget, protocol=protocol, together=2, columns=columns, checkpoints=(2,), **settings)
    rows = run(LANDS[:4])  # the suite itself checks that the undo left no trace
    found = metrics([scores_of(row) for row in rows])
    assert found["locality_kl"].value >= 0
    assert found["locality"].n == 4 - 2 * (protocol == "stream")
    assert len(made) >= (2 if protocol == "batch" else 4)


def test_a_killed_sequence_of_weight_edits_goes_on_where_it_stopped(weights, budget):
    cases = LANDS[:3]
    method, made = weights()

    def stop(stage, done, total):
        if stage == "score":
            raise KeyboardInterrupt

    journal = Journal()
    with pytest.raises(KeyboardInterrupt):
        Run(method, method, budget, protocol="sequential", journal=journal, batch=1, progress=stop)(cases)
    assert (len(made), len(journal.rows)) == (3, 1)
    assert method.edited.chain == []  # what stopped the run has not left the weights edited
    again, made = weights()
    rows = Run(again, again, budget, protocol="sequential", journal=journal, batch=1)(cases)
    assert made == []
    assert [row["case"] for row in rows] == ["0", "1", "2"]
