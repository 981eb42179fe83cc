"""Updates that other subjects do not feel."""

from __future__ import annotations

import pytest
import torch
from tiny_editing import EDITS

from corrigenda.edit import Edit
from corrigenda.lm.loading import LanguageModel
from corrigenda.lm.tokens import token_ids
from corrigenda.param_editors.anatomy import Anatomy
from corrigenda.param_editors.gradients import Factors
from corrigenda.param_editors.hypernetwork import written_modules
from corrigenda.param_editors.others import OTHERS
from corrigenda.param_editors.silence import RIDGE, inputs_of_others, silenced


def test_inputs_are_those_of_the_prompt_about_others_without_padding(llama: LanguageModel) -> None:
    anatomy, edit = Anatomy(llama), EDITS[0]
    assert edit.subject
    modules = list(written_modules(anatomy, [0, 1]))
    found = inputs_of_others(anatomy, edit, modules, 1, 4)
    rows = [token_ids(llama, edit.prompt.replace(edit.subject, name)) for name in OTHERS[:4]]
    assert {part.shape for part in found.values()} == {
        (sum(map(len, rows)), anatomy.linear(name).matrix.shape[1]) for name in modules
    }
    assert all(bool(part.isfinite().all()) for part in found.values())
    assert inputs_of_others(anatomy, edit, modules, 1, 0) == {}
    assert inputs_of_others(anatomy, Edit("No subject here", "x"), modules, 1, 4) == {}


def test_what_is_silenced_is_the_ridge_residual_and_the_rest_is_felt_as_before() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(3, 8, generator=generator)
    right = torch.randn(2, 2, 8, generator=generator)
    factors = Factors(torch.randn(2, 2, 5, generator=generator), right)
    found = silenced({"a": factors}, [{"a": keys}, {}])["a"]
    assert found.left is factors.left
    ridge = RIDGE * keys.square().sum(1).mean()
    expected = right[0] - right[0] @ keys.T @ torch.linalg.inv(keys @ keys.T + ridge * torch.eye(3)) @ keys
    torch.testing.assert_close(found.right[0], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.right[1], right[1])
    assert float((found.right[0] @ keys.T).abs().max()) < 0.1 * float((right[0] @ keys.T).abs().max())
    aside = torch.linalg.qr(torch.cat([keys, torch.randn(5, 8, generator=generator)]).T)[0][:, -1]
    assert float(found.right[0, 0] @ aside) == pytest.approx(float(right[0, 0] @ aside), abs=1e-5)
