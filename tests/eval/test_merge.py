from __future__ import annotations

import json

import pytest

from corrigenda.errors import EvaluationError
from corrigenda.eval.journal import journal_path, read
from corrigenda.eval.merge import merge_shards
from corrigenda.eval.meter import Meter, peak_memory_mb


@pytest.fixture
def shards(evaluate, tmp_path):
    def shards(count, *more):
        paths = [tmp_path / f"part{number}.json" for number in range(1, count + 1)]
        for number, path in enumerate(paths, start=1):
            evaluate("--out", path, "--shard", f"{number}/{count}", *more)
        return paths

    return shards


@pytest.mark.parametrize("protocol", ["single", "sequential"])
def test_shards_make_the_whole(shards, evaluate, call, tmp_path, protocol):
    paths = shards(3, "--protocol", protocol)
    out, whole = tmp_path / "merged.json", tmp_path / "whole.json"
    call("eval", "merge", *paths, "--out", out)
    evaluate("--out", whole, "--protocol", protocol)
    merged, once = json.loads(out.read_text()), json.loads(whole.read_text())
    assert merged["metrics"] == once["metrics"]
    assert merged["cases"]["total"] == 6
    assert merged["shard"] == [1, 1]
    assert {row["case"] for row in read(journal_path(out)).rows} == {str(number) for number in range(1, 7)}
    assert "reliability" in call("eval", "show", out, "--failures").stdout
    single = json.loads(paths[0].read_text())["cost"]
    assert merged["cost"]["cache_misses"] >= single["cache_misses"]
    assert merged["cost"]["peak_memory_mb"] >= single["peak_memory_mb"]


def test_shards_that_do_not_fit(shards, evaluate, tmp_path):
    one, two = shards(2)
    out = tmp_path / "merged.json"
    with pytest.raises(EvaluationError, match="these are the shards 1/2") as caught:
        merge_shards([one], out)
    assert "1/2 … 2/2" in caught.value.remedy
    with pytest.raises(EvaluationError, match="these are the shards 1/2, 1/2"):
        merge_shards([one, one], out)
    evaluate("--out", two, "--shard", "2/2", "--seed", "5")
    with pytest.raises(EvaluationError, match="differ in 'data'"):
        merge_shards([one, two], out)
    with pytest.raises(EvaluationError, match="no shards"):
        merge_shards([], out)
    found = json.loads(one.read_text())
    one.write_text(json.dumps({**found, "journal": None}))
    with pytest.raises(EvaluationError, match="has no shard or no journal"):
        merge_shards([one, two], out)


def test_a_case_in_two_shards_is_found(shards, tmp_path):
    one, two = shards(2)
    rows = journal_path(one).read_text().splitlines(keepends=True)
    with journal_path(two).open("a") as file:
        file.write(rows[1])
    with pytest.raises(EvaluationError, match="is in two shards"):
        merge_shards([one, two], tmp_path / "merged.json")


def test_energy_where_it_can_be_read(tmp_path):
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of the package, counted in it already
    (package / "max_energy_range_uj").write_text("10000000\n")
    (package / "energy_uj").write_text("9000000\n")
    meter = Meter(tmp_path)
    (package / "energy_uj").write_text("2000000\n")  # the counter has started again: 10 - 9 + 2 = 3 J
    assert meter.read()["energy_joules"] == 3.0
    (package / "energy_uj").unlink()
    assert meter.read()["energy_joules"] is None
    assert Meter(tmp_path / "nowhere").read()["energy_joules"] is None
    assert meter.read()["peak_memory_mb"] == pytest.approx(peak_memory_mb(), rel=0.2)
