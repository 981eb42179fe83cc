import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from corrigenda.cli.main import app
from corrigenda.edit import Edit
from corrigenda.errors import DatasetError, MissingExtra
from corrigenda.memory.encoder import MiniLM
from corrigenda.memory.judge import INPUTS, FrameJudge
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Scope
from corrigenda.memory.scope_augmentation import invented, misspelt, varied
from corrigenda.memory.scope_evaluation import evaluate, reliability_diagram
from corrigenda.memory.scope_pairs import LabelledPair, read_pairs, relation_groups
from corrigenda.memory.scope_training import Recipe, fold_of, frame_pairs, measures, train

NAMES = ["Ada Low", "Ben Moor", "Cara Diaz", "Dov Stein", "Edda Holm", "Finn Okoro", "Gwen Pryce", "Hugo Brandt 3"]
RELATIONS = {
    "birth": (["{} was born in", "Where was {} born?", "The birthplace of {} is"], "Rome"),
    "work": (["{} is employed by", "Who does {} work for?", "The employer of {} is"], "IBM"),
    "tongue": (["The mother tongue of {} is", "What is {}'s native language?", "{} grew up speaking"], "Dutch"),
}


def rows():
    found = []
    for place, name in enumerate(NAMES):
        for relation, (wordings, target) in RELATIONS.items():
            prompt = wordings[0].format(name)
            edit = f"{prompt} {target}" + ("" if prompt.endswith("?") else ".")
            for other in wordings[1:]:
                kind = "question" if other.endswith("?") else "paraphrase"
                found.append({"edit": edit, "query": other.format(name), "label": 1, "kind": kind})
            stranger = NAMES[(place + 1) % len(NAMES)]
            found.append(
                {
                    "edit": edit,
                    "query": prompt.replace(name, stranger),
                    "label": 0,
                    "kind": "same_relation_other_subject",
                }
            )
            different = RELATIONS[{"birth": "work", "work": "tongue", "tongue": "birth"}[relation]][0][1].format(name)
            found.append({"edit": edit, "query": different, "label": 0, "kind": "same_subject_other_relation"})
        hop = f"Which country contains the place where {name} was born?"
        found.append({"edit": f"{name} was born in Rome.", "query": hop, "label": 1, "kind": "multi_hop"})
    return found


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def pairs(pairs_file):
    return read_pairs(pairs_file)


def test_pairs_are_read_with_classes(pairs):
    assert len(pairs) == len(rows())
    assert pairs[0].edit == Edit("Ada Low was born in", "Rome")
    assert {pair.label for pair in pairs if pair.kind == "multi_hop"} == {2}
    assert pairs[0].frames() == ("X was born in", "Where was X born?")
    assert next(pair for pair in pairs if "other_subject" in pair.kind).frames() is None


@pytest.mark.parametrize(
    "line", ['{"edit": "A is B."}', "[]", "no json", '{"edit": "", "query": "q", "label": 1, "kind": "k"}']
)
def test_bad_pairs_are_named(tmp_path, line):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"edit": "A is B.", "query": "q", "label": 0, "kind": "k"}\n' + line, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"line 2"):
        read_pairs(path)


def test_files_without_pairs_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="no pairs"):
        read_pairs(tmp_path / "empty.jsonl")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_pairs(tmp_path / "missing.jsonl")


def test_relations_are_told_apart_and_dealt_out_whole(pairs):
    groups = relation_groups(pairs)
    by_prompt = {}
    for pair, group in zip(pairs, groups, strict=True):
        by_prompt.setdefault(pair.edit.prompt.split(" ", 2)[-1].split()[0], set()).add(group)
    assert len({group for group in groups if group >= 0}) == 3
    folds = fold_of(groups, 2, seed=0)
    assert {fold for fold, group in zip(folds, groups, strict=True) if group == -1} <= {-1}
    for group in set(groups) - {-1}:
        assert len({fold for fold, of in zip(folds, groups, strict=True) if of == group}) == 1


