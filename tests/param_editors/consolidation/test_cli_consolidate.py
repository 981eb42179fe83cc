from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from learned_consolidation import PARAMS, child_environment, good_edits, same, weights_of
from typer.testing import CliRunner

from corrigenda.cli.main import app
from corrigenda.lm.loading import load

ROOT = Path(__file__).parents[3]


@pytest.fixture
def call(world, monkeypatch, tmp_path):
    """Runs a command of the group on the world, and returns what it prints as JSON."""
    monkeypatch.setenv("CORRIGENDA_EDITIONS", str(world.home))
    monkeypatch.setenv("CORRIGENDA_MEMORY", str(tmp_path / "edits.db"))
    monkeypatch.setattr("corrigenda.memory.replica.MiniLM.load", lambda: world.memory.encoder)

    def run(*arguments: str, code: int = 0, as_json: bool = True):
        more = ["--json"] if as_json else []
        result = CliRunner().invoke(app, ["consolidate", *arguments, *more])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if as_json else result.output

    return run


def planned(call, world, tmp_path, *more, **how):
    out = str(tmp_path / "plan.json")
    given = ["--model", str(world.model), "--editor", "memit", "--params", json.dumps(PARAMS)]
    given += ["--cases", str(world.cases)]
    return call("plan", "--out", out, *given, "--gate-limit", "60", *more, **how), out


def test_from_plan_to_rollback(call, world, tmp_path):
    base = weights_of(world.model)
    plan, out = planned(call, world, tmp_path)
    assert plan["edits"] == 8
    assert "not finished" not in call("status", as_json=False)
    result = call("run", out)
    assert result["passed"]
    assert "8 edits passed the gate" in call("status", as_json=False)
    change = call("promote", result["job"][:6], "--as", "checkpoint")
    assert not same(weights_of(Path(change["path"])), base)
    (row,) = call("list")
    assert (row["name"], row["edits"], row["in_force"]) == (change["edition"], 8, True)
    (state,) = call("status")
    assert state["memory"] == {"shadows": 8, "retired": 0, "warnings": []}
    told = call("probation", "--check", "--retire", "--days", "0", "--asked", "1")
    assert len(told["retired"]) == 8
    back = call("rollback", "last")
    assert back["edition"] is None
    world.memory.refresh()
    assert {one.id for one in world.memory.live()} == {one.id for one in good_edits()}
    assert "nothing is printed" in call("rollback", "last", code=2)["error"]["message"]


def test_what_people_see(call, world, tmp_path):
    plan, out = planned(call, world, tmp_path, "--edit", good_edits()[0].id, as_json=False)
    assert "1 edits with memit" in " ".join(plan.split())
    shown = call("run", out, "--promote", "delta", as_json=False)
    assert "the gate passed" in " ".join(shown.split())
    assert "in force" in shown
    assert "learned-v1-memit-1" in call("list", as_json=False)
    assert "Shadows" in call("probation", as_json=False)
    assert "1 shadows" in " ".join(call("status", as_json=False).split())
    assert "the base model" in " ".join(call("rollback", "last", as_json=False).split())


def test_a_plan_may_hold_wordings_that_memory_does_not(call, world, tmp_path, monkeypatch):
    def reworded(edits):
        return [one.replace(paraphrases=(f"Well. {one.prompt}",)) for one in edits]

    monkeypatch.setattr("corrigenda.cli.consolidate_planning.rewording", lambda: reworded)
    _, out = planned(call, world, tmp_path, "--reword")
    rows = json.loads(Path(out).read_text())["edits"]
    assert [row["paraphrases"] for row in rows] == [[f"Well. {row['prompt']}"] for row in rows]
    result = call("run", out, "--promote", "delta")
    assert result["passed"]
    assert result["figures"]["paraphrases"]["asked"] >= len(rows)
    world.memory.refresh()
    assert not any(one.paraphrases for one in world.memory.live())
    told = call("probation", "--check", "--retire", "--days", "0", "--asked", "1")
    assert told["retired"]


