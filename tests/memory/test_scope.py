import pytest

from corrigenda.edit import Edit
from corrigenda.errors import InvalidRequest
from corrigenda.memory.encoder import MiniLM
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Scope

pytestmark = pytest.mark.real_model

EDITS = [
    Edit("Microsoft TechNet is owned by", "Nokia", subject="Microsoft TechNet", aliases=["TechNet"]),
    Edit("The capital of Kazakhstan is", "Almaty", subject="Kazakhstan"),
    Edit("The official language of Kazakhstan is", "Dutch", subject="Kazakhstan"),
    Edit("Windows NT 3.5 is developed by", "Apple", subject="Windows NT 3.5"),
    Edit("Danielle Darrieux's mother tongue is", "English", subject="Danielle Darrieux"),
    Edit("The office Wi-Fi password is", "hunter2"),
]


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with Memory.open(tmp_path_factory.mktemp("scope") / "edits.db", encoder=MiniLM.load()) as opened:
        opened.add_many(EDITS)
        yield opened


@pytest.fixture(scope="module")
def scope(memory):
    return Scope(memory)


def fired(scope, query):
    return {candidate.edit.prompt for candidate in scope.consider([query])[0].in_scope}


@pytest.mark.parametrize(
    ("query", "prompts"),
    [
        ("Who owns Microsoft TechNet?", {EDITS[0].prompt}),
        ("The mill has five floors. Microsoft TechNet's owner is", {EDITS[0].prompt}),
        ("who is the owner of technet?", {EDITS[0].prompt}),
        (
            "Hi! I am writing an essay.\nWhat is the capital of Kazakhstan? It is due tomorrow.\nThanks!",
            {EDITS[1].prompt},
        ),
        ("WHAT IS THE CAPITAL OF KAZAKHSTAN?", {EDITS[1].prompt}),
        ("What is the mother tongue of Danielle Darieux?", {EDITS[4].prompt}),
        ("Who owns TechNet? And what is the capital of Kazakhstan?", {EDITS[0].prompt, EDITS[1].prompt}),
    ],
)
def test_what_concerns_an_edit_fires(scope, query, prompts):
    assert fired(scope, query) == prompts


@pytest.mark.parametrize(
    "query",
    [
        "Who wrote War and Peace?",
        "What is the population of Kazakhstan?",
        "What was the capital of Kazakhstan in 1994?",
        "The capital of Uzbekistan is",
        "Who develops Windows NT 3.51?",
        "When did Danielle Darrieux die?",
        "Quelle heure est-il à Paris ?",
        "今天天气怎么样？",
        "Напиши короткое стихотворение о весне.",
        "def add(a, b):\n    return a + b",
    ],
)
def test_what_concerns_none_does_not(scope, query):
    assert fired(scope, query) == set()


def test_an_edit_without_a_subject_is_found_by_meaning(scope):
    considered = scope.consider(["What is the password of the office Wi-Fi?"])[0]
    assert considered.candidates[0].edit.prompt == "The office Wi-Fi password is"


def test_a_question_that_builds_on_an_edit_needs_it(scope):
    considered = scope.consider(["What is the headquarters city of the company that owns Microsoft TechNet?"])[0]
    assert considered.in_scope[0].verdict == "needs"


def test_batches_decide_as_single_queries_do(scope):
    queries = ["Who owns TechNet?", "Hello there.", "Kazakhstan's capital is", "Who owns TechNet?"]
    together = scope.consider(queries)
    for query, considered in zip(queries, together, strict=True):
        alone = scope.consider([query])[0]
        assert considered.query == query
        assert [c.edit.id for c in alone.candidates] == [c.edit.id for c in considered.candidates]
        for one, other in zip(alone.candidates, considered.candidates, strict=True):
            assert one.probability == pytest.approx(other.probability, abs=1e-3)
            assert one.verdict == other.verdict


def test_candidates_tell_how_they_came_about(scope):
    considered = scope.consider(["Nice weather. Who owns Microsoft TechNet?"])[0]
    best = considered.candidates[0]
    assert set(considered.milliseconds) == {"encode", "search", "judge"}
    assert best.segment == "Who owns Microsoft TechNet?"
    assert considered.query[best.mention.start : best.mention.end] == "Microsoft TechNet"
    assert best.features["exact"] == 1
    assert best.probability >= best.threshold == scope.threshold
    assert [c.probability for c in considered.candidates] == sorted(
        (c.probability for c in considered.candidates), reverse=True
    )


def test_the_threshold_decides(memory):
    query = "Who owns Microsoft TechNet?"
    assert not Scope(memory, threshold=1.0).consider([query])[0].in_scope
    everything = Scope(memory, threshold=0.0).consider([query])[0]
    assert everything.in_scope == everything.candidates
    assert all(candidate.verdict != "out" for candidate in everything.candidates)


def test_namespaces_are_apart(memory, scope):
    assert scope.consider(["Who owns Microsoft TechNet?"], "other")[0].candidates == ()


def test_a_popular_subject_is_narrowed_down(tmp_path):
    with Memory.open(tmp_path / "many.db", encoder=MiniLM.load()) as memory:
        memory.add("The capital of Kazakhstan is", "Almaty", subject="Kazakhstan")
        memory.add_many(
            [
                Edit(f"The number of lakes in district {n} of Kazakhstan is", str(n), subject="Kazakhstan")
                for n in range(30)
            ]
        )
        considered = Scope(memory).consider(["What is the capital of Kazakhstan?"])[0]
        assert len(considered.candidates) <= 16
        assert considered.in_scope[0].edit.target == "Almaty"


def test_a_popular_subject_leaves_places_for_others(tmp_path):
    with Memory.open(tmp_path / "many.db", encoder=MiniLM.load()) as memory:
        lakes = [Edit(f"The number of lakes {n} in Kazakhstan is", "9", subject="Kazakhstan") for n in range(20)]
        memory.add_many([*lakes, EDITS[0], EDITS[5]])
        for query, target in (
            ("Where is Kazakhstan? Who owns TechNet?", "Nokia"),
            ("I fly to Kazakhstan, Kazakhstan and Kazakhstan, so who owns TechNet?", "Nokia"),
            ("I am in Kazakhstan, so what is the office Wi-Fi password?", "hunter2"),
        ):
            assert target in {candidate.edit.target for candidate in Scope(memory).consider([query])[0].in_scope}


def test_an_empty_memory_encodes_nothing(tmp_path):
    with Memory.open(tmp_path / "empty.db", encoder=None) as memory:
        considered = Scope(memory).consider(["Who owns Microsoft TechNet?"])
        assert considered[0].candidates == ()
        assert considered[0].milliseconds["encode"] == 0
        assert Scope(memory).consider([]) == []


@pytest.mark.parametrize("query", ["", "  ", "a\x00b", "x" * 200_001])
def test_what_is_no_query_is_refused(scope, query):
    with pytest.raises(InvalidRequest):
        scope.consider([query])


@pytest.mark.parametrize("settings", [{"threshold": 1.5}, {"threshold": -0.1}, {"k": 0}])
def test_settings_are_checked(memory, settings):
    with pytest.raises(InvalidRequest):
        Scope(memory, **settings)


def test_a_message_of_many_pages_is_bounded(scope):
    text = "Some sentence about nothing in particular. " * 2000 + "Who owns Microsoft TechNet?"
    assert scope.consider([text])[0].in_scope[0].edit.target == "Nokia"
