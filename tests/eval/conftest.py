from __future__ import annotations

import pytest
from scripted_methods import Scripted, make_case

from corrigenda.eval.scoring import Budget


@pytest.fixture
def scripted() -> type[Scripted]:
    return Scripted


@pytest.fixture
def budget() -> Budget:
    return Budget(lambda text: len(text.split()))


@pytest.fixture
def case():
    return make_case


@pytest.fixture
def two_capitals(scripted):
    """Two cases and a method on them, with every score written down:

    =============  ====  ======
    probe          A     B
    =============  ====  ======
    prompt         1     1
    paraphrase     1     0
    question       0     0
    river          1     0
    king           1     1
    =============  ====  ======
    """
    cases = [make_case("A", "France", "Lyon"), make_case("B", "Spain", "Porto")]
    method = scripted(
        bare={
            "The capital of France is": " Paris.",
            "The river of France is": " the Seine",
            "The king of France is": " dead",
            "The river of Spain is": " the Ebro",
            "The king of Spain is": " Felipe",
        },
        edited={
            ("Lyon", "The capital of France is"): " Lyon.",
            ("Lyon", "France's capital is"): " the Lyon City.",
            ("Lyon", "What is the capital of France?"): " Lyons",
            ("Porto", "The capital of Spain is"): " “Porto”, of course",
            ("Porto", "Spain's capital is"): " Madrid",
            ("Porto", "The river of Spain is"): " Porto",
            ("Porto", "The king of Spain is"): " Felipe.",
        },
    )
    return cases, method
