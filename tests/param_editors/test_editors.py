"""One suite for all editors: they edit, they undo to the bit, and they refuse in time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_editing import EDITS, QUICK, quick, random_statistics, same, tiny_models, weights

from corrigenda.edit import Edit
from corrigenda.errors import (
    InvalidEdit,
    InvalidParams,
    InvalidRequest,
    MissingStatistics,
    ModelDamaged,
    NotRevertible,
    SubjectNotFound,
    UnknownName,
    UnstableUpdate,
    UnsupportedArchitecture,
)
from corrigenda.lm.scoring import score_targets
from corrigenda.param_editors import editor as editor_module
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.editable import EditedWeights
from corrigenda.param_editors.editor import editor, editors
from corrigenda.param_editors.update import Consolidation

METHODS = sorted(QUICK)
LOCATING = [name for name in METHODS if not name.startswith("ft")]


def log_prob(lm, edit=EDITS[0]):
    return score_targets(lm, [edit.prompt], [edit.target])[0].log_prob


def apply(name, lm, edits=EDITS, **more):
    return editor(name).apply(lm, edits, params=quick(name), stats=random_statistics(lm), **more)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gptj"])
def test_an_edit_makes_its_target_likelier_and_reverts_to_the_bit(name, architecture, fresh):
    lm = fresh(architecture)
    before, was = weights(lm), [log_prob(lm, edit) for edit in EDITS]
    done = apply(name, lm)
    assert sum(log_prob(lm, edit) for edit in EDITS) > sum(was) + 2
    written = {update.name for update in done.updates}
    assert {key for key, value in lm.model.state_dict().items() if not torch.equal(value, before[key])} == written
    assert done.max_ratio > 0
    assert done.seconds
    done.revert()
    assert same(lm, before)
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_no_edits_change_nothing(name, llama):
    before = weights(llama)
    done = apply(name, llama, [])
    assert same(llama, before)
    done.revert()
    assert same(llama, before)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_bits_and_the_global_random_state_is_left_alone(name, fresh):
    found = []
    for _ in range(2):
        lm = fresh("llama")
        torch.manual_seed(11)
        state = torch.get_rng_state()
        apply(name, lm, EDITS[:1], seed=5)
        assert torch.equal(torch.get_rng_state(), state)
        found.append(weights(lm))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_consolidation_comes_back_whole(name, llama, tmp_path):
    before = weights(llama)
    done = apply(name, llama)
    after = weights(llama)
    path = done.save(tmp_path / "sub" / "done.safetensors")
    again = Consolidation.load(path, llama)
    assert (again.method, again.edits, again.notes, again.max_ratio) == (name, tuple(EDITS), done.notes, done.max_ratio)
    assert editor(name).params_type.from_dict(again.params) == quick(name)
    again.revert()
    assert same(llama, before)
    again.write()
    assert same(llama, after)
    state = {key: value.clone() for key, value in before.items()}
    again.merge_into(state)
    assert all(torch.equal(state[key], after[key]) for key in after)


REVERT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from tiny_editing import tiny_models
from corrigenda.param_editors.update import Consolidation
lm = tiny_models.tiny("llama")
before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
for path in sys.argv[2:]:
    Consolidation.load(path).write(lm)
changed = not all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())
for path in reversed(sys.argv[2:]):
    Consolidation.load(path).revert(lm)
print(changed and all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items()))
"""