def test_a_closed_gate_is_exit_code_1_and_nothing_to_print_is_none(call, world, tmp_path):
    _, out = planned(call, world, tmp_path, "--params", json.dumps({**PARAMS, "v_steps": 0}))
    assert not call("run", out, "--promote", "lora", code=1)["passed"]
    planned(call, world, tmp_path, "--tag", "absent", code=2)
    (tmp_path / "plan.json").unlink()
    assert planned(call, world, tmp_path, "--tag", "absent", "--if-any")[0] == {"plan": None}
    assert not (tmp_path / "plan.json").exists()


def test_wrong_options_are_refused(call, world, tmp_path):
    assert "not JSON" in planned(call, world, tmp_path, "--params", "{", code=2)[0]["error"]["message"]
    assert "not a JSON object" in planned(call, world, tmp_path, "--params", "[]", code=2)[0]["error"]["message"]
    given = ("--corpus", out := str(tmp_path / "x"), "--from-model", "5")
    assert "exclude" in planned(call, world, tmp_path, *given, code=2)[0]["error"]["message"]
    assert "--hits" in planned(call, world, tmp_path, "--min-hits", "2", code=2)[0]["error"]["remedy"]
    assert call("list") == []
    assert "no editions" in call("promote", "abc", code=2)["error"]["message"]
    assert out


def test_replay_prints_the_same_edits_into_another_model(call, world, tmp_path):
    _, out = planned(call, world, tmp_path)
    call("run", out, "--promote", "delta")
    assert len(call("probation", "--check", "--retire", "--days", "0", "--asked", "1")["retired"]) == 8
    lm = load(world.model)
    lm.model.lm_head.weight.data.mul_(1.01)
    lm.model.save_pretrained(tmp_path / "newer")
    lm.tokenizer.save_pretrained(tmp_path / "newer")
    facts = tmp_path / "facts.txt"
    facts.write_text("The colour of Kabar red.")
    given = ["--editor", "memit", "--params", json.dumps({**PARAMS, "max_norm_ratio": 1e9}), "--corpus", str(facts)]
    plan = call("replay", "--model", str(tmp_path / "newer"), "--out", out, *given, "--gate-limit", "60")
    assert plan["edits"] == 8
    world.memory.refresh()
    assert {one.id for one in world.memory.live()} == {one.id for one in good_edits()}
    result = call("run", out)  # statistics of one sentence: not all passes, and the memory goes on answering
    assert set(result["kept"]) | set(result["dropped"]) == {one.id for one in good_edits()}
    assert (
        "the model that the edits are printed in"
        in call("replay", "--model", str(world.model), "--from", str(world.model), "--out", out, code=2)["error"][
            "message"
        ]
    )


@pytest.mark.slow
def test_a_round_for_a_timer(world, tmp_path):
    """The script of deploy/, with a command that stands where the installed one does."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "corrigenda"
    command.write_text(
        f"#!{sys.executable}\n"
        "from corrigenda.testing import FixedEncoder\n"
        "import corrigenda.memory.replica as replica\n"
        "replica.MiniLM.load = staticmethod(lambda: FixedEncoder())\n"
        "from corrigenda.cli.main import app\napp()\n"
    )
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    environment = child_environment() | {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "CORRIGENDA_MEMORY": str(tmp_path / "edits.db"),
        "CORRIGENDA_EDITIONS": str(world.home),
        "CORRIGENDA_MODEL": str(world.model),
        "PLANS": str(tmp_path / "plans"),
        "PUBLISH_AS": "delta",
    }
    world.memory.close()
    script = [str(ROOT / "deploy" / "consolidate.sh"), "--editor", "memit", "--params", json.dumps(PARAMS)]
    script += ["--min", "neighbours=0"]
    first = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert len(world.editions.current().promotions) == 1
    again = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "nothing to print" in again.stdout
    assert len(world.editions.current().promotions) == 1
