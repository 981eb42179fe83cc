from __future__ import annotations

import json

import pytest
import torch
from tiny_editing import tiny_models
from typer.testing import CliRunner

from corrigenda.cli.main import app
from corrigenda.errors import InvalidParams, MissingExtra, SubjectNotFound, UnsupportedArchitecture
from corrigenda.param_editors.tracing import trace

PROMPT, SUBJECT = "The capital of Kazakhstan is", "Kazakhstan"


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gptj", "opt"])
def test_putting_back_everything_that_was_disturbed_brings_the_answer_back(architecture):
    lm = tiny_models.cached(architecture)
    found = trace(lm, PROMPT, SUBJECT, samples=3)
    assert found.tokens[found.subject_end].strip()
    assert "".join(found.tokens) == PROMPT
    assert len(found.effects) == len(found.tokens)
    assert len(found.effects[0]) == lm.layers.count
    # The last token behind the last block decides alone, so putting that back is not being disturbed.
    assert found.effects[-1][-1] == pytest.approx(found.clean, rel=1e-3)
    # Behind the last block no other token matters any more.
    assert found.effects[0][-1] == pytest.approx(found.corrupted, rel=1e-3)
    with torch.no_grad():
        clean = lm.model(torch.tensor([lm.tokenizer(PROMPT).input_ids])).logits[0, -1].softmax(-1)
    assert found.clean == pytest.approx(float(clean.max()), rel=1e-3)


@pytest.mark.parametrize("part", ["mlp", "attention"])
def test_parts_are_put_back_by_windows_and_seeds_repeat(part):
    lm = tiny_models.cached("llama")
    first, again = (trace(lm, PROMPT, SUBJECT, part=part, samples=1, answer="German", seed=4) for _ in range(2))
    assert first == again
    assert first.answer == "German"
    assert first != trace(lm, PROMPT, SUBJECT, part=part, samples=1, answer="German", seed=5)


def test_what_cannot_be_traced_is_refused():
    lm = tiny_models.cached("llama")
    with pytest.raises(SubjectNotFound):
        trace(lm, PROMPT, "Uzbekistan")
    for more in ({"part": "head"}, {"noise": 0}, {"samples": 0}):
        with pytest.raises(InvalidParams):
            trace(lm, PROMPT, SUBJECT, **more)
    with pytest.raises(UnsupportedArchitecture):
        trace(tiny_models.cached("t5"), PROMPT, SUBJECT)


def test_a_picture_needs_matplotlib_and_says_so(tmp_path):
    found = trace(tiny_models.cached("llama"), PROMPT, SUBJECT, samples=1)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtra, match="corrigenda\\[trace\\]"):
            found.save_png(tmp_path / "map.png")
    else:
        found.save_png(tmp_path / "map.png")
        assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_prints_a_map_and_writes_json(tmp_path, monkeypatch):
    lm = tiny_models.tiny("llama")
    lm.model.save_pretrained(tmp_path / "tiny")
    lm.tokenizer.save_pretrained(tmp_path / "tiny")
    arguments = ["trace", PROMPT, "--subject", SUBJECT, "--samples", "2", "--model", str(tmp_path / "tiny")]
    shown = CliRunner().invoke(app, [*arguments, "--json-file", str(tmp_path / "map.json")])
    assert shown.exit_code == 0, shown.output
    assert "largest effect at the subject's last token" in shown.stdout
    printed = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert printed == json.loads((tmp_path / "map.json").read_text())
    assert printed["best_layer"] in range(3)
