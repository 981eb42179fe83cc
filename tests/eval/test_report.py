"""Reports: what is compared, what is marked, and that the files stand by themselves."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser

import pytest
from scripted_methods import Scripted, make_case

from corrigenda.errors import EvaluationError
from corrigenda.eval import results
from corrigenda.eval.asking import Budget, Columns
from corrigenda.eval.datasets.detect import Dataset
from corrigenda.eval.journal import Journal, journal_path
from corrigenda.eval.protocol import Run
from corrigenda.eval.report import charts, write_report
from corrigenda.eval.report.entries import read_entries, settings_of
from corrigenda.eval.report.runs import command
from corrigenda.eval.report.significance import differ, holm, sign_flip
from corrigenda.eval.report.tables import tables_of

SHA = "0" * 64


@pytest.fixture
def scored(tmp_path):
    """Write a results file, with its journal, of a method that is right about the first ``right`` of 12 capitals."""

    def scored(method, right, *, data="capitals", protocol="sequential", journal=True, **changes):
        cases = [make_case(str(n), f"Land {n}", f"Town {n}", relation=f"P{n % 3}") for n in range(12)]
        edited = {(c.edits[0].target, c.edits[0].prompt): f" {c.edits[0].target}" for c in cases[:right]}
        path = tmp_path / f"{data}-{method}-{protocol}.json"
        kept = Journal.open(journal_path(path), {}, fresh=True) if journal else Journal()
        run = Run(
            Scripted(edited=edited),
            Scripted(),
            Budget(lambda text: len(text.split())),
            protocol=protocol,
            columns=Columns(forced=False),
            checkpoints=(4, 8) if protocol == "sequential" else (),
            journal=kept,
        )
        rows = run(cases)
        dataset = Dataset(f"{data}.json", "edits", SHA, tuple(cases))
        found = {
            "schema": results.KIND,
            "method": method,
            "protocol": protocol,
            "shard": [1, 1],
            **results.summarise(rows, kept.notes, [case.id for case in cases]),
            "cases": results.count_cases(rows, 0),
            "data": results.describe_data(dataset, 12, 0),
            "edits": results.describe_edits(cases),
            "model": {"name": "scripted", "fingerprint": "f" * 64, "dtype": "float32", "device": "cpu"},
            "settings": {"context": "completion", "forced": False, "tasks": []},
            "cost": {
                **results.cost_of(rows, len),
                "wall_seconds": 1.0,
                "peak_memory_mb": 1234.5,
                "cache_hits": 0,
                "cache_misses": 0,
            },
            "versions": results.versions(),
            "commit": None,
            "started": "2026-01-31T12:00:00+00:00",
            "journal": journal_path(path).name if journal else None,
        }
        found = copy.deepcopy(found) | changes
        results.save(found, path)
        return path

    return scored


TASK = {
    "piqa": {
        "file": "piqa.jsonl",
        "live": 12,
        "before": {"value": 0.66, "norm": 0.67, "n": 100, "stderr": 0.05, "unscored": 0},
        "after": {"value": 0.62, "norm": 0.6, "n": 100, "stderr": 0.05, "unscored": 0},
        "drop": 0.04,
        "drop_stderr": 0.02,
    }
}


def table(entries, title):
    (found,) = [item for item in tables_of(entries, entries[0].setting) if item.title.startswith(title)]
    return found


def test_the_best_is_marked_and_what_is_like_it(scored):
    entries = read_entries([scored("good", 12), scored("fair", 11), scored("bad", 2), scored("none", 0)])
    assert [entry.label for entry in entries] == ["none", "bad", "fair", "good"]
    first = table(entries, "Table 1")
    assert first.groups == (("capitals", 4),)
    assert first.columns == ("N", "Reliability", "Generalization", "Locality")
    reliability = {method: cells[1] for method, cells in first.rows}
    assert {method: cell.mark for method, cell in reliability.items()} == {
        "none": "",  # the unedited model takes no part
        "bad": "worse",
        "fair": "like",
        "good": "best",
    }
    assert reliability["fair"].text == "0.917"
    assert reliability["bad"].note.startswith("±0.1")


def test_side_effects_and_costs(scored):
    entries = read_entries([scored("good", 12, tasks=TASK), scored("bad", 2)])
    third = table(entries, "Table 3")
    assert third.columns == ("N", "PIQA")
    assert dict(third.rows)["good"][1].note == "(-0.040)"
    assert dict(third.rows)["bad"][1].text == "–"
    fourth = table(entries, "Table 4")
    assert dict(fourth.rows)["good"][5].text == "1,234"


def test_what_differs_in_protocol_or_model_is_not_in_one_table(scored):
    one, two = scored("good", 12), scored("good", 12, protocol="single")
    other = scored("good", 12, data="rivers")
    entries = read_entries([one, two, other])
    assert [setting.title for setting in settings_of(entries)] == [
        "Single edits",
        "Sequential edits, scored after all of them",
    ]
    assert table([entry for entry in entries if entry.results["protocol"] == "sequential"], "Table 1").groups == (
        ("capitals", 4),
        ("rivers", 4),
    )


def test_twins_are_told_apart_by_their_files(scored, tmp_path):
    one = scored("good", 12)
    two = tmp_path / "again.json"
    two.write_text(one.read_text())
    assert {entry.label for entry in read_entries([one, two])} == {
        "good (again)",
        "good (capitals-good-sequential)",
    }


def test_twins_in_files_of_one_name_are_told_apart_by_folders_then_by_numbers(scored, tmp_path):
    text = scored("good", 12, journal=False).read_text()
    paths = [tmp_path / folder / "r.json" for folder in ("A", "B", "x/B")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert {entry.label for entry in read_entries([*paths[:2], paths[0]])} == {"good (A/r)", "good (B/r)"}
    entries = read_entries(paths)
    assert {entry.label for entry in entries} == {"good (A/r)", "good (B/r #2)", "good (B/r #3)"}
    assert len(table(entries, "Table 1").rows) == 3


def test_data_sets_whose_names_differ_by_their_ending_share_a_table(scored, tmp_path):
    one, other = scored("good", 12), tmp_path / "other.json"
    found = json.loads(one.read_text())
    other.write_text(json.dumps({**found, "data": {**found["data"], "name": "capitals.jsonl"}}))
    assert len(table(read_entries([one, other]), "Table 1").rows) == 2


def test_paired_where_there_are_journals_else_by_errors(scored):
    good, bad = read_entries([scored("good", 12), scored("bad", 2)])[::-1]
    assert differ(good, bad, "reliability") < 0.01
    unpaired = read_entries([scored("good", 12, journal=False), scored("bad", 2, journal=False)])
    assert unpaired[0].by_case == {}
    assert differ(unpaired[1], unpaired[0], "reliability") < 0.001
    assert differ(unpaired[1], unpaired[0], "locality") == 1.0
    assert differ(good, bad, "fluency") is None


def test_perfect_scores_of_few_cases_are_not_significant(scored):
    perfect = {"value": 1.0, "n": 2, "stderr": 0.0, "probes": 2, "unscored": 0, "higher_is_better": True}
    good = scored("good", 12, journal=False, metrics={"reliability": {**perfect, "low": 1.0, "high": 1.0}})
    bad = scored("bad", 0, journal=False, metrics={"reliability": {**perfect, "value": 0.0, "low": 0.0, "high": 0.0}})
    entries = read_entries([good, bad])
    assert differ(*entries, "reliability") is None
    assert dict(table(entries, "Table 1").rows)["bad"][1].mark == ""


def test_the_legend_names_the_test_that_was_made(scored, tmp_path):
    def legends(*paths):
        for ending in ("md", "html"):
            write_report(paths, tmp_path / f"legend.{ending}")
        return [(tmp_path / f"legend.{ending}").read_text("utf-8") for ending in ("md", "html")]

    kept, bare = [scored(name, 12) for name in "ab"], [scored(name, 12, journal=False) for name in "cd"]
    assert all("(paired sign-flip test over the cases that both scored, Holm" in text for text in legends(*kept))
    assert all("(normal approximation from both standard errors, Holm" in text for text in legends(*bare))
    assert all("standard errors where a journal is missing, Holm" in text for text in legends(*kept, *bare))
    assert all("(normal approximation" in text for text in legends(kept[0], *bare))


def test_a_journal_that_is_gone_is_done_without(scored):
    path = scored("good", 12)
    journal_path(path).unlink()
    assert read_entries([path])[0].by_case == {}


def test_sign_flips_by_hand():
    # three differences of one sign: 2 of the 8 patterns are as extreme, p = 1/4
    assert sign_flip([1.0, 1.0, 1.0]) == pytest.approx(0.25, abs=0.03)
    # nothing differs: every pattern is as extreme
    assert sign_flip([0.0, 0.0]) == 1.0
    assert sign_flip([1.0] * 20) < 0.001
    assert sign_flip([1.0, -1.0] * 10) == 1.0


def test_holm_by_hand():
    # .01 < .05/3; .02 < .05/2; .2 > .05: the first two
    assert holm({"a": 0.02, "b": 0.01, "c": 0.2, "d": None}) == {"a": True, "b": True, "c": False, "d": False}
    # .03 > .05/2: nothing, although .04 alone would be below .05
    assert holm({"a": 0.03, "b": 0.04}) == {"a": False, "b": False}


class Links(HTMLParser):
    """Collects what a page would fetch, and whether its tags close."""

    def __init__(self):
        super().__init__()
        self.fetched, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.fetched += [value for name, value in attributes if name in ("src", "href") and not value.startswith("#")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_self_contained_and_shows_everything(scored, tmp_path):
    paths = [scored("good", 12, tasks=TASK), scored("bad", 2), scored("none", 0)]
    out = tmp_path / "reports" / "report.html"
    write_report(paths, out, title="Capitals & <more>")
    text = out.read_text("utf-8")
    page = Links()
    page.feed(text)
    assert page.fetched == []
    assert page.open == []
    assert "<h1>Capitals &amp; &lt;more&gt;</h1>" in text
    for title in ("Table 1", "Table 3", "Table 4", "Reliability against locality", "Retention", "By relation"):
        assert title in text
    assert text.count("<svg") == 3
    assert "@media print" in text
    assert "<script" not in text


def test_markdown(scored, tmp_path):
    out = tmp_path / "report.md"
    write_report([scored("good", 12), scored("bad", 2)], out)
    text = out.read_text("utf-8")
    assert "| `good` | 12 | **1.000** ±0.000 |" in text
    assert "| `bad` | 12 | 0.167 ±0.112 ▾ |" in text
    assert "corrigenda eval run --data capitals.json --method good --protocol sequential --seed 0 --limit 12" in text
    widths = {
        len(re.split(r"(?<!\\)\|", line)) for line in text.split("## Runs")[1].splitlines() if line.startswith("|")
    }
    assert len(widths) == 1


def test_the_command_names_every_setting():
    found = {
        "method": "memit",
        "protocol": "stream",
        "data": {"name": "builtin.jsonl", "limit": None, "seed": 3},
        "model": {"name": "my model"},
        "settings": {
            "context": "question",
            "together": 5,
            "retracted": 0.2,
            "checkpoints": [5, 10],
            "forced": False,
            "success": True,
            "divergence": True,
            "writing": 2,
            "distract": 1,
            "tasks": [{"file": "piqa.jsonl", "n": 50}],
        },
    }
    assert command(found) == (
        "corrigenda eval run --data builtin --method memit --protocol stream --seed 3 --context question "
        "--edits-per-batch 5 --retract 0.2 --checkpoints 5,10 --no-teacher-forced --success --divergence --writing 2 "
        "--distract 1 --task piqa.jsonl --task-limit 50 --model 'my model'"
    )
    more = {
        "at_edit": 0,
        "max_new_tokens": {"locality": 16, "least": 8, "slack": 4},
        "judge": "other",
        "scope_threshold": 0.85,
        "expansion": {"kinds": ["alias", "one_hop"], "alias_table": {"file": "n.json"}, "facts": {"file": "f.jsonl"}},
    }
    found = found | {"method": "auto", "protocol": "sequential", "shard": [2, 4], "settings": more}
    assert command(found) == (
        "corrigenda eval run --data builtin --method auto --protocol sequential --seed 3 --at-edit 0 --judge other "
        "--threshold 0.85 --expand alias --expand one_hop --alias-table n.json --facts f.jsonl --locality-tokens 16 "
        "--shard 2/4 --model 'my model'"
    )


def test_reports_that_cannot_be_written(scored, tmp_path):
    path = scored("good", 12)
    with pytest.raises(EvaluationError, match=r"as report.pdf"):
        write_report([path], tmp_path / "report.pdf")
    with pytest.raises(EvaluationError, match="no results to compare"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(EvaluationError, match="cannot be written"):
        write_report([path], path / "report.html")


def test_charts_place_values_where_they_belong():
    colours = charts.colour_of(["a", "b"])
    svg = charts.scatter([charts.Spot("a", 1.0, 0.5, 0.1, 0.1)], colours, x="locality", y="reliability", label="a < b")
    assert 'aria-label="a &lt; b"' in svg
    assert "a: 1.000, 0.500" in svg
    lines = charts.line_chart(
        [charts.Series("a", ((1, 0.0), (10, 1.0))), charts.Series("b", ((1, 1.0), (10, 1.0)))],
        colours,
        x="edits",
        y="reliability",
        label="l",
    )
    # both end at (10, 1): the labels are moved apart
    assert re.findall(r'<text x="514" y="([\d.]+)"', lines) == ["20.0", "34.0"]

    heat = charts.heat_map(["P1"], ["a", "b"], {("P1", "a"): (0.25, 3)}, label="h")
    assert "P1, a: 0.250 over 3 cases" in heat
    assert heat.count("<rect") == 1


def test_every_shape_is_drawn():
    names = [f"m{number}" for number in range(12)]
    svg = charts.scatter(
        [charts.Spot(name, 0.5, 0.5) for name in names], charts.colour_of(names), x="x", y="y", label="l"
    )
    assert all(f"<{shape}" in svg for shape in ("circle", "rect", "path"))


def test_results_are_json(scored):
    assert json.loads(scored("good", 12).read_text())["retention"][-1]["after"] == 12
