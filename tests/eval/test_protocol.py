from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from corrigenda.edit import Edit
from corrigenda.errors import EvaluationError
from corrigenda.eval.asking import Columns
from corrigenda.eval.cache import Cached
from corrigenda.eval.case import Case, Probe
from corrigenda.eval.journal import Journal, journal_path, read_rows
from corrigenda.eval.metrics import metrics
from corrigenda.eval.protocol import Run
from corrigenda.eval.scoring import scores_of


def values(rows):
    return {name: metric.value for name, metric in metrics([scores_of(row) for row in rows]).items()}


def without_times(rows):
    return [{key: value for key, value in row.items() if not key.endswith("seconds")} for row in rows]


def test_single_has_one_edit_live_at_a_time(two_capitals, budget):
    cases, method = two_capitals
    seen = []

    class Watch(type(method)):
        def generate(self, prompts, *, max_new_tokens):
            seen.append(len(self.live))
            return super().generate(prompts, max_new_tokens=max_new_tokens)

    Run(Watch(**vars(method)), method, budget, columns=Columns(forced=False))(cases)
    assert set(seen) == {0, 1}


def test_sequential_has_all_edits_live(two_capitals, budget):
    cases, method = two_capitals
    seen = []

    class Watch(type(method)):
        def generate(self, prompts, *, max_new_tokens):
            seen.append(len(self.live))
            return super().generate(prompts, max_new_tokens=max_new_tokens)

    Run(Watch(**vars(method)), method, budget, protocol="sequential", batch=1, columns=Columns(forced=False))(cases)
    assert seen == [0, 2, 2, 0]
    assert method.live == []


@pytest.mark.parametrize("protocol", ["single", "sequential"])
def test_an_undo_that_leaves_traces_is_found(two_capitals, budget, protocol):
    cases, method = two_capitals
    method.forgets_to_undo = True
    with pytest.raises(EvaluationError, match=r"case A was answered ' Paris.' before the edits, and ' Lyon.' after"):
        Run(method, method, budget, protocol=protocol)(cases)


@pytest.mark.parametrize("protocol", ["single", "sequential"])
def test_an_edit_that_is_refused_is_unscored_not_wrong(two_capitals, budget, protocol):
    cases, method = two_capitals
    method.refuses = frozenset({"Porto"})
    rows = Run(method, method, budget, protocol=protocol)(cases)
    assert rows[1]["failure"] == "SubjectNotFound: the subject is not in the prompt"
    table = metrics([scores_of(row) for row in rows])
    assert (table["reliability"].value, table["reliability"].n, table["reliability"].unscored) == (1.0, 1, 1)
    assert (table["locality"].value, table["locality"].unscored) == (1.0, 2)


def test_a_prompt_that_is_refused_costs_nobody_else(two_capitals, budget):
    cases, method = two_capitals
    method.too_long = frozenset({"The king of France is", "Spain's capital is"})
    rows = Run(method, method, budget, columns=Columns(forced=False))(cases)
    table = metrics([scores_of(row) for row in rows])
    assert (table["locality"].probes, table["locality"].unscored) == (3, 1)
    assert (table["generalization"].probes, table["generalization"].unscored) == (3, 1)
    assert "too long" in rows[0]["probes"][4]["unscored"]["locality"]


def test_a_method_that_refuses_the_edits_own_prompt_can_still_be_checked(two_capitals, budget):
    cases, method = two_capitals
    method.too_long = frozenset({"The capital of France is"})
    rows = Run(method, method, budget, columns=Columns(forced=False))(cases)
    assert rows[0]["probes"][0]["scores"]["reliability"] is None


def test_with_all_edits_live_some_probes_cannot_be_asked(scripted, budget, case):
    france = case("A", "France", "Lyon")
    spain = case("B", "Spain", "Porto")
    nosy = Case("A", france.edits, (*france.probes, Probe("locality", "The capital of Spain is", ("Madrid",), "n")))
    again = Case("C", (Edit("The capital of France is", "Nice", subject="France", relation="capital"),), ())
    again = Case("C", again.edits, (Probe("reliability", "The capital of France is", ("Nice",), "prompt"),))
    method = scripted()
    rows = Run(method, method, budget, protocol="sequential", columns=Columns(forced=False))([nosy, spain, again])
    assert rows[0]["probes"][0]["unscored"] == {"reliability": "contradicted by a later case: C"}
    assert rows[0]["probes"][5]["unscored"] == {"locality": "in the scope of another case: B"}
    assert "unscored" not in rows[2]["probes"][0]
    single = Run(method, method, budget, columns=Columns(forced=False))([nosy, spain, again])
    assert all("unscored" not in probe for row in single for probe in row["probes"])