def test_undo_is_exact_after_1_10_and_100_edits_also_in_another_process(llama, tmp_path):
    before = weights(llama)
    stats = random_statistics(llama)
    params = quick("rome", v_steps=1, clamp=0.5, max_norm_ratio=1e6)
    for count in (1, 10, 100):
        chain = []
        for place in range(count):
            edit = Edit(f"Person {place} was born in", "Rome", subject=f"Person {place}")
            chain.append(editor("rome").apply(llama, [edit], params=params, stats=stats, contexts=(("",),)))
        assert not same(llama, before)
        for done in reversed(chain):
            done.revert()
        assert same(llama, before)
    paths = [str(done.save(tmp_path / f"{place}.safetensors")) for place, done in enumerate(chain)]
    folder = str(Path(__file__).parent)
    ran = subprocess.run([sys.executable, "-c", REVERT, folder, *paths], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "True", ran.stderr


def test_updates_revert_in_order_only(llama):
    first = apply("memit", llama, EDITS[:1])
    middle = weights(llama)
    second = apply("memit", llama, EDITS[1:])
    with pytest.raises(NotRevertible, match="last one first"):
        first.revert()
    second.revert()
    assert same(llama, middle)
    with pytest.raises(NotRevertible):
        second.revert()
    first.revert()


def test_a_consolidation_from_a_file_needs_its_model(llama, tmp_path):
    path = apply("rome", llama).save(tmp_path / "done.safetensors")
    with pytest.raises(InvalidRequest, match="read from a file"):
        Consolidation.load(path).revert()
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(ModelDamaged):
        Consolidation.load(tmp_path / "junk")
    with pytest.raises(ModelDamaged):
        Consolidation.load(tmp_path / "absent")
    with pytest.raises(InvalidRequest, match="missing"):
        Consolidation.load(path).merge_into({})


@pytest.mark.parametrize("name", METHODS)
def test_exploding_updates_are_refused_and_nothing_is_written(name, llama):
    before = weights(llama)
    params = quick(name, max_norm_ratio=1e-6)
    with pytest.raises(UnstableUpdate, match="at most 1e-06"):
        editor(name).apply(llama, EDITS, params=params, stats=random_statistics(llama))
    assert same(llama, before)


@pytest.mark.parametrize("name", ["memit", "ft-m"])
def test_what_is_not_finite_is_refused_and_nothing_is_written(name, llama):
    llama.model.model.norm.weight.data[0] = float("nan")
    before = weights(llama)
    with pytest.raises(UnstableUpdate, match="not finite"):
        apply(name, llama)
    assert all(
        torch.equal(a.nan_to_num(9), b.nan_to_num(9))
        for a, b in zip(llama.model.state_dict().values(), before.values(), strict=True)
    )


@pytest.mark.parametrize("name", ["memit", "ft-m", "rome"])
def test_an_interrupted_edit_leaves_the_model_as_it_was(name, llama):
    before = weights(llama)

    def stop(stage, done, total):
        if stage in ("layers", "epochs", "edits"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(name, llama, progress=stop)
    assert same(llama, before)
    assert not any(parameter.requires_grad for parameter in llama.model.parameters())


def test_half_precision_says_what_rounding_cost_and_reverts(llama):
    llama.model.to(torch.bfloat16)
    before = weights(llama)
    done = apply("memit", llama, EDITS[:1])
    assert 0 < done.updates[0].rounding < 1
    assert all(update.original.dtype == torch.bfloat16 for update in done.updates)
    done.revert()
    assert same(llama, before)
    small = editor("memit").apply(
        llama, EDITS[:1], params=quick("memit", moment_weight=1e4), stats=random_statistics(llama)
    )
    assert any("rounding to torch.bfloat16 lost" in note for note in small.notes)


@pytest.mark.parametrize("name", ["rome", "ft-m"])
def test_quantised_weights_are_refused_with_the_remedy(name, fresh):
    lm = fresh("llama")
    lm.model.model.layers[1].mlp.down_proj.weight = torch.nn.Parameter(
        torch.zeros(32, 48, dtype=torch.int8), requires_grad=False
    )
    with pytest.raises(UnsupportedArchitecture, match="quantised"):
        apply(name, lm)
    lm = fresh("llama")
    lm.model.is_quantized = True
    with pytest.raises(UnsupportedArchitecture, match="unquantised checkpoint"):
        apply(name, lm)


@pytest.mark.parametrize("name", LOCATING)
def test_locating_needs_a_decoder_and_a_subject(name, llama):
    for edits in ([Edit("It is", "so")], [Edit("It is", "so", subject="Paris")]):
        with pytest.raises(SubjectNotFound) as caught:
            apply(name, llama, edits)
        assert caught.value.edit == edits[0]
    with pytest.raises(InvalidEdit, match="both"):
        apply(name, llama, [EDITS[0], EDITS[0].replace(target="Rome")])
    t5 = tiny_models.cached("t5")
    with pytest.raises(UnsupportedArchitecture, match="Use ft-l or ft-m"):
        editor(name).apply(t5, EDITS, params=quick(name), stats=random_statistics(llama))


def test_editors_come_through_the_entry_point_and_suggest_neighbours():
    assert set(QUICK) <= set(editors())
    with pytest.raises(UnknownName, match="'memit'"):
        editor("memitt")


def test_two_editors_of_one_name_are_refused(monkeypatch):
    from importlib.metadata import EntryPoint

    points = [EntryPoint("x", value, editor_module.GROUP) for value in ("a:A", "b:B")]
    monkeypatch.setattr(editor_module, "entry_points", lambda group: points)
    with pytest.raises(InvalidParams, match="two editors"):
        editors()


def test_what_is_registered_and_no_editor_is_refused(monkeypatch):
    from importlib.metadata import EntryPoint

    point = EntryPoint("odd", "collections:Counter", editor_module.GROUP)
    monkeypatch.setattr(editor_module, "entry_points", lambda group: [point])
    with pytest.raises(InvalidParams, match="'odd', but has no name, params_type"):
        editor("odd")


def test_importing_the_registry_imports_no_torch():
    code = "import sys; from corrigenda.param_editors.editor import editors; editors(); print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_wrong_params_and_missing_statistics_are_refused(llama):
    with pytest.raises(InvalidParams, match="takes ROMEParams"):
        editor("rome").apply(llama, EDITS, params=quick("memit"), stats=random_statistics(llama))
    with pytest.raises(InvalidParams, match="no preset"):
        editor("rome").apply(llama, EDITS)
    with pytest.raises(InvalidParams, match="has 3 layers"):
        editor("rome").apply(llama, EDITS, params=quick("rome", layers=(9,)), stats=random_statistics(llama))
    with pytest.raises(MissingStatistics, match="corrigenda stats collect"):
        editor("rome").apply(llama, EDITS, params=quick("rome"))
    with pytest.raises(MissingStatistics, match="layer 1"):
        editor("rome").apply(llama, EDITS, params=quick("rome"), stats=random_statistics(llama, (0,)))


@pytest.mark.parametrize("name", ["alphaedit", "ft-m"])
def test_behind_the_suites_contract_edits_add_up_and_undo(name, llama):
    before = weights(llama)
    model = EditedWeights(llama, name, params=quick(name), stats=random_statistics(llama))
    was = model.score([EDITS[0].prompt], [EDITS[0].target])[0].log_prob
    undos = [model.edit([edit]) for edit in EDITS]
    assert len(model.chain) == 3
    assert model.score([EDITS[0].prompt], [EDITS[0].target])[0].log_prob > was
    assert len(model.generate([EDITS[0].prompt], max_new_tokens=2)) == 1
    for undo in reversed(undos):
        undo.revert()
    assert model.chain == []
    assert same(llama, before)


def test_alphaedits_earlier_keys_belong_to_the_chain(llama):
    """The published code keeps them in module globals that no undo resets."""
    model = EditedWeights(llama, "alphaedit", params=quick("alphaedit"), stats=random_statistics(llama))
    first, second = model.edit(EDITS[:1]), model.edit(EDITS[1:])
    assert second.consolidation.carry["keys-1"].shape[1] == 3
    second.revert()
    third = model.edit(EDITS[1:2])
    assert third.consolidation.carry["keys-1"].shape[1] == 2
    third.revert()
    first.revert()
    alone = editor("alphaedit").apply(llama, EDITS[:1], params=quick("alphaedit"), stats=random_statistics(llama))
    assert alone.carry["keys-1"].shape[1] == 1
    with pytest.raises(InvalidRequest, match="Chain consolidations of alphaedit"):
        apply("alphaedit", llama, previous=apply("memit", llama))


def test_an_empty_null_space_is_refused(llama):
    params = quick("alphaedit", null_threshold=1e-9)
    with pytest.raises(InvalidParams, match="null_threshold"):
        editor("alphaedit").apply(llama, EDITS, params=params, stats=random_statistics(llama))


def test_details_are_json(llama, tmp_path):
    done = apply("memit", llama)
    assert json.loads(json.dumps(done.details))["edits"][0]["edit"] == EDITS[0].id
    assert Anatomy(llama).mlp_out(0).name in {update.name for update in done.updates}
