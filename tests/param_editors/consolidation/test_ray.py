from __future__ import annotations

import os
import signal
import time
import warnings

import pytest
import torch
from learned import facts
from learned_consolidation import child_environment, same, weights_of

from corrigenda.errors import PlanOutdated, UnknownName
from corrigenda.lm.loading import load
from corrigenda.lm.tokens import token_ids
from corrigenda.param_editors.consolidation.engine import LocalEngine, in_order, start_engine
from corrigenda.param_editors.consolidation.job import run
from corrigenda.param_editors.consolidation.moments import summed
from corrigenda.param_editors.consolidation.promotion import promote

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        environment = {"PYTHONPATH": child_environment()["PYTHONPATH"], "OMP_NUM_THREADS": "1"}
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100 << 20,
            log_to_driver=False,
            runtime_env={"env_vars": environment},
        )
    yield
    ray.shutdown()


def first_weight(lm, piece):
    """A task that sees whether the job's weights have arrived."""
    return float(dict(lm.model.named_parameters())[piece].sum())


def dies_once(lm, piece):
    """A task that takes its worker down the first time."""
    if not os.path.exists(piece):
        with open(piece, "w"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def test_workers_have_the_weights_of_the_job_as_they_are_now(cluster, learned_model):
    lm = load(learned_model)
    engine = start_engine("ray", lm, str(learned_model))
    name = "model.layers.0.mlp.down_proj.weight"
    weight = dict(lm.model.named_parameters())[name].data
    plain = float(weight.sum())
    assert in_order(engine.run(first_weight, [name, name], {})) == [plain, plain]
    changed = weight + 1
    assert in_order(engine.run(first_weight, [name], {name: changed})) == [float(changed.sum())]
    assert in_order(engine.run(first_weight, [name], {name: weight})) == [plain]
    assert in_order(engine.run(first_weight, [name], {})) == [plain]
    engine.close()


def test_a_lost_worker_is_made_up_for(cluster, learned_model, tmp_path):
    engine = start_engine("ray", load(learned_model), str(learned_model))
    (pid,) = in_order(engine.run(dies_once, [str(tmp_path / "died")], {}))
    assert pid != os.getpid()
    assert (tmp_path / "died").exists()


def test_local_and_ray_print_the_same_weights(cluster, world):
    plan = world.plan()
    local = run(plan, world.home, engine="local")
    here = weights_of(promote(world.editions, local.job, world.memory).path)
    world.home = world.home.with_name("on-ray")
    began = time.perf_counter()
    there = run(plan, world.home, engine="ray")
    assert time.perf_counter() - began < 300
    assert there.kept == local.kept
    assert there.figures == local.figures
    far = weights_of(promote(world.editions, there.job, world.memory).path)
    assert all(torch.allclose(here[name], far[name], rtol=0, atol=1e-5) for name in here)
    assert same(here, far)  # the same pieces, the same additions: not a bit differs


def test_second_moments_add_up_alike(cluster, learned_model):
    lm = load(learned_model)
    rows = [token_ids(lm, fact) for fact in facts()] * 3
    here = summed(LocalEngine(lm), [0, 1], rows, lambda *said: None)
    there = summed(start_engine("ray", lm, str(learned_model)), [0, 1], rows, lambda *said: None)
    assert all(torch.equal(here[layer].matrix, there[layer].matrix) for layer in (0, 1))
    assert here[0].tokens == sum(map(len, rows))


def test_another_model_on_a_worker_is_refused(cluster, learned_model, tmp_path):
    lm = load(learned_model)
    other = load(learned_model)
    other.model.lm_head.weight.data.mul_(2)
    other.model.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    engine = start_engine("ray", lm, str(tmp_path / "other"))
    with pytest.raises(PlanOutdated, match="another model"):
        in_order(engine.run(first_weight, ["lm_head.weight"], {}))
    with pytest.raises(UnknownName, match="Known: local, ray"):
        start_engine("spark", lm, str(learned_model))
