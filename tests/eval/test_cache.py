from __future__ import annotations

import pytest

from corrigenda.errors import CorrigendaError
from corrigenda.eval.cache import Cached, cache_file


@pytest.fixture
def bare(scripted):
    return scripted(bare={"a": " A", "b": " B"}, first_choices={("a", "x"): (True, False)})


def test_each_thing_is_asked_once(bare):
    cached = Cached(bare)
    assert cached.generate(["a", "b", "a"], max_new_tokens=4) == [" A", " B", " A"]
    assert cached.generate(["b", "c"], max_new_tokens=4) == [" B", ""]
    assert cached.generate(["a"], max_new_tokens=8) == [" A"]
    assert bare.calls == [("generate", 2), ("generate", 1), ("generate", 1)]
    first = cached.score(["a", "a"], ["x", "x"])
    assert first == cached.score(["a", "a"], ["x", "x"])
    assert first[0].argmax_matches == (True, False)
    assert bare.calls[3:] == [("score", 1)]
    assert cached.generate([], max_new_tokens=1) == []


def test_it_takes_edits_and_does_nothing(bare):
    Cached(bare).edit([]).revert()
    assert bare.live == []


def test_hits_and_misses(bare):
    cached = Cached(bare)
    cached.generate(["a", "b", "a"], max_new_tokens=4)
    cached.score(["a"], ["x"])
    cached.score(["a"], ["x"])
    assert (cached.hits, cached.misses) == (2, 3)


def test_a_place_that_cannot_be_written_costs_only_time(bare, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "answers.jsonl", tmp_path):
        cached = Cached(bare, path)
        assert cached.generate(["a"], max_new_tokens=4) == [" A"]
        assert cached.score(["a"], ["x"]) == cached.score(["a"], ["x"])
    assert [
        record.getMessage().startswith("the unedited model's answers are not kept") for record in caplog.records
    ] == [
        True,
        True,
    ]


def test_answers_survive_on_disk_and_damage_costs_only_time(bare, tmp_path):
    path = tmp_path / "deep" / "answers.jsonl"
    first = Cached(bare, path)
    first.generate(["a", "ü\n"], max_new_tokens=4)
    first.score(["a"], ["x"])
    asked = list(bare.calls)
    again = Cached(bare, path)
    assert again.generate(["a", "ü\n"], max_new_tokens=4) == [" A", ""]
    assert again.score(["a"], ["x"]) == first.score(["a"], ["x"])
    assert bare.calls == asked
    with path.open("ab") as file:
        file.write(b'{"key": "torn", "te\xff')
    again.generate(["b"], max_new_tokens=4)
    with path.open("ab") as file:
        file.write(b'\n7\n{"key": 1}\n{"key": "k", "log_probs": 7, "matches": []}\n')
    third = Cached(bare, path)
    before = len(bare.calls)
    assert third.generate(["a", "b"], max_new_tokens=4) == [" A", " B"]
    assert len(bare.calls) == before


def test_collecting_notes_and_asks_at_the_end(bare):
    cached = Cached(bare)
    cached.generate(["a"], max_new_tokens=4)
    with cached.collecting():
        assert cached.is_collecting
        assert cached.generate(["a", "b"], max_new_tokens=4) == [" A", ""]
        assert cached.generate(["c", "b"], max_new_tokens=4) == ["", ""]
        assert not cached.score(["a"], ["x"])[0].argmax_matches[0]
    assert not cached.is_collecting
    assert bare.calls == [("generate", 1), ("generate", 2), ("score", 1)]
    assert cached.generate(["b"], max_new_tokens=4) == [" B"]
    assert cached.score(["a"], ["x"])[0].argmax_matches == (True, False)
    assert len(bare.calls) == 3
    with cached.collecting():
        pass
    assert len(bare.calls) == 3


def test_what_is_refused_while_collecting_is_refused_again_in_earnest(bare):
    bare.too_long = frozenset({"b"})
    cached = Cached(bare)
    with cached.collecting():
        cached.generate(["a", "b"], max_new_tokens=4)
    with pytest.raises(CorrigendaError, match="too long"):
        cached.generate(["b"], max_new_tokens=4)
    assert cached.generate(["a"], max_new_tokens=4) == [" A"]


def test_an_error_while_collecting_ends_it(bare):
    cached = Cached(bare)

    def fail():
        with cached.collecting():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not cached.is_collecting


def test_the_file_tells_model_and_settings(tmp_path):
    one = cache_file(tmp_path, "f1", ("natural", 8))
    assert one == cache_file(tmp_path, "f1", ("natural", 8))
    assert len({one, cache_file(tmp_path, "f2", ("natural", 8)), cache_file(tmp_path, "f1", ("line", 8))}) == 3
    assert one.parent == tmp_path / "eval"
