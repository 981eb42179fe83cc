import pytest

from corrigenda.memory.mentions import Names
from corrigenda.memory.scope_context import completed
from corrigenda.memory.scope_parts import parts

NAMES = Names()
for number, name in enumerate(["Kazakhstan", "Almaty", "Omni Group", "Ada Low", "Uzbekistan", "It Was There"]):
    NAMES.add(f"edit{number}", [name])


@pytest.mark.parametrize(
    ("text", "before", "readings"),
    [
        ("Who is its president?", ["Tell me about Kazakhstan."], ["Who is Kazakhstan's president?"]),
        ("Where was she born?", ["Ada Low wrote this.", "Yes, a fine book."], ["Where was Ada Low born?"]),
        ("Where's her office?", ["Who is Ada Low?"], ["Where's Ada Low's office?"]),
        ("Who hired her?", ["Who is Ada Low?"], ["Who hired Ada Low?"]),
        ("Who owns the company?", ["Is Omni Group any good?"], ["Who owns Omni Group?"]),
        ("Who is the company CEO?", ["Is Omni Group any good?"], ["Who is Omni Group CEO?"]),
        ("Who owns the company I like?", ["Is Omni Group any good?"], ["Who owns Omni Group I like?"]),
        ("Which money do I need there?", ["I am off to Kazakhstan"], ["Which money do I need in Kazakhstan?"]),
        ("It's owned by", ["I work at Omni Group."], ["Omni Group is owned by"]),
        ("Hm... It's owned by", ["I work at Omni Group."], ["Hm... Omni Group is owned by"]),
        ("She's there with her?", ["Who is Ada Low?"], ["Ada Low is there with Ada Low?"]),
        ("WHO IS ITS PRESIDENT?", ["Tell me about Kazakhstan."], ["WHO IS Kazakhstan's PRESIDENT?"]),
        ("Who Is Its President?", ["Tell me about Kazakhstan."], ["Who Is Kazakhstan's President?"]),
        ("And the capital?", ["How big is Kazakhstan?", "Very big."], ["What is the capital of Kazakhstan?"]),
        ("What about Norway?", ["What is the capital of Kazakhstan?", "Almaty."], ["What is the capital of Norway?"]),
        ("And in Uzbekistan?", ["What do they speak in Kazakhstan?"], ["What do they speak in Uzbekistan?"]),
    ],
)
def test_what_points_back_is_completed(text, before, readings):
    assert completed(text, before, NAMES.find) == readings


def test_a_name_with_pronouns_in_it_is_put_in_as_it_is():
    before = ["Tell me about It Was There."]
    assert completed("Who is its director?", before, NAMES.find) == ["Who is It Was There's director?"]
    assert completed("When did she see it there?", before, NAMES.find) == [
        "When did It Was There see It Was There in It Was There?"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Who directed It Follows?",
        "Who is the director of Her?",
        "Who sang It's a Sin?",
        "Who wrote The Company?",
        "Who directed There Will Be Blood?",
        "Does anyone work in IT?",
    ],
)
def test_a_pronoun_with_a_capital_inside_a_sentence_is_a_name(text):
    assert completed(text, ["Tell me about Kazakhstan."], NAMES.find) == []


@pytest.mark.parametrize(
    "text",
    ["Who runs the company Apple?", "Who directed the film “Her”?", "Who sings that song Yesterday?"],
)
def test_a_thing_that_is_called_by_name_does_not_point_back(text):
    assert completed(text, ["Tell me about Kazakhstan."], NAMES.find) == []


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("Is the company German or French?", "Is Omni Group German or French?"),
        ("Is this company Jewish-owned?", "Is Omni Group Jewish-owned?"),
        ("Who leads the company Today?", "Who leads Omni Group Today?"),
        ("Where Is The Company Based?", "Where Is Omni Group Based?"),
    ],
)
def test_what_a_thing_is_said_to_be_is_not_its_name(text, reading):
    assert completed(text, ["Who founded Omni Group?"], NAMES.find) == [reading]


def test_the_last_exchange_supplies_the_names_last_first():
    before = ["Ada Low runs Omni Group.", "She does.", "What is the capital of Kazakhstan?", "Almaty."]
    assert completed("How many people live there?", before, NAMES.find) == [
        "How many people live in Almaty?",
        "How many people live in Kazakhstan?",
    ]


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("Who is its president?", []),
        ("Who is the president of France?", ["Tell me about Kazakhstan."]),
        ("Who is its president?", ["Tell me about Kazakhstan.", "Gladly.", "No, about France.", "France is big."]),
        ("Who is its president?", ["Good morning", "How can I help?"]),
        ("What is the capital of Uzbekistan and its population?", ["Tell me about Kazakhstan."]),
        ("Is there a pharmacy nearby?", ["Tell me about Kazakhstan."]),
        ("And France?", ["Good morning"]),
        ("And who owns Omni Group?", ["What is the capital of Kazakhstan?"]),
        ("Thanks!", ["Tell me about Kazakhstan."]),
    ],
)
def test_what_does_not_point_back_to_an_edit_is_left_as_it_is(text, before):
    assert completed(text, before, NAMES.find) == []


def test_a_message_points_back_to_its_own_beginning():
    found = parts("Kazakhstan is large. What is its capital?", [], NAMES.find)
    assert [part.text for part in found] == ["Kazakhstan is large.", "What is Kazakhstan's capital?"]
    (name,) = found[1].named
    assert name.ids == ("edit0",)
    assert name.mention is None
    assert found[1].text[name.match.start : name.match.end] == "Kazakhstan"


def test_parts_without_context_keep_places_in_the_query():
    found = parts("So. Who owns Omni Group?", [], NAMES.find)
    (name,) = found[-1].named
    assert name.mention is not None
    assert "So. Who owns Omni Group?"[name.mention.start : name.mention.end] == "Omni Group"
    assert found[-1].text[name.match.start : name.match.end] == "Omni Group"


def test_several_questions_are_several_parts():
    found = parts("Who owns Omni Group? And where was Ada Low born?", [], NAMES.find)
    assert [[name.ids for name in part.named] for part in found] == [[("edit2",)], [("edit3",)]]
