from __future__ import annotations

import threading
import time
import unicodedata
from collections.abc import Iterator

import pytest

from corrigenda.edit import EditId
from corrigenda.memory.mentions import MAX_NAME_TOKENS, Names, _fold_word, name_tokens, tokenize


def table(*names: str) -> Names:
    found = Names()
    for number, name in enumerate(names):
        found.add(EditId(f"e{number}"), [name])
    return found


def found(names: Names, text: str) -> list[str]:
    return [text[mention.start : mention.end] for mention in names.find(text)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("Kazakhstan", "What is Kazakhstan's capital?", ["Kazakhstan"]),
        ("Kazakhstan", "what is KAZAKHSTAN’S capital", ["KAZAKHSTAN"]),
        ("Kazakhstan", "Kazakhstani food", []),
        ("Windows NT 3.5", "Who made Windows NT 3.51?", []),
        ("Windows NT 3.5", "Who made Windows NT 3.5?", ["Windows NT 3.5"]),
        ("Windows NT 3.5", "windows  nt\n3.5.", ["windows  nt\n3.5"]),
        ("Jean-Luc Picard", "Captain Jean Luc Picard", ["Jean Luc Picard"]),
        ("Hewlett Packard", "the Hewlett-Packard company", ["Hewlett-Packard"]),
        ("O'Brien", "Did O’Brien win?", ["O’Brien"]),
        ("McDonald's", "A McDonald’s burger", ["McDonald’s"]),
        ("McDonald", "A McDonald's burger", ["McDonald"]),
        ("C++", "Is C++ older than C# or C?", ["C++"]),
        ("C", "Is C++ older than C# or C?", ["C"]),
        ("AT&T", "Is AT & T big?", ["AT & T"]),
        ("São Tomé", unicodedata.normalize("NFD", "the island São Tomé."), [unicodedata.normalize("NFD", "São Tomé")]),
        ("Straße", "STRASSE", ["STRASSE"]),
        ("ﬁlm", "The FILM", ["FILM"]),
        ("日本", "日本の首都は", ["日本"]),
        ("ประเทศไทย", "เมืองหลวงของประเทศไทยคือ", ["ประเทศไทย"]),
        ("नेपाल", "नेपाल की राजधानी", ["नेपाल"]),
        ("नेप", "नेपाल की राजधानी", []),
        ("1,000", "1,000 and 1,0000", ["1,000"]),
        ("!!!", "The band !!!", []),
    ],
)
def test_a_name_in_a_text(name: str, text: str, expected: list[str]) -> None:
    assert found(table(name), text) == expected


@pytest.mark.parametrize(
    ("text", "extended"),
    [
        ("Who made Windows NT 3.5?", False),
        ("Who made Windows NT 3.5 Server?", True),
        ("Who made Windows NT 3.5 and Office?", False),
        ("Windows NT 3.5. Server", False),
        ("Microsoft Windows NT 3.5", True),
        ("Is Windows NT 3.5 old?", False),
        ("Yes. The Windows NT 3.5", False),
        ("In 1994, Windows NT 3.5 came", False),
        ("the IT Windows NT 3.5", True),
        ("J. Windows NT 3.5", True),
        ("old-Windows NT 3.5-Beta", True),
        ("Windows NT 3.5 2000", True),
        ("Windows NT 3.5's Kernel", False),
    ],
)
def test_a_longer_name_is_suspected(text: str, extended: bool) -> None:
    (mention,) = table("Windows NT 3.5").find(text)
    assert mention.extended is extended


def test_longest_first_and_nested() -> None:
    names = table("Kazakhstan", "President of Kazakhstan", "President", "Peru")
    text = "Peru met the president of Kazakhstan"
    mentions = names.find(text)
    assert [text[m.start : m.end] for m in mentions] == ["president of Kazakhstan", "Peru", "president", "Kazakhstan"]
    assert [m.nested for m in mentions] == [False, False, True, True]