def test_variations_change_labels_only_where_the_meaning_changes(pairs):
    found = [pair for pair in varied(pairs * 10, random.Random(0)) if pair.kind not in {row["kind"] for row in rows()}]
    by_kind = {}
    for pair in found:
        by_kind.setdefault(pair.kind.split(",")[0], []).append(pair)
    assert {"extended", "past", "negated", "first name", "digits"} <= set(by_kind)
    for kind in ("extended", "past", "negated", "first name", "digits"):
        assert {pair.label for pair in by_kind[kind]} == {0}
    for kind in ("chat", "now"):
        assert 0 not in {pair.label for pair in by_kind[kind]}
    assert any(", lower case" in pair.kind for pair in found)


def test_misspelt_words_differ_in_one_place():
    rng = random.Random(0)
    for _ in range(50):
        word = misspelt("Pennacchioni", rng)
        assert word[0] == "P"
        assert abs(len(word) - 12) <= 1


def test_invented_pairs_have_all_roles(pairs):
    found = invented(pairs, random.Random(0))
    assert {label for _, _, label in found} == {0, 1}
    assert all("{}" not in text and "X" in text for edit, query, _ in found for text in (edit, query))
    recipe = Recipe(invented=100)
    assert len(frame_pairs(pairs, recipe)) <= len(list(varied(pairs, random.Random(0)))) + 100


def test_measures_by_hand():
    labels = np.array([1, 1, 1, 0, 0])
    found = measures(
        ["paraphrase", "alias", "multi_hop", "unrelated", "unrelated"], labels, np.array([3.0, 0, 2, 1, 0.5])
    )
    assert found["auroc"] == pytest.approx(4 / 6)
    assert found["tpr_at_fpr"]["0.01"] == 0.5
    assert found["by_kind"]["multi_hop"] == {"n": 1, "rate": 1.0}
    assert found["by_kind"]["unrelated"]["rate"] == 0.5


@pytest.mark.real_model
def test_training_writes_a_judge_that_loads_and_repeats_itself(pairs, tmp_path):
    pytest.importorskip("sklearn")
    recipe = Recipe(epochs=1, folds=2, invented=100, rows=150, trees=10)
    lines = []
    report = train(pairs, tmp_path, recipe, progress=lines.append)
    assert {"seen_relations", "unseen_relations", "variations", "ece"} <= set(report)
    assert any("epoch 1 of 1" in line for line in lines)
    judge = FrameJudge.load(tmp_path)
    found = evaluate(pairs[:40], judge, MiniLM.load())
    assert 0 <= found["auroc"] <= 1
    assert reliability_diagram(pairs[:40], judge, MiniLM.load()).startswith(b"\x89PNG")

    before = (tmp_path / "trees.safetensors").read_bytes()
    lines.clear()
    assert train(pairs, tmp_path, recipe, progress=lines.append) == report
    assert sum("found" in line for line in lines) == 3  # no network was tuned again
    assert (tmp_path / "trees.safetensors").read_bytes() == before
    assert tuple(json.loads((tmp_path / "scope.json").read_text())["inputs"]) == INPUTS


@pytest.mark.real_model
def test_the_command_line_evaluates(pairs_file, tmp_path):
    plot = tmp_path / "plot.png"
    done = CliRunner().invoke(app, ["scope", "eval", "--pairs", str(pairs_file), "--json", "--plot", str(plot)])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found) == {"auroc", "ece", "tpr_at_fpr", "by_kind", "bound", "ms"}
    assert set(found["ms"]) == {"p50", "p99"}
    assert all(set(of) == {"n", "rate"} for of in found["by_kind"].values())
    assert set(found["tpr_at_fpr"]) == {"0.01", "0.001"}
    assert found["auroc"] > 0.9
    assert plot.read_bytes()[1:4] == b"PNG"
    text = CliRunner().invoke(app, ["scope", "eval", "--pairs", str(pairs_file)])
    assert "AUROC" in text.stdout


