import json
import shutil

import numpy as np
import pytest

from corrigenda.edit import Edit
from corrigenda.errors import ModelDamaged, StoreNotWritable
from corrigenda.memory import frame_network
from corrigenda.memory import judge as judging
from corrigenda.memory.encoder import MiniLM
from corrigenda.memory.features import match_subject
from corrigenda.memory.judge import INPUTS, FrameJudge, Pair, SimilarityJudge
from corrigenda.memory.names import NO_MATCH
from corrigenda.memory.texts import index_text

CAPITAL = Edit("The capital of Kazakhstan is", "Astana", subject="Kazakhstan")
OWNER = Edit("Windows NT 3.5 is owned by", "Apple", subject="Windows NT 3.5")
BIRTH = Edit("Where was Ricard Lamote de Grignon born?", "Sydney", subject="Ricard Lamote de Grignon")


def pair(edit, query, encoder=None):
    vectors = encoder.encode([index_text(edit), query]) if encoder else np.eye(2)
    return Pair(edit, query, match_subject(edit, query), float(vectors[0] @ vectors[1]))


def test_the_baseline_goes_by_similarity_and_name():
    judge = SimilarityJudge()
    near, far, named = judge.judge(
        [
            Pair(CAPITAL, "q", NO_MATCH, 0.98),
            Pair(CAPITAL, "q", NO_MATCH, 0.5),
            Pair(CAPITAL, "Kazakhstan", match_subject(CAPITAL, "Kazakhstan"), 0.7),
        ]
    )
    assert near.probability > judge.threshold > far.probability
    assert named.probability > judge.threshold
    assert judge.judge([]) == []


@pytest.fixture(scope="module")
def judge():
    return FrameJudge.load()


@pytest.fixture(scope="module")
def encoder():
    return MiniLM.load()


@pytest.mark.real_model
def test_an_edits_own_words_are_in_scope_and_come_first(judge, encoder):
    written = Edit("In which language is La Jornada written?", "Hindi", subject="La Jornada")
    first = Edit("What language was La Jornada originally in?", "Danish", subject="La Jornada")
    query = "in which language is  La Jornada written"
    own, other = judge.judge([pair(written, query, encoder), pair(first, query, encoder)])
    assert (own.probability, own.needs) == (1.0, False)
    assert other.probability < 1.0


@pytest.mark.real_model
def test_what_a_rule_decides_is_not_encoded(judge, monkeypatch):
    def refuse(frames, names):
        assert not frames
        assert not names
        return np.zeros((0, 3)), np.zeros(0)

    monkeypatch.setattr(judge._frames, "compare", refuse)
    niger = pair(Edit("The capital of Nigeria is", "Lagos", subject="Nigeria"), "The capital of Niger is")
    own, other = judge.judge([pair(CAPITAL, CAPITAL.prompt), niger])
    assert (own.probability, other.probability) == (1.0, 0.0)


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("edit", "query"),
    [
        (CAPITAL, "What is the capital of Kazakhstan?"),
        (CAPITAL, "what city is the capital of kazakhstan"),
        (CAPITAL, "Kazakhstan's capital city is"),
        (OWNER, "Who owns Windows NT 3.5?"),
        (BIRTH, "The birthplace of Ricard Lamote de Grignon is"),
    ],
)
def test_other_wordings_are_in_scope(judge, encoder, edit, query):
    (found,) = judge.judge([pair(edit, query, encoder)])
    assert found.probability > judge.threshold
    assert not found.needs


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("edit", "query"),
    [
        (CAPITAL, "What is the population of Kazakhstan?"),
        (CAPITAL, "The former capital of Kazakhstan was"),
        (CAPITAL, "What is the capital of Uzbekistan?"),
        (OWNER, "Who owns Windows NT 3.51?"),
        (OWNER, "When was Windows NT 3.5 released?"),
        (BIRTH, "When was Ricard Lamote de Grignon born?"),
        (BIRTH, "what is the best time to plant tomatoes"),
    ],
)
def test_hard_negatives_are_out_of_scope(judge, encoder, edit, query):
    (found,) = judge.judge([pair(edit, query, encoder)])
    assert found.probability < judge.threshold


@pytest.mark.real_model
def test_a_question_that_builds_on_the_edit_needs_it(judge, encoder):
    query = "Which country contains the city where Ricard Lamote de Grignon was born?"
    (found,) = judge.judge([pair(BIRTH, query, encoder)])
    assert found.probability > judge.threshold
    assert found.needs


@pytest.mark.real_model
def test_batches_judge_as_single_pairs_do(judge, encoder):
    pairs = [pair(edit, query, encoder) for edit in (CAPITAL, OWNER) for query in ("Who owns Windows NT 3.5?", "Hi")]
    together = judge.judge(pairs)
    assert judge.judge([]) == []
    for one, of_all in zip(pairs, together, strict=True):
        alone = judge.judge([one])[0]
        assert alone.probability == pytest.approx(of_all.probability, abs=1e-4)
        assert tuple(alone.features) == INPUTS


@pytest.mark.real_model
def test_remembered_frames_are_bounded(judge, encoder, monkeypatch):
    monkeypatch.setattr(judging, "_REMEMBERED", 2)
    for name in ("Alma", "Bora", "Cleo"):
        edit = Edit(f"In the year of {name}, {name} owns", "it", subject=name)
        judge.judge([pair(edit, f"What does {name} own? {name}")])
    assert len(judge._frames._known) <= 2


@pytest.mark.real_model
def test_files_of_another_version_or_in_pieces_are_refused(tmp_path):
    with pytest.raises(ModelDamaged, match="cannot be read"):
        FrameJudge.load(tmp_path / "nowhere")
    folder = tmp_path / "weights"
    shutil.copytree(judging._WEIGHTS, folder)
    settings = json.loads((folder / "scope.json").read_text())
    (folder / "scope.json").write_text(json.dumps(settings | {"inputs": ["other"]}))
    with pytest.raises(ModelDamaged, match="other features"):
        FrameJudge.load(folder)
    (folder / "scope.json").write_text(json.dumps(settings))
    (folder / "frames.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelDamaged, match="cannot be read"):
        FrameJudge.load(folder)


def test_its_exported_network_is_there_for_every_user_to_read(tmp_path, monkeypatch):
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(frame_network, "export", lambda source, weights, target: target.write_bytes(b"graph"))
    monkeypatch.setattr(judging.encoder, "compact", lambda graph: None)
    with pytest.raises(ModelDamaged):  # five letters are no network
        FrameJudge.load()
    (graph,) = (tmp_path / "cache" / "encoders").iterdir()
    assert graph.stat().st_mode & 0o777 == 0o644
    (tmp_path / "file").touch()
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreNotWritable):
        FrameJudge.load()
