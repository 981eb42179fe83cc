from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from tiny_editing import QUICK, quick

from corrigenda.errors import InvalidParams
from corrigenda.param_editors.editor import editor, editors
from corrigenda.param_editors.memit import MEMITParams
from corrigenda.param_editors.params import presets
from corrigenda.param_editors.rome import ROMEParams


@pytest.mark.parametrize("name", sorted(QUICK))
def test_they_travel_as_json_and_refuse_unknown_names(name):
    params = quick(name)
    kind = type(params)
    assert kind.from_dict(json.loads(json.dumps(params.to_dict()))) == params
    with pytest.raises(InvalidParams, match="Did you mean 'layers'"):
        kind.from_dict({"layer": [1]})
    with pytest.raises(InvalidParams, match="needs layers"):
        kind.from_dict({})


@pytest.mark.parametrize(
    "change",
    [
        {"layers": ()},
        {"layers": (2, 1)},
        {"layers": (-1,)},
        {"layers": (True,)},
        {"layers": 5},
        {"max_norm_ratio": 0},
        {"max_norm_ratio": "1"},
        {"v_steps": -1},
        {"v_steps": 1.5},
        {"v_lr": 0},
        {"v_lr": float("nan")},
        {"clamp": float("inf")},
        {"kl_factor": -1},
        {"kl_at": "middle"},
        {"essence": "it is"},
        {"contexts": ((5,),)},
        {"moment_weight": 0},
        {"value_contexts": -1},
    ],
)
def test_values_out_of_range_are_refused(change):
    with pytest.raises(InvalidParams):
        MEMITParams(**{"layers": (1,), **change})


def test_rome_writes_one_layer():
    with pytest.raises(InvalidParams, match="one layer"):
        ROMEParams(layers=(1, 2))


def test_every_preset_is_valid_and_says_how_it_was_found():
    assert {"smollm2-135m", "gpt2-xl", "gpt-j-6b"} <= set(presets())
    for name, preset in presets().items():
        assert set(preset) == {"match", "found", "methods"}, name
        assert len(preset["found"]) > 20
        assert set(preset["methods"]) <= set(editors())
        for method, row in preset["methods"].items():
            params = editor(method).params_type.from_dict(row)
            assert max(params.layers) < preset["match"].get("num_hidden_layers", preset["match"].get("n_layer"))


def test_a_preset_belongs_to_an_architecture_whatever_its_folder_is_called():
    match = presets()["gpt-j-6b"]["match"]
    lm = SimpleNamespace(name="renamed", model=SimpleNamespace(config=SimpleNamespace(**match)))
    assert MEMITParams.preset("memit", lm).layers == (3, 4, 5, 6, 7, 8)
    with pytest.raises(InvalidParams, match="no preset of emmet"):
        MEMITParams.preset("emmet", lm)