@pytest.mark.real_model
def test_the_command_line_calibrates_on_live_edits(tmp_path, monkeypatch):
    path = tmp_path / "edits.db"
    with Memory.open(path) as memory:
        memory.add("The capital of Kazakhstan is", "Almaty", subject="Kazakhstan")
    queries = tmp_path / "queries.txt"
    queries.write_text("\n".join(f"What is {n} times {n + 1}?" for n in range(40)), encoding="utf-8")
    monkeypatch.setenv("CORRIGENDA_MEMORY", str(path))
    command = ["scope", "calibrate", "--queries", str(queries), "--json", "--rate"]
    dry = json.loads(CliRunner().invoke(app, [*command, "0.1", "--dry-run"]).stdout)
    assert dry["kept"] is None
    found = json.loads(CliRunner().invoke(app, [*command, "0.1"]).stdout)
    assert found["n"] == 40
    assert found["default"]["rate"] == 0
    assert found["threshold"] == found["default"]["threshold"]  # such queries come near to no edit
    with Memory.open(path) as memory:
        assert Scope(memory).threshold_in("default") == found["threshold"]
    assert json.loads(CliRunner().invoke(app, [*command, "0.001"]).stdout)["threshold"] is None
    assert "threshold" in CliRunner().invoke(app, [*command[:-2], "--rate", "0.1"]).stdout
    assert "at least" not in CliRunner().invoke(app, [*command[:-2], "--rate", "0.1"]).stdout
    assert "at least 999" in CliRunner().invoke(app, [*command[:-2], "--rate", "0.001"]).stdout

    drift = ["scope", "drift", "--memory", str(path), "--queries"]
    done = CliRunner().invoke(app, [*drift, str(queries), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["drifted"] is False
    other = tmp_path / "other.jsonl"
    other.write_text('{"query": "What is the capital of Kazakhstan?"}\n' * 30, encoding="utf-8")
    done = CliRunner().invoke(app, [*drift, str(other)])
    assert done.exit_code == 1
    assert "calibrate again" in done.stdout
    assert CliRunner().invoke(app, [*drift, str(other), "-n", "team"]).exit_code == 2


@pytest.mark.real_model
def test_the_command_line_measures_live_edits(tmp_path):
    rewrite = {"prompt": "The capital of {} is", "subject": "Kazakhstan", "relation_id": "P36"}
    rewrite |= {"target_new": {"str": "Almaty", "id": None}, "target_true": {"str": "Astana", "id": None}}
    record = {"case_id": 1, "requested_rewrite": rewrite, "paraphrase_prompts": ["Kazakhstan's capital city is"]}
    record |= {"neighborhood_prompts": ["The capital of Mongolia is", "The capital of Nepal is"]}
    data = tmp_path / "counterfact.json"
    data.write_text(json.dumps([record]), encoding="utf-8")
    done = CliRunner().invoke(app, ["scope", "live", "--data", str(data), "--foreign", str(data), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["paraphrases"] == {"n": 1, "rate": 1.0}
    assert found["neighbours"] == found["foreign"] == {"n": 2, "rate": 0.0}
    assert "neighbours" in CliRunner().invoke(app, ["scope", "live", "--data", str(data)]).stdout


@pytest.mark.real_model
def test_a_missing_plotting_library_is_named(pairs, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match="matplotlib"):
        reliability_diagram(pairs[:4])


@pytest.mark.real_model
def test_the_command_line_trains(pairs_file, tmp_path):
    pytest.importorskip("sklearn")
    command = ["scope", "train", "--pairs", str(pairs_file), "--out", str(tmp_path), "--epochs", "1"]
    help_text = CliRunner().invoke(app, ["scope", "train", "--help"]).stdout
    assert "epochs" in help_text
    missing = CliRunner().invoke(app, [*command[:3], str(tmp_path / "none.jsonl"), *command[4:]])
    assert missing.exit_code == 2


@pytest.mark.real_model
@pytest.mark.slow
def test_the_shipped_judge_on_the_shared_pairs():
    path = Path(os.environ.get("CORRIGENDA_DATA", "../shared/data")) / "scope_pairs_dev.jsonl"
    if not path.is_file():
        pytest.skip("no shared data here")
    found = evaluate(read_pairs(path)[::5])
    assert found["auroc"] > 0.99
    assert found["tpr_at_fpr"]["0.01"] > 0.94
    assert found["ece"] < 0.03
    for promised, kept in found["bound"].items():
        assert kept <= float(promised) + 0.002  # half of 500 scores and the luck of 50 splits


def test_a_labelled_pair_looks_at_what_is_asked():
    pair = LabelledPair(Edit("The owner of Omni is", "BP"), "The mill turned. Who owns Omni?", 1, "question")
    text, match = pair.judged()
    assert text == "Who owns Omni?"
    assert match.exact
