import json
import math

import numpy as np
import pytest

from corrigenda.errors import DatasetError, InvalidRequest, StoreDamaged, StoreNotWritable
from corrigenda.memory.calibration import drift
from corrigenda.memory.scope_thresholds import Calibration, Thresholds, selected
from corrigenda.memory.scope_traffic import read_traffic

FOUND = Calibration(0.8, 0.01, 3, (0.1, 0.2, 0.7), "frames-1", "2026-01-02T03:04:05+00:00")


def test_thresholds_are_kept_by_namespace(tmp_path):
    thresholds = Thresholds.beside(tmp_path / "edits.db")
    assert thresholds.get("default", "frames-1") is None
    thresholds.put("default", FOUND)
    thresholds.put("team", Calibration(0.9, 0.05, 1, (0.3,), "frames-1", FOUND.at))
    again = Thresholds(tmp_path / "edits.db.scope.json")
    assert again.get("default", "frames-1") == FOUND
    assert again.get("team", "frames-1").threshold == 0.9
    assert again.get("other", "frames-1") is None


def test_a_namespace_is_read_as_it_is_written(tmp_path):
    thresholds = Thresholds(tmp_path / "scope.json")
    thresholds.put(" cafe\u0301", FOUND)
    assert thresholds.get("caf\u00e9 ", FOUND.classifier) == FOUND


def test_a_threshold_belongs_to_its_classifier(tmp_path):
    thresholds = Thresholds.beside(tmp_path / "edits.db")
    thresholds.put("default", FOUND)
    assert thresholds.get("default", "frames-2") is None


def test_what_another_process_calibrated_is_seen(tmp_path):
    ours, theirs = (Thresholds.beside(tmp_path / "edits.db") for _ in range(2))
    ours.put("default", FOUND)
    theirs.put("default", Calibration(0.75, 0.01, 3, (0.1, 0.2, 0.7, 0.9), "frames-1", FOUND.at))
    assert ours.get("default", "frames-1").threshold == 0.75


@pytest.mark.parametrize("text", ["no json", "[]", '{"default": {"threshold": 1}}', '{"default": 3}'])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "edits.db.scope.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StoreDamaged, match="thresholds"):
        Thresholds(path).get("default", "frames-1")


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(StoreNotWritable, match="nowhere"):
        Thresholds(tmp_path / "nowhere" / "x.json").put("default", FOUND)


def test_of_very_many_scores_an_even_selection_is_kept():
    kept = selected([number / 9_999 for number in range(10_000)][::-1])
    assert len(kept) == 1_000
    assert (kept[0], kept[-1]) == (0, 1)
    assert np.allclose(np.diff(kept), 1 / 999, atol=2e-4)
    assert selected([0.3, 0.1]) == (0.1, 0.3)


def test_traffic_is_read_from_lines_and_from_json(tmp_path):
    path = tmp_path / "traffic.jsonl"
    rows = [
        {"query": "one", "namespace": "team"},
        {"query": "two", "namespace": "other"},
        {"query": "three", "in_scope": True},
        {"messages": [{"role": "user", "content": "first"}, {"role": "user", "content": "four"}]},
    ]
    path.write_text("five\n\n" + "\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert read_traffic(path, "team") == ["five", "one", "four"]


def test_a_line_of_traffic_ends_at_its_line_feed_only(tmp_path):
    path = tmp_path / "traffic.jsonl"
    path.write_bytes('{"query": "Who owns\u2028Omni?"}\r\nWho\x85is she?\r\n'.encode())
    assert read_traffic(path) == ["Who owns\u2028Omni?", "Who\x85is she?"]


@pytest.mark.parametrize("messages", [None, "hi", ["hi"], [{"role": "user", "content": None}]])
def test_messages_that_hold_no_text_are_no_crash(tmp_path, messages):
    path = tmp_path / "traffic.jsonl"
    path.write_text(f"one\n{json.dumps({'messages': messages})}\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="line 2 has neither a query nor messages of text"):
        read_traffic(path)
    path.write_text(json.dumps({"query": "two", "messages": messages}), encoding="utf-8")
    assert read_traffic(path) == ["two"]


@pytest.mark.parametrize("text", ["", "\n\n", "{broken", '{"text": "x"}', '{"query": 3}'])
def test_logs_without_queries_are_refused(tmp_path, text):
    path = tmp_path / "traffic.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match="traffic"):
        read_traffic(path)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_traffic(tmp_path / "missing")


def test_unchanged_traffic_has_not_drifted():
    rng = np.random.default_rng(0)
    found = drift(rng.beta(0.5, 6, 2000), rng.beta(0.5, 6, 1000), 0.6, 0.01)
    assert not found.drifted
    assert found.distance < 0.06
    assert found.distance_p > 0.01


def test_other_traffic_and_more_fires_are_seen():
    rng = np.random.default_rng(0)
    calibrated = rng.beta(0.5, 6, 2000)
    assert drift(calibrated, rng.beta(1.5, 3, 300), 0.9, 0.01).distance_p < 1e-6
    few_high = np.concatenate([rng.beta(0.5, 6, 970), np.full(30, 0.99)])
    found = drift(calibrated, few_high, 0.9, 0.01)
    assert found.fires >= 0.03
    assert found.fires_p < 1e-4
    assert found.drifted


def test_the_chance_of_fires_is_the_binomial_one():
    found = drift([0.0] * 10, [1.0, 0.0, 0.0, 0.0], 0.5, 0.2)
    assert found.fires == 0.25
    assert found.fires_p == pytest.approx(1 - 0.8**4)
    assert math.isclose(drift([0.0], [0.0], 0.5, 0.2).fires_p, 1.0)


def test_drift_needs_scores():
    with pytest.raises(InvalidRequest, match="both"):
        drift([], [0.1], 0.5, 0.01)
