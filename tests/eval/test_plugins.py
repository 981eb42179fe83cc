"""Methods of other packages: what registers under our entry points is scored by its name."""

from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from tiny_editing import tiny_models

from corrigenda.cli.eval_methods import is_editor, known_methods, open_method
from corrigenda.cli.expanding import Sources
from corrigenda.edit import Edit
from corrigenda.errors import InvalidRequest, UnknownName
from corrigenda.eval.cache import Cached
from corrigenda.eval.case import Case, Probe
from corrigenda.eval.editable import Bare
from corrigenda.eval.wordings import Asked
from corrigenda.param_editors import editor as registry
from corrigenda.param_editors.update import Consolidation
from corrigenda.testing import FixedEncoder


class Params:
    """Hyper-parameters of an editor that has none."""

    @classmethod
    def preset(cls, method, lm):
        return cls()

    def to_dict(self):
        return {}


class Dreamer:
    """An editor that believes it has edited."""

    name, params_type, needs_statistics = "dreamer", Params, False

    def apply(self, lm, edits, **options):
        return Consolidation("dreamer", tuple(edits), (), model=lm)


@pytest.fixture
def plugin(monkeypatch):
    module = types.ModuleType("dreams")
    module.Dreamer = Dreamer
    monkeypatch.setitem(sys.modules, "dreams", module)
    points = registry.entry_points

    def found(group):
        more = [EntryPoint("dreamer", "dreams:Dreamer", group)] if group == registry.GROUP else []
        return [*points(group=group), *more]

    monkeypatch.setattr(registry, "entry_points", found)


def test_an_editor_of_another_package_is_a_method(plugin):
    assert "dreamer" in known_methods()
    assert is_editor("dreamer")
    lm = tiny_models.cached("llama")
    with open_method("dreamer", lm, Cached(Bare(lm))) as method:
        undo = method.editable.edit([Edit("The capital of France is", "Lyon", subject="France")])
        assert method.editable.generate(["The capital"], max_new_tokens=2) == Bare(lm).generate(
            ["The capital"], max_new_tokens=2
        )
        undo.revert()
    assert method.settings == {"editor": "dreamer", "params": {}}
    assert method.collecting is None


def test_a_method_that_nobody_registered(plugin):
    lm = tiny_models.cached("llama")
    with pytest.raises(UnknownName, match="Did you mean 'dreamer'"), open_method("dreamr", lm, Cached(Bare(lm))):
        pass


def test_an_editor_is_given_wordings_that_nothing_asks(plugin, monkeypatch):
    lm = tiny_models.cached("llama")
    monkeypatch.setattr("corrigenda.memory.encoder.MiniLM.load", lambda: FixedEncoder(32))
    edit = Edit("The capital of France is", "Lyon", subject="France", relation="capital")
    asked = Asked([Case("1", (edit,), (Probe("generalization", "He left. What is the capital of France?", (), "p"),))])
    options = {"expansion": Sources(("paraphrase",)), "allowed": asked.allows}
    with open_method("dreamer", lm, Cached(Bare(lm)), **options) as method:
        assert method.settings["expansion"] == {"kinds": ["paraphrase"]}
        (given,) = method.editable.edit([edit.replace(subject="Spain", prompt="Spain's capital:")]).consolidation.edits
    assert given.paraphrases[0] == "The capital city of Spain is"  # neither the statement, an edit's, nor the question
    assert len(given.paraphrases) == 4
    with (
        pytest.raises(InvalidRequest, match="dreamer edits weights"),
        open_method("dreamer", lm, Cached(Bare(lm)), expansion=Sources(("alias",))),
    ):
        pass
    with (
        pytest.raises(InvalidRequest, match="nothing else"),
        open_method("dreamer", lm, Cached(Bare(lm)), expansion=Sources(("paraphrase",), Path("names.json"))),
    ):
        pass