def test_many_edits_one_name() -> None:
    names = Names()
    names.add(EditId("e1"), ["NASA", "National Aeronautics and Space Administration"])
    names.add(EditId("e2"), ["Nasa"])
    (mention,) = names.find("Who runs nasa?")
    assert (mention.edit_ids, mention.name) == (("e1", "e2"), "NASA")
    assert names.ids_named("N.A.S.A.") == ()
    assert names.ids_named("nasa!") == ("e1", "e2")
    (mention,) = names.find("Who runs nasa?", holds=lambda edit_id: edit_id == "e2")
    assert (mention.edit_ids, mention.name) == (("e2",), "Nasa")
    assert names.find("Who runs nasa?", holds=lambda edit_id: False) == []
    names.remove(EditId("e1"), ["NASA", "National Aeronautics and Space Administration"])
    names.remove(EditId("e1"), ["NASA", "never there"])
    assert len(names) == 1
    names.remove(EditId("e2"), ["Nasa"])
    assert len(names) == 0
    assert names.find("Who runs nasa?") == []


def test_names_with_a_token() -> None:
    names = table("Bank of China", "Bank of Peru", "River Bank")
    assert names.names_with_token("BANK") == ["Bank of China", "Bank of Peru", "River Bank"]
    assert names.names_with_token("bank", limit=1) == ["Bank of China"]
    names.add(EditId("e9"), ["Bank Street"])
    names.remove(EditId("e1"), ["Bank of Peru"])
    assert names.names_with_token("bank") == ["Bank of China", "River Bank", "Bank Street"]
    assert names.names_with_token("nothing") == []


def test_a_character_that_stands_for_a_phrase_is_one_token() -> None:
    names = table("Muhammad ﷺ", "Muhammad Ali")
    assert found(names, "Where was Muhammad ﷺ born?") == ["Muhammad ﷺ"]
    assert names.names_with_token("muhammad") == ["Muhammad ﷺ", "Muhammad Ali"]
    names.remove(EditId("e0"), ["Muhammad ﷺ"])
    assert names.names_with_token("muhammad") == ["Muhammad Ali"]
    assert names.names_with_token("ﷺ") == []


def test_a_name_that_goes_while_the_table_of_tokens_is_built() -> None:
    class Slow(dict[str, dict[EditId, str]]):
        def __iter__(self) -> Iterator[str]:
            for key in list(super().__iter__()):
                begun.set()
                time.sleep(0.01)
                yield key

    begun = threading.Event()
    names = table(*(f"Land {number}" for number in range(20)))
    names._entries = Slow(names._entries)
    reader = threading.Thread(target=names.names_with_token, args=("land",))
    reader.start()
    begun.wait()
    names.remove(EditId("e19"), ["Land 19"])
    names.add(EditId("e20"), ["Land 20"])
    reader.join()
    assert names.names_with_token("land")[-2:] == ["Land 18", "Land 20"]


def test_sentences_are_not_names() -> None:
    assert len(table("word " * (MAX_NAME_TOKENS + 1))) == 0
    assert len(table("word " * MAX_NAME_TOKENS)) == 1


def test_tokens_count_the_places_of_the_text_itself() -> None:
    text = "ﬁrst İstanbul’s 3.51, x_y"
    assert [text[token.start : token.end] for token in tokenize(text)] == ["ﬁrst", "İstanbul", "’s", "3.51", "x_y"]
    assert name_tokens("ﬁrst") == ("first",)


def test_what_is_no_word_is_not_remembered() -> None:
    before = _fold_word.cache_info().currsize
    assert tokenize("A" * 10_000)[0].folded == "a" * 10_000
    assert _fold_word.cache_info().currsize == before


def test_the_cost_does_not_grow_with_the_edits() -> None:
    text = "Who is the head of state 77 in land 9, and what is the name of the capital of state 123?"

    def cost(count: int) -> float:
        names = Names()
        for i in range(count):
            names.add(EditId(f"e{i}"), [f"state {i} in land {i % 10}"])
        best = 1.0
        for _ in range(20):
            start = time.perf_counter()
            names.find(text)
            best = min(best, time.perf_counter() - start)
        return best

    assert cost(30_000) < 5 * cost(300) + 1e-4
