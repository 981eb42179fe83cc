"""ask, explain, models and demo, with the packaged model."""

from __future__ import annotations

import json

import pytest

from corrigenda import __version__

pytestmark = pytest.mark.real_model

ADD = ("edit", "add", "The capital of Nigeria is", "Abuja", "--subject", "Nigeria")


def test_ask_before_and_after(run_json, run):
    run_json(*ADD)
    row = run_json("ask", "The capital of Nigeria is", "--compare", "--max-new-tokens", 6)
    assert not row["before"].strip().startswith("Abuja")
    assert row["answer"].strip().startswith("Abuja")
    assert row["trace"]["fired"][0]["statement"] == "The capital of Nigeria is Abuja."

    text = run("ask", "The capital of Kenya is", "--compare", "--max-new-tokens", 6)
    assert text.exit_code == 0
    assert "no edit concerns this" in text.stdout


def test_ask_as_a_chat_turn(run):
    run(*ADD)
    answer = run("ask", "What is the capital of Nigeria?", "--chat", "--max-new-tokens", 16)
    assert answer.exit_code == 0, answer.output
    assert "Abuja" in answer.stdout


def test_explain_shows_the_grounds(run_json, run):
    run_json(*ADD)
    row = run_json("explain", "What is the capital of Nigeria?")
    best = row["candidates"][0]
    assert row["fires"] == [best["edit"]]
    assert best["mention"] == "Nigeria"
    assert best["probability"] >= best["threshold"]
    assert run_json("explain", "Who wrote Hamlet?")["fires"] == []
    assert "probability" in run("explain", "What is the capital of Nigeria?").stdout


def test_models(run_json, run):
    (known,) = run_json("models", "list")
    assert known["name"] == "smollm2"
    assert run_json("models", "pull")["fetched"] is False
    row = run_json("models", "check", "smollm2")
    assert row["layers"] == 30
    assert row["dtype"] == "torch.float32"
    assert "Paris" in row["sample"]
    for command in (("list",), ("pull",), ("check",)):
        assert run("models", *command).exit_code == 0


def test_an_unknown_model_is_refused_with_the_remedy(run):
    result = run("models", "check", "smollm3", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["type"] == "UnknownModel"


def test_a_bad_query_is_refused(run):
    result = run("ask", "", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["type"] == "InvalidRequest"


def test_the_demo_holds_what_it_promises(run_json, run):
    rows = run_json("demo", "--memory", "demo.db")["rows"]
    assert len(rows) == 12
    assert all(row["as_hoped"] for row in rows)
    wrong_before = [row for row in rows if row["kind"] == "own words" and row["before"] != row["after"]]
    assert len(wrong_before) >= 3
    shown = run("demo", "--memory", "demo.db")
    assert shown.exit_code == 0
    assert "Naypyidaw" in shown.stdout


def test_version(run):
    assert run("--version").stdout.strip() == f"corrigenda {__version__}"
