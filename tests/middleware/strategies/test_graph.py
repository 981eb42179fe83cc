from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from corrigenda.chat import Chat
from corrigenda.edit import Edit
from corrigenda.memory.judge import Judgement, Pair
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Scope
from corrigenda.middleware.consult import Decision, consult, drive
from corrigenda.middleware.relations import Relation, Relations
from corrigenda.middleware.strategies import hops
from corrigenda.middleware.strategies.auto import Auto
from corrigenda.middleware.strategies.base import Plan, create
from corrigenda.middleware.strategies.graph import MAX_HOPS, Graph

BORN = Edit("Ada Quill was born in the city of", "Vell", subject="Ada Quill", relation="birthplace")
LANGUAGE = Edit("The official language of Ruritania is", "Welsh", subject="Ruritania", relation="official language")
NESTED = "What is the official language of the country of the birthplace of Ada Quill?"
KNOWS = {"In which country is Vell?": "Ruritania.", "What is the official language of Ruritania?": "German"}


class FirstWords:
    """In scope is what mentions the subject and shares a word like "born" or "language" with the prompt."""

    threshold = 0.5
    words = ("born", "birthplace", "language", "capital")

    def judge(self, pairs: Sequence[Pair]) -> list[Judgement]:
        found = []
        for pair in pairs:
            prompt = pair.edit.prompt.replace("born", "birthplace")
            shared = any(word in prompt and word in pair.query.replace("born", "birthplace") for word in self.words)
            found.append(Judgement(0.9 if pair.match.exact and shared else 0.1, pair.query.count(" the ") > 2, {}))
        return found


@pytest.fixture
def scope(memory: Memory) -> Scope:
    return Scope(memory, judge=FirstWords())


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def decide(memory: Memory, scope: Scope, asked: list[str]) -> Callable[..., list[Decision]]:
    def ask(requests: Sequence[Chat]) -> list[str]:
        questions = [request.query.splitlines()[-2].removeprefix("Question: ") for request in requests]
        asked.extend(questions)
        return [f" {KNOWS.get(question, 'nothing much')}" for question in questions]

    def run(prompts: Sequence[Any], strategy: Any, *, able: bool = True) -> list[Decision]:
        requests = [Chat.of(prompt) for prompt in prompts]
        flow = consult(requests, strategy=strategy)
        return drive(flow, memory, scope, ask=ask if able else None)

    return run


# The encoder of these tests goes by shared words alone, so it is not asked to be sure.
@pytest.fixture
def relations(monkeypatch: pytest.MonkeyPatch) -> Relations:
    table = Relations.built_in()
    monkeypatch.setattr("corrigenda.middleware.relations.SURE", 0.3)
    few = {name: table.table[name] for name in ("country", "official language", "birthplace")}
    return _Unsure(few)


class _Unsure(Relations):
    def meant(self, frames: Sequence[str], encoder: Any, *, sure: float = 0.3) -> list[Relation | None]:
        return super().meant(frames, encoder, sure=sure)


def test_edits_and_the_model_take_turns(decide, memory: Memory, asked: list[str], relations: Relations):
    memory.add_many([BORN, LANGUAGE])
    (decision,) = decide([NESTED], Graph(relations=relations))
    assert decision.plan is not None
    assert decision.plan.prefix == " Welsh"
    assert decision.plan.request is decision.request
    assert decision.plan.stop is not None
    assert asked == ["In which country is Vell?"]
    assert [hit.edit_id for hit in decision.trace.fired] == [BORN.id, LANGUAGE.id]
    assert decision.trace.strategy == "graph/3 hops"
    assert decision.trace.notes == (
        f"What is the birthplace of Ada Quill? Vell (edit {BORN.id})",
        "What is the country of Vell? Ruritania (model)",
        f"What is the official language of Ruritania? Welsh (edit {LANGUAGE.id})",
    )


def test_without_an_edit_on_the_way_the_request_goes_on_untouched(decide, memory: Memory, relations: Relations):
    memory.add_many([LANGUAGE])
    unconcerned = NESTED.replace("Ada Quill", "Bo Marsh")
    prompts = [unconcerned, "What is the capital of Peru?", [{"role": "system", "content": "s"}]]
    decisions = decide(prompts, Graph(relations=relations))
    assert [item.plan for item in decisions] == [None, None, None]


def test_one_step_is_left_to_another_strategy(decide, memory: Memory, relations: Relations):
    memory.add_many([BORN])
    (decision,) = decide(["Ada Quill was born in"], Graph(relations=relations))
    assert decision.trace.strategy == "ike"


def test_equal_questions_are_asked_once(decide, memory: Memory, asked: list[str], relations: Relations):
    memory.add_many([BORN])
    decisions = decide([NESTED, NESTED], Graph(relations=relations))
    assert [item.plan and item.plan.prefix for item in decisions] == [" German", " German"]
    assert len(asked) == 2


def test_a_walk_has_an_end(decide, memory: Memory, relations: Relations):
    memory.add_many([BORN])
    deep = "The capital of the " + "country of the capital of the " * 4 + "birthplace of Ada Quill is"
    (decision,) = decide([deep], Graph(relations=relations))
    assert len(decision.trace.notes) == MAX_HOPS


def test_what_the_walk_has_named_must_be_the_name_of_the_edit(decide, memory: Memory, relations: Relations):
    # "Vell" itself has no edit; "Vell Radio" has one.
    memory.add_many([BORN, Edit("The capital of Vell Radio is", "Nowhere", subject="Vell Radio")])
    (decision,) = decide(["What is the capital of the birthplace of Ada Quill?"], Graph(relations=relations))
    assert [hit.edit_id for hit in decision.trace.fired] == [BORN.id]


