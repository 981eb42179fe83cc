from __future__ import annotations

import pytest

from corrigenda.chat import Chat
from corrigenda.edit import Edit
from corrigenda.middleware.strategies.auto import Auto
from corrigenda.middleware.strategies.base import UNLIMITED, Plan
from corrigenda.middleware.strategies.ike import IKE
from corrigenda.middleware.strategies.serac import SERAC

CAPITAL = Edit("The capital of Kazakhstan is", "Almaty", subject="Kazakhstan")
FOUNDER = Edit("Who founded Microsoft?", "Ada\nLovelace", subject="Microsoft")


@pytest.mark.parametrize(
    ("prompt", "prefix"),
    [
        ("Kazakhstan's capital is", " Almaty"),
        ("Kazakhstan's capital is ", "Almaty"),
        ("What is Kazakhstan's capital?", " Almaty"),
        ([{"role": "user", "content": "What is Kazakhstan's capital?"}], "Almaty"),
    ],
)
def test_the_answer_begins_with_the_target(candidate, prompt, prefix: str):
    request = Chat.of(prompt)
    plan = Auto().plan(request, [candidate(CAPITAL, request.query.strip())])
    assert plan.request is request
    assert (plan.prefix, plan.strategy) == (prefix, "auto/constrained")
    # Only a question that is continued as text is over with its answer.
    assert (plan.stop is not None) == (prompt == "What is Kazakhstan's capital?")


def test_two_questions_get_both_targets(candidate):
    query = "Who founded Microsoft, and what is Kazakhstan's capital?"
    edits = [candidate(CAPITAL, query), candidate(FOUNDER, query)]
    plan = Auto().plan(Chat.of([{"role": "user", "content": query}]), edits)
    assert plan.prefix == "Ada Lovelace and Almaty"


@pytest.mark.parametrize("query", ["Write a poem about Kazakhstan's capital.", "Is Almaty Kazakhstan's capital?"])
def test_the_rest_is_ike(candidate, query: str):
    request = Chat.of(query)
    edits = [candidate(CAPITAL, query)]
    plan = Auto().plan(request, edits)
    assert plan.strategy == "auto/ike"
    assert plan.request == IKE().plan(request, edits).request


def test_a_step_of_several_is_not_forced(candidate):
    query = "Kazakhstan's capital is"
    assert Auto().plan(Chat.of(query), [candidate(CAPITAL, query, verdict="needs")]).prefix == ""


def test_constraining_can_be_switched_off(candidate):
    query = "Kazakhstan's capital is"
    plan = Auto(constrain=False).plan(Chat.of(query), [candidate(CAPITAL, query)])
    assert (plan.prefix, plan.strategy, plan.bare_line) == ("", "auto/ike", True)


def test_another_strategy_may_take_the_rest(candidate):
    class Silent:
        name = "silent"

        def plan(self, request, edits, *, room=UNLIMITED):
            return Plan(request, strategy=self.name, answer="Nothing.", detail=(1, 2))

    plan = Auto(otherwise=Silent()).plan(Chat.of("Compare."), [candidate(CAPITAL, "Compare.")])
    assert (plan.strategy, plan.answer, plan.detail) == ("auto/silent", "Nothing.", (1, 2))


def test_seracs_own_model_answers_for_the_rest_too(candidate):
    plan = Auto(otherwise=SERAC()).plan(Chat.of("Write a poem about Kazakhstan"), [candidate(CAPITAL, "Compare.")])
    assert plan.strategy == "auto/serac"
    assert plan.worker is not None
