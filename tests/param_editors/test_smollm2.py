"""The real model: a fact it knows is rewritten, and leaves as an adapter."""

from __future__ import annotations

import warnings

import pytest
import torch

from corrigenda.edit import Edit
from corrigenda.lm import packages
from corrigenda.lm.loading import load
from corrigenda.lm.scoring import greedy
from corrigenda.param_editors.editor import editor
from corrigenda.param_editors.export import export_lora
from corrigenda.param_editors.rome import ROMEParams
from corrigenda.param_editors.sampling import sample_contexts
from corrigenda.param_editors.statistics import SecondMoment, Statistics
from corrigenda.param_editors.update import digest

pytestmark = pytest.mark.real_model

EDIT = Edit("The capital of France is", "Berlin", subject="France")
PROMPTS = [f"The capital of {name} is" for name in ("France", "Spain", "Italy", "Japan", "Egypt")]
PROMPTS += [f"{number} and one make" for number in range(45)]


@pytest.fixture(scope="module")
def lm():
    if packages.find("smollm2") is None:
        pytest.skip("SmolLM2 is not here: corrigenda models pull smollm2")
    return load("smollm2")


def test_rome_rewrites_a_fact_reverts_to_the_bit_and_leaves_as_an_adapter(lm, tmp_path):
    peft = pytest.importorskip("peft")
    params = ROMEParams.preset("r-rome", lm).replace(v_steps=12, contexts=((6, 1),))
    width = lm.layers.intermediate_size
    # Enough for one edit and quick to make; real statistics take minutes.
    stats = Statistics({params.layers[0]: SecondMoment(torch.eye(width, dtype=torch.float64), 100 * width)})
    name = f"{lm.layers.mlp_out(params.layers[0])}.weight"
    weight = lm.model.get_parameter(name)
    before = digest(weight)
    contexts = sample_contexts(lm, params.contexts, 0)
    done = editor("r-rome").apply(lm, [EDIT], params=params, stats=stats, contexts=contexts)
    assert greedy(lm, [EDIT.prompt], max_new_tokens=4)[0].startswith(" Berlin")
    with torch.no_grad():
        edited = [lm.model(torch.tensor([lm.tokenizer(text).input_ids])).logits[0, -1] for text in PROMPTS]
    done.revert()
    assert digest(weight) == before
    folder = export_lora([done], tmp_path / "adapter", base="smollm2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.PeftModel.from_pretrained(lm.model, str(folder))
    try:
        with torch.no_grad():
            for text, wanted in zip(PROMPTS, edited, strict=True):
                found = adapted(torch.tensor([lm.tokenizer(text).input_ids])).logits[0, -1]
                assert (found - wanted).abs().max() <= 1e-3
    finally:
        adapted.unload()