def test_what_was_derived_saves_the_question(decide, memory: Memory, asked: list[str], relations: Relations):
    memory.add_many([BORN])
    known = Edit("The country of the birthplace of Ada Quill is", "Freedonia", subject="Ada Quill", parent=BORN.id)
    memory.add_consequences([known.replace(relation="birthplace / country")])
    (decision,) = decide(["What is the country of the birthplace of Ada Quill?"], Graph(relations=relations))
    assert decision.plan is not None
    assert decision.plan.prefix == " Freedonia"
    assert not asked
    assert "model" not in decision.trace.notes[-1]


class TestAuto:
    def test_a_question_of_several_steps_is_walked(self, decide, memory: Memory, relations: Relations):
        memory.add_many([BORN, LANGUAGE])
        (decision,) = decide([NESTED], Auto(relations=relations))
        assert decision.plan is not None
        assert (decision.plan.prefix, decision.trace.strategy) == (" Welsh", "auto/graph")

    def test_a_conversation_is_answered_without_a_leading_space(self, decide, memory: Memory, relations: Relations):
        memory.add_many([BORN, LANGUAGE])
        (decision,) = decide([[{"role": "user", "content": f"Hello! {NESTED}"}]], Auto(relations=relations))
        assert decision.plan is not None
        assert (decision.plan.prefix, decision.plan.stop) == ("Welsh", None)

    @pytest.mark.parametrize(
        "task", ["Write a poem about the birthplace of Ada Quill", "Was the birthplace of Ada Quill Vell?"]
    )
    def test_a_task_is_no_question(self, decide, memory: Memory, asked: list[str], relations: Relations, task: str):
        memory.add_many([BORN])
        (decision,) = decide([task], Auto(relations=relations))
        assert decision.trace.strategy == "auto/ike"
        assert not asked

    def test_walking_can_be_switched_off(self, decide, memory: Memory, asked: list[str], relations: Relations):
        memory.add_many([BORN])
        (decision,) = decide([NESTED], Auto(relations=relations, walk=False))
        assert not asked
        assert decision.trace.strategy == "auto/ike"

    def test_no_step_is_asked_for_where_no_edit_is_near(
        self, decide, memory: Memory, asked: list[str], relations: Relations
    ):
        memory.add_many([LANGUAGE])
        (decision,) = decide([NESTED.replace("Ada Quill", "Bo Marsh")], Auto(relations=relations))
        assert decision.plan is None
        assert not asked

    def test_an_edit_that_answers_as_it_stands_outweighs_the_grammar(
        self, decide, memory: Memory, asked: list[str], relations: Relations
    ):
        law = Edit("The law in Vell declares the official language to be", "Welsh", subject="Vell")
        memory.add_many([law])
        (decision,) = decide([law.prompt], Auto(relations=relations))
        assert decision.plan is not None
        assert (decision.plan.prefix, decision.trace.strategy) == (" Welsh", "auto/constrained")
        assert not asked

    def test_where_the_model_cannot_be_asked_the_facts_stand_in_front(self, decide, memory: Memory):
        memory.add_many([BORN])
        (decision,) = decide(["Ada Quill was born in"], Auto(), able=False)
        assert decision.plan is not None
        assert decision.plan.prefix == ""
        assert decision.trace.strategy == "ike/briefing"
        assert BORN.statement in decision.plan.request.query

    def test_feedback_gets_what_no_edit_concerns(self, decide, memory: Memory):
        class Reminding:
            name = "reminding"

            def plan(self, request, edits, *, room=None):
                raise AssertionError("not this way")

            def consult(self, requests, *, namespace, room):
                yield from ()
                return [
                    Decision(item, Plan(item, " noted") if "Peru" in item.query else None, None) for item in requests
                ]

        memory.add_many([BORN])
        prompts = ["Ada Quill was born in", "The capital of Peru is", "The capital of Chile is"]
        decisions = decide(prompts, Auto(feedback=Reminding()))
        assert [item.plan and item.plan.prefix for item in decisions] == [" Vell", " noted", None]

    @pytest.mark.parametrize("feedback", [None, "no such strategy", "ike"])
    def test_without_feedback_nothing_is_offered(self, decide, memory: Memory, feedback: str | None):
        memory.add_many([BORN])
        (decision,) = decide(["The capital of Peru is"], Auto(feedback=feedback))
        assert decision.plan is None


def test_where_no_model_is_nobody_answers(memory: Memory, scope: Scope):
    memory.add_many([BORN])
    (decision,) = drive(consult([Chat.of(NESTED)], strategy=Graph()), memory, scope)
    assert decision.trace.strategy in (None, "ike")


def test_it_is_registered():
    assert isinstance(create("graph"), Graph)


@pytest.mark.parametrize(
    ("said", "expected"),
    [(" Paris.\n", "Paris"), ("", ""), (" Washington, D.C.", "Washington, D.C"), (" Rome. It is old", "Rome")],
)
def test_what_the_model_says_is_cleaned(said: str, expected: str):
    assert hops.clean(said) == expected


def test_a_statement_without_relation_is_shown_as_unfinished():
    text = hops.prompt("The mayor of Vell is", "Vell", None, Relations.built_in())
    assert text.endswith("Question: The mayor of Vell is …?\nAnswer:")
    assert text.count("Question:") == 9


def test_the_thing_itself_is_never_its_own_example():
    table = Relations.built_in()
    text = hops.prompt("What is the capital of Peru?", "Peru", table.named("capital"), table)
    assert "Lima" not in text
    assert text.endswith("Question: What is the capital of Peru?\nAnswer:")