def test_two_runs_are_the_same(two_capitals, budget):
    cases, method = two_capitals
    first, second = (without_times(Run(method, method, budget, protocol="sequential")(cases)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("protocol", ["single", "sequential"])
@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_a_run_that_was_stopped_goes_on_to_the_same_results(scripted, budget, case, tmp_path, protocol, after):
    cases = [case(str(number), f"Land {number}", f"Town {number}") for number in range(6)]
    edited = {(f"Town {number}", f"The capital of Land {number} is"): f" Town {number}" for number in (0, 2, 3)}
    whole = Run(scripted(edited=edited), scripted(), budget, protocol=protocol)(cases)

    class Killed(scripted):
        asked = 0

        def generate(self, prompts, *, max_new_tokens):
            self.asked += bool(self.live)
            if self.asked > after:
                raise KeyboardInterrupt
            return super().generate(prompts, max_new_tokens=max_new_tokens)

    path = tmp_path / "r.journal.jsonl"
    journal = Journal.open(path, {"seed": 0})
    run = Run(Killed(edited=edited), scripted(), budget, protocol=protocol, batch=1, journal=journal)
    with pytest.raises(KeyboardInterrupt):
        run(cases)
    assert len(read_rows(path)) == after
    with path.open("ab") as file:
        file.write(b'{"case": "5", "pro')  # torn by the kill

    resumed = Journal.open(path, {"seed": 0})
    assert len(resumed.rows) == after
    progress = []
    run = Run(
        scripted(edited=edited),
        scripted(),
        budget,
        protocol=protocol,
        batch=1,
        journal=resumed,
        progress=lambda stage, done, total: progress.append((stage, done)),
    )
    assert without_times(run(cases)) == without_times(whole)
    assert [done for stage, done in progress if stage == "score"] == list(range(after + 1, 7))
    assert without_times(read_rows(path)) == without_times(whole)
    assert len(Journal.open(path, {"seed": 0}).rows) == 6  # nobody has said that the results are kept
    resumed.finish()
    assert Journal.open(path, {"seed": 0}).rows == []  # finished: the next run begins anew


def test_a_killed_process_loses_at_most_a_batch(tmp_path):
    script = textwrap.dedent(
        """
        import os, sys
        sys.path.insert(0, sys.argv[1])
        from pathlib import Path
        from scripted_methods import Scripted, make_case
        from corrigenda.eval.journal import Journal
        from corrigenda.eval.protocol import Run
        from corrigenda.eval.scoring import Budget

        class Dies(Scripted):
            def edit(self, edits):
                if edits[0].target == "Town 5":
                    os.kill(os.getpid(), 9)
                return super().edit(edits)

        cases = [make_case(str(n), f"Land {n}", f"Town {n}") for n in range(8)]
        journal = Journal.open(Path(sys.argv[2]), {})
        Run(Dies(), Scripted(), Budget(len), batch=2, journal=journal)(cases)
        """
    )
    path = tmp_path / "x.journal.jsonl"
    here = str(__import__("pathlib").Path(__file__).parents[1] / "helpers")
    done = subprocess.run([sys.executable, "-c", script, here, str(path)], capture_output=True, timeout=120)
    assert done.returncode == -9, done.stderr
    assert [row["case"] for row in read_rows(path)] == ["0", "1", "2", "3"]


def test_collecting_asks_in_large_batches_and_changes_nothing(two_capitals, budget, scripted):
    cases, method = two_capitals
    apart = without_times(Run(method, method, budget)(cases))

    class OnTop:
        """A method that changes prompts: the edit's target in front, when the prompt has the edit's subject."""

        def __init__(self, cached):
            self.cached, self.live = cached, []

        def edit(self, edits):
            self.live += edits
            return type("Undo", (), {"revert": lambda undo: self.live.clear()})()

        def _changed(self, prompt):
            found = [edit for edit in self.live if "capital" in prompt and edit.subject in prompt]
            return f"{found[0].target}: {prompt}" if found else prompt

        def generate(self, prompts, *, max_new_tokens):
            return self.cached.generate([self._changed(p) for p in prompts], max_new_tokens=max_new_tokens)

        def score(self, prompts, targets):
            return self.cached.score([self._changed(p) for p in prompts], targets)

    bare = scripted(bare={**method.bare, "Lyon: The capital of France is": " Lyon"})
    plain = Cached(bare)
    expected = without_times(Run(OnTop(plain), plain, budget)(cases))
    few = len(bare.calls)
    bare.calls.clear()
    cached = Cached(bare)
    rows = without_times(Run(OnTop(cached), cached, budget, collecting=cached.collecting)(cases))
    assert rows == expected
    assert rows != apart
    assert values(rows)["reliability"] == 0.5
    assert values(rows)["locality"] == 1.0
    # before: answers and scores of the neighbours; then everything else in one call each
    assert len(bare.calls) == 4 < few


def test_progress_of_a_sequential_run(two_capitals, budget):
    cases, method = two_capitals
    seen = []
    Run(method, method, budget, protocol="sequential", progress=lambda *step: seen.append(step))(cases)
    assert seen == [("before", 2, 2), ("edit", 1, 2), ("edit", 2, 2), ("score", 2, 2)]


def test_settings_that_make_no_sense(two_capitals, budget):
    _, method = two_capitals
    with pytest.raises(EvaluationError, match="unknown protocol 'triple'"):
        Run(method, method, budget, protocol="triple")
    with pytest.raises(EvaluationError, match="at least one case"):
        Run(method, method, budget, batch=0)


def test_no_cases(scripted, budget):
    assert Run(scripted(), scripted(), budget)([]) == []


class TestJournal:
    def test_another_unfinished_run_is_not_overwritten(self, tmp_path):
        path = tmp_path / "a.journal.jsonl"
        Journal.open(path, {"seed": 0, "limit": 5}).append([{"case": "1"}])
        with pytest.raises(EvaluationError, match="seed: 0 there, 1 here") as info:
            Journal.open(path, {"seed": 1, "limit": 5})
        assert "--fresh" in info.value.remedy
        assert Journal.open(path, {"seed": 1, "limit": 5}, fresh=True).rows == []

    def test_a_file_that_is_no_journal_is_not_overwritten(self, tmp_path):
        path = tmp_path / "a.journal.jsonl"
        for content in ("my thesis\n", '{"journal": "other"}\n', "[1]\n", '\n{"a": 1}\n'):
            path.write_text(content)
            with pytest.raises(EvaluationError, match="not a journal"):
                Journal.open(path, {})
            with pytest.raises(EvaluationError, match="not a journal"):
                read_rows(path)
            assert path.read_text() == content

    def test_killed_while_the_first_line_was_written(self, tmp_path):
        path = tmp_path / "a.journal.jsonl"
        for content in ("", '{"journal": "corr'):
            path.write_text(content)
            assert Journal.open(path, {}).rows == []

    def test_a_place_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(EvaluationError, match="cannot be written"):
            Journal.open(tmp_path / "file" / "a.journal.jsonl", {})
        with pytest.raises(EvaluationError, match="cannot be read"):
            read_rows(tmp_path / "none.jsonl")

    def test_path(self, tmp_path):
        assert journal_path(tmp_path / "results.json") == tmp_path / "results.journal.jsonl"

    def test_in_memory(self):
        journal = Journal()
        journal.append([{"case": "1"}])
        journal.finish()
        assert journal.rows == [{"case": "1"}]

    def test_rows_keep_their_characters(self, tmp_path):
        path = tmp_path / "a.journal.jsonl"
        Journal.open(path, {}).append([{"case": "Åland\n\u2028"}])
        assert read_rows(path) == [{"case": "Åland\n\u2028"}]
        assert json.loads(path.read_text("utf-8").split("\n")[1]) == {"case": "Åland\n\u2028"}
