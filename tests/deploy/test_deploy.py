"""What is in deploy/ fits the gateway that it deploys. Its own tools check the rest: python deploy/check.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client")

from typer.testing import CliRunner

from corrigenda.cli.main import app
from corrigenda.middleware.gateway.metrics import Metrics

yaml = pytest.importorskip("yaml")
DEPLOY = Path(__file__).parents[2] / "deploy"
TEXTS = {
    path.name: path.read_text() for path in DEPLOY.rglob("*") if path.suffix in (".yml", ".yaml", ".json", ".service")
}

SERVICES = ("corrigenda.service", "corrigenda-consolidate.service")
COMMAND = """#!/bin/sh
echo "$2" >> "$LOG"
case "$2" in
  plan) while [ "$1" != --out ]; do shift; done; touch "$2" ;;
  run) exit "$RESULT" ;;
esac
"""


def known_metrics() -> set[str]:
    metrics = Metrics()
    metrics.count("edited", 200)
    metrics.overhead.labels("edited").observe(0.1)
    metrics.admin.labels("x", "2xx").inc()
    return {
        line.split("{")[0].split(" ")[0] for line in metrics.text().decode().splitlines() if not line.startswith("#")
    }


def test_dashboard_and_rules_ask_for_metrics_that_exist() -> None:
    dashboard = json.loads(TEXTS["corrigenda.json"])
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    asked += [rule["expr"] for group in yaml.safe_load(TEXTS["rules.yml"])["groups"] for rule in group["rules"]]
    names = {name for expression in asked for name in re.findall(r"corrigenda_\w+", expression)}
    assert len(names) >= 5
    assert names <= known_metrics()
    sources = yaml.safe_load((DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml").read_text())
    named = {panel["datasource"]["uid"] for panel in dashboard["panels"] if "datasource" in panel}
    assert named <= {row["uid"] for row in sources["datasources"]}


def test_the_commands_that_are_deployed_exist() -> None:
    said = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "300", "TERM": "dumb", "NO_COLOR": "1"}).output
    chart = (DEPLOY / "helm" / "corrigenda" / "templates" / "deployment.yaml").read_text()
    texts = [TEXTS["compose.yaml"], TEXTS["corrigenda.service"], chart, (DEPLOY / "Dockerfile").read_text()]
    options = {name for text in texts for name in re.findall(r"--[a-z][a-z-]+", text)}
    ours = options & {"--host", "--port", "--upstream", "--namespace", "--require-key", "--log", "--spans"}
    assert len(ours) == 7
    for name in ours:
        assert name in said, name


def test_compose_has_what_it_names() -> None:
    row = yaml.safe_load(TEXTS["compose.yaml"])
    assert set(row["services"]) == {"gateway", "redis", "prometheus", "grafana"}
    for service in row["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in row["volumes"] or (DEPLOY / source).exists(), volume


def test_the_image_runs_as_nobody_in_particular() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^USER 10001$", text, re.MULTILINE)
    assert "HEALTHCHECK" in text


def test_both_services_have_one_user_and_the_group_reads_editions() -> None:
    units = [dict(re.findall(r"^(\w+)=(.*)$", TEXTS[name], re.MULTILINE)) for name in SERVICES]
    for unit in units:
        assert "DynamicUser" not in unit  # it would take the state directory from the other service's user
        assert unit["User"] == unit["Group"] == "corrigenda"
        assert (unit["StateDirectory"], unit["StateDirectoryMode"]) == ("corrigenda", "0750")
    assert "CORRIGENDA_EDITIONS=/var/lib/corrigenda/" in TEXTS[SERVICES[1]]
    assert [unit["UMask"] for unit in units] == ["0077", "0027"]
    assert "\nu corrigenda " in (DEPLOY / "systemd" / "corrigenda-sysusers.conf").read_text()


@pytest.mark.parametrize(
    ("result", "status", "left"),
    [(0, 0, ".done"), (1, 0, ".done"), (2, 2, ".done"), (70, 70, ".json"), (75, 75, ".json"), (137, 137, ".json")],
)
def test_a_round_that_the_gate_refused_has_not_failed(tmp_path: Path, result: int, status: int, left: str) -> None:
    (tmp_path / "corrigenda").write_text(COMMAND)
    (tmp_path / "corrigenda").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PLANS": str(tmp_path / "plans"),
        "LOG": str(tmp_path / "log"),
        "RESULT": str(result),
    }
    done = subprocess.run([str(DEPLOY / "consolidate.sh")], env=environment, check=False, timeout=60)
    assert done.returncode == status
    assert (tmp_path / "log").read_text().split() == ["plan", "run", "probation"]
    (plan,) = (tmp_path / "plans").iterdir()
    assert plan.suffix == left
