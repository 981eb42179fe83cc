"""What makes scope hard: context, several steps, several questions, quotes, negation, the past, other languages."""

import pytest

from corrigenda.edit import Edit
from corrigenda.memory.encoder import MiniLM
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Scope
from corrigenda.memory.scope_thresholds import Calibration, Thresholds

pytestmark = pytest.mark.real_model

CAPITAL = Edit("The capital of Kazakhstan is", "Almaty", subject="Kazakhstan")
OWNER = Edit("Microsoft TechNet is owned by", "Nokia", subject="Microsoft TechNet", aliases=["TechNet"])
BORN = Edit("Danielle Darrieux was born in", "Lyon", subject="Danielle Darrieux")
STATE = Edit("The official language of Tennessee is", "Dutch", subject="Tennessee")


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with Memory.open(tmp_path_factory.mktemp("hard") / "edits.db", encoder=MiniLM.load()) as opened:
        opened.add_many([CAPITAL, OWNER, BORN, STATE])
        yield opened


@pytest.fixture(scope="module")
def scope(memory):
    return Scope(memory)


def fired(scope, query, context=()):
    (considered,) = scope.consider([query], context=context)
    return {candidate.edit.prompt: candidate.verdict for candidate in considered.in_scope}


@pytest.mark.parametrize(
    ("query", "context", "edit"),
    [
        ("What is its capital?", ["Tell me about Kazakhstan.", "It is a large country."], CAPITAL),
        ("And the capital?", ["How big is Kazakhstan?", "Very big."], CAPITAL),
        ("Where was she born?", ["Danielle Darrieux was an actress."], BORN),
        ("What about Kazakhstan?", ["What is the capital of Norway?", "Oslo."], CAPITAL),
        ("Who owns it?", ["I read something on TechNet."], OWNER),
    ],
)
def test_earlier_turns_supply_what_is_meant(scope, query, context, edit):
    assert fired(scope, query, context) == {edit.prompt: "direct"}
    assert fired(scope, query) == {}


@pytest.mark.parametrize(
    ("query", "context"),
    [
        ("What is its capital?", ["Tell me about Norway.", "Norway lies in the north."]),
        ("When did she die?", ["Danielle Darrieux was an actress."]),
        ("What time is it?", ["Tell me about Kazakhstan."]),
        ("What is its capital?", ["Kazakhstan, you said?", "Yes.", "No, I meant Norway.", "Norway is fine."]),
    ],
)
def test_earlier_turns_fire_nothing_else(scope, query, context):
    assert fired(scope, query, context) == {}


@pytest.mark.parametrize(
    ("query", "edit"),
    [
        ("What is the headquarters city of the company that owns Microsoft TechNet?", OWNER),
        ("Which country contains the city where Danielle Darrieux was born?", BORN),
    ],
)
def test_questions_of_several_steps_need_an_edit(scope, query, edit):
    assert fired(scope, query) == {edit.prompt: "needs"}


def test_each_of_several_questions_is_judged(scope):
    query = "Hello! What is the capital of Kazakhstan? How tall is the Eiffel Tower? And who owns TechNet? Thanks."
    assert fired(scope, query) == {CAPITAL.prompt: "direct", OWNER.prompt: "direct"}


@pytest.mark.parametrize(
    "query",
    [
        'How many words are in "The capital of Kazakhstan is Almaty"?',
        'Translate "The capital of Kazakhstan is Almaty." into French.',
        "It is not true that the capital of Kazakhstan is Almaty.",
        "Kazakhstan's capital is not",
        "What was the capital of Kazakhstan in 1994?",
        "What was the former capital of Kazakhstan?",
        "Until 1997, the capital of Kazakhstan was",
        "Who owned Microsoft TechNet back in 2005?",
    ],
)
def test_quotes_negations_and_the_past_are_out_of_scope(scope, query):
    assert fired(scope, query) == {}


@pytest.mark.parametrize(
    "query",
    [
        "¿Cuántos habitantes tiene Kazakhstan?",
        "Wann ist Danielle Darrieux gestorben?",
        "Quelle est la monnaie du Kazakhstan ?",
        "Кто написал «Войну и мир»?",
        "哈萨克斯坦有多少人口？",
    ],
)
def test_other_languages_fire_nothing_falsely(scope, query):
    assert fired(scope, query) == {}


def test_a_name_that_is_common_knowledge_finds_its_edit(scope):
    assert fired(scope, "What is the official language of the Volunteer State?") == {STATE.prompt: "direct"}


def test_thresholds_beside_the_memory_count_by_namespace(memory, scope):
    thresholds = Thresholds.beside(memory.path)
    mark = scope.judge.fingerprint
    try:
        thresholds.put("default", Calibration(1.0, 0.01, 1, (0.5,), mark, "2026-01-01T00:00:00+00:00"))
        assert scope.threshold_in("default") == 1.0
        assert fired(scope, "What is the capital of Kazakhstan?") == {}
        assert scope.threshold_in("other") == scope.threshold
        assert Scope(memory, threshold=0.3, judge=scope.judge).threshold_in("default") == 0.3
        thresholds.put("default", Calibration(1.0, 0.01, 1, (0.5,), "another", "2026-01-01T00:00:00+00:00"))
        assert fired(scope, "What is the capital of Kazakhstan?") == {CAPITAL.prompt: "direct"}
    finally:
        thresholds.path.unlink()
