from __future__ import annotations

import json
from pathlib import Path

import pytest

from corrigenda.errors import DatasetError
from corrigenda.middleware.knowledge import ModelKnowledge, Several, Tables
from corrigenda.middleware.relations import Relations
from corrigenda.testing import FixedEncoder

TABLE = Relations.built_in()
COUNTRY, CAPITAL = TABLE.table["country"], TABLE.table["capital"]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text", ['{"Iran": ["Persia"], "Côte": ["Coast"]}', '{"name": "Iran", "aliases": ["Persia"]}\n\n'], ids=str
)
def test_alias_tables(tmp_path: Path, text: str):
    tables = Tables.read(aliases=write(tmp_path / "a.json", text))
    assert (tables.aliases("iran"), tables.aliases("Persia"), tables.aliases("Peru")) == (["Persia"], ["Iran"], [])
    assert tables.name == "a.json"


def test_facts_are_found_under_any_name(tmp_path: Path):
    facts = '["Osaka", "country", "Japan"]\n{"subject": "Persia", "relation": "Capital", "object": "Tehran"}\n'
    tables = Tables.read(
        aliases=write(tmp_path / "a.json", '{"Iran": ["Persia"]}'), facts=write(tmp_path / "f.jsonl", facts)
    )
    questions = [("osaka", COUNTRY), ("Iran", CAPITAL), ("Osaka", CAPITAL)]
    assert tables.objects(questions) == [("Japan",), ("Tehran",), ()]
    assert Tables().objects(questions) == [(), (), ()]


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("aliases", '{"name": "Iran", "aliases": 3}', "line 1: aliases must be a list"),
        ("aliases", '{"Iran": "Persia"}', "'Iran': aliases must be a list"),
        ("aliases", "[1]", "line 1: expected an object"),
        ("aliases", '{"name": "a", "aliases": []}\nx', "line 2: not JSON"),
        ("facts", '["a", "b"]', "line 1: expected three texts"),
        ("facts", '{"subject": "a"}', "line 1: expected three texts"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, kind: str, text: str, message: str):
    with pytest.raises(DatasetError, match=message):
        Tables.read(**{kind: write(tmp_path / "t", text)})
    with pytest.raises(DatasetError, match="cannot be read"):
        Tables.read(**{kind: tmp_path / "none"})


def test_the_model_is_a_source_like_any_other():
    asked = []

    def ask(requests):
        asked.extend(requests)
        return [" Japan.\n", ""]

    model = ModelKnowledge(ask, name="tiny")
    assert model.objects([("Osaka", COUNTRY), ("Nowhere", COUNTRY)]) == [("Japan",), ()]
    assert asked[0].query.endswith("Question: In which country is Nowhere?\nAnswer:") is False
    assert asked[0].query.endswith("Question: In which country is Osaka?\nAnswer:")
    assert model.objects([]) == []
    assert model.aliases("Osaka") == ()


def test_the_first_source_that_knows_counts():
    first = Tables({"Iran": ["Persia"]}, [("Iran", "capital", "Tehran")], name="one")
    second = Tables({"Iran": ["Eran"]}, [("Iran", "capital", "Isfahan"), ("Iran", "country", "Iran")], name="two")
    both = Several([first, second])
    assert both.objects([("Iran", CAPITAL), ("Iran", COUNTRY)]) == [("Tehran",), ("Iran",)]
    assert both.aliases("Iran") == ["Persia", "Eran"]
    assert (both.name, Several([]).name) == ("one, two", "nothing")


class TestRelations:
    def test_built_in_ones_are_whole(self):
        for relation in TABLE.table.values():
            assert all(text.count("{}") == 1 for text in relation.wordings)
            assert relation.examples
            assert relation.phrase.startswith("the ")
            if relation.inverse:
                back = TABLE.named(relation.inverse)
                assert back is not None
                assert TABLE.named(back.inverse) == relation

    def test_a_wording_is_recognised(self):
        encoder = FixedEncoder(64)
        # Not "What is the capital of X?": to an encoder of bags of words that is "What is X the capital of?", too.
        meant = TABLE.meant(["What city serves as the capital of X?", "How much is the fish?"], encoder)
        assert [item and item.name for item in meant] == ["capital", None]
        assert TABLE.meant([], encoder) == []
        assert Relations({}).meant(["What is X?"], encoder) == [None]
        assert TABLE.named(None) is None

    def test_a_file_adds_to_them(self, tmp_path: Path):
        row = (
            '{"relation": "mayor", "question": "Who is the mayor of {}?", "statement": "The mayor of {} is", '
            '"phrases": ["the mayor of {}"], "of": ["city"], "object": ["person"], "many": false}\n'
        )
        path = write(tmp_path / "r.jsonl", row)
        table = Relations.read(path)
        mayor = table.named("Mayor")
        assert mayor is not None
        assert (mayor.of, mayor.object, mayor.phrase, mayor.examples) == (("city",), ("person",), "the mayor of {}", ())
        assert table.named("capital") is not None
        assert Relations.read(path, built_in=False).named("capital") is None

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("x", "not JSON"),
            ("[]", "is a JSON object"),
            ('{"relation": "r"}', "not a relation"),
            ('{"relation": "r", "question": "?", "statement": "{}", "phrases": ["{}"]}', "with one {} each"),
            ('{"relation": "r", "question": "{}", "statement": "{}", "phrases": []}', "with one {} each"),
        ],
    )
    def test_bad_files_are_named(self, tmp_path: Path, line: str, message: str):
        with pytest.raises(DatasetError, match=f"r.jsonl, line 1: .*{message}"):
            Relations.read(write(tmp_path / "r.jsonl", line))
        with pytest.raises(DatasetError, match="cannot be read"):
            Relations.read(tmp_path / "none")


def test_a_line_ends_where_json_lines_do(tmp_path: Path):
    rows = json.dumps(["Omni\u2028Group", "country", "USA"], ensure_ascii=False) + "\r\n\n"
    tables = Tables.read(facts=write(tmp_path / "facts.jsonl", rows + '["Osaka", "country", "Japan"]'))
    assert tables.objects([("Omni\u2028Group", COUNTRY)]) == [("USA",)]
