"""Check what is in this folder with the tools that read it: python deploy/check.py [--need-all].

Each check runs where its tool is: Helm (the binary, or the package helm-python-sdk), kubernetes-validate, hadolint,
promtool, systemd-analyze, docker compose. What is not there is named and left out; ``--need-all`` makes that an error.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
CHART = HERE / "helm" / "corrigenda"
UPSTREAM = {"upstream": "http://vllm:8000/v1"}
SHARED = {**UPSTREAM, "memory": {"url": "redis://:secret@redis:6379/0#support"}, "autoscaling": {"enabled": True}}
VALUES: dict[str, dict[str, Any]] = {
    "file": UPSTREAM,
    "redis": {**SHARED, "otlpEndpoint": "http://collector:4318", "requireKey": True, "extraArgs": ["--judge-all"]},
    "consolidation": {
        **UPSTREAM,
        "consolidate": {
            "enabled": True,
            "model": "smollm2",
            "existingClaim": "editions",
            "servers": ["http://vllm-0:8000", "http://vllm-1:8000"],
        },
    },
    "secret": {**UPSTREAM, "memory": {"existingSecret": "ledger"}, "existingSecret": "keys", "replicas": 3},
}
REFUSED: dict[str, dict[str, Any]] = {
    "no upstream": {},
    "replicas without a shared ledger": {**UPSTREAM, "autoscaling": {"enabled": True}},
}


class Missing(Exception):
    """A tool is not on this machine."""


def tool(name: str) -> str:
    """Return the path of a program."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise Missing(name)
    return found


def run(*command: str, **more: Any) -> str:
    """Run a program; return what it says, raise if it objects."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **more)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def render(values: dict[str, Any]) -> str:
    """Return the manifests of the chart, as Helm makes them. Raises ValueError when Helm refuses."""
    if shutil.which("helm"):
        command = ["helm", "template", "edits", str(CHART), "-f", "-"]
        done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(done.stderr)
        return done.stdout
    try:
        import helm_python
    except ImportError:
        raise Missing("helm, or the package helm-python-sdk") from None
    try:
        with helm_python.Chart.load(str(CHART)) as chart:
            return "\n---\n".join(chart.render(name="edits", values=values).values())
    except helm_python.HelmError as error:
        raise ValueError(str(error)) from None


def manifests(text: str) -> Iterator[dict[str, Any]]:
    """Yield the objects in ``text``."""
    yield from (row for row in yaml.safe_load_all(text) if row)


def lint() -> None:
    """Lint the chart, warnings included."""
    if shutil.which("helm"):
        for values in VALUES.values():
            run("helm", "lint", "--strict", str(CHART), "-f", "-", input=json.dumps(values))
        return
    try:
        import helm_python
    except ImportError:
        raise Missing("helm, or the package helm-python-sdk") from None
    for values in VALUES.values():
        report = helm_python.lint(str(CHART), values, strict=True)
        bad = [message for message in report["messages"] if message["severity"] >= 2]
        if bad or report["errors"]:
            raise SystemExit(f"{bad} {report['errors']}")


def helm() -> None:
    """Render the chart in all its ways; what cannot work must be refused."""
    kinds = {name: sorted(row["kind"] for row in manifests(render(values))) for name, values in VALUES.items()}
    always = {"Deployment", "Service", "PodDisruptionBudget"}
    assert all(always <= set(found) for found in kinds.values()), kinds
    assert "PersistentVolumeClaim" in kinds["file"], kinds
    assert {"Secret", "HorizontalPodAutoscaler"} <= set(kinds["redis"]), kinds
    assert "PersistentVolumeClaim" not in kinds["redis"], kinds
    for why, values in REFUSED.items():
        try:
            render(values)
        except ValueError:
            continue
        raise SystemExit(f"the chart was rendered with {why}")


def kubernetes() -> None:
    """Hold the rendered manifests against the schemas of Kubernetes."""
    program = tool("kubernetes-validate")
    with tempfile.TemporaryDirectory() as folder:
        for name, values in VALUES.items():
            for place, row in enumerate(manifests(render(values))):
                path = Path(folder) / f"{name}-{place}-{row['kind']}.yaml"
                path.write_text(yaml.safe_dump(row))
        run(program, "--strict", *map(str, sorted(Path(folder).iterdir())))


def dockerfile() -> None:
    """Lint the Dockerfile."""
    run(tool("hadolint"), str(HERE / "Dockerfile"))


def compose() -> None:
    """Read the compose file as compose does, or else hold it against the schema of the Compose Specification."""
    path = str(HERE / "compose.yaml")
    docker = shutil.which("docker")
    if docker and not subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        run(docker, "compose", "-f", path, "config", "-q", env={"UPSTREAM": "http://x/v1"})
        return
    try:
        run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", path)
    except Missing:
        raise Missing("docker compose, or check-jsonschema") from None


def prometheus() -> None:
    """Check Prometheus' configuration and rules, and that every query of the dashboard can be read."""
    program = tool("promtool")
    run(program, "check", "config", str(HERE / "prometheus" / "prometheus.yml"))
    rules = [{"record": f"panel:{place}", "expr": query} for place, query in enumerate(queries())]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dashboard.yml"
        path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
        run(program, "check", "rules", str(path))


def queries() -> Iterator[str]:
    """Yield the queries of the dashboard, Grafana's variables filled in."""
    dashboard = json.loads((HERE / "grafana" / "dashboards" / "corrigenda.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"].replace("$__rate_interval", "1m").replace("$__interval", "1m")


def systemd() -> None:
    """Verify the units; that our own programs are not installed here is no fault of theirs."""
    program = tool("systemd-analyze")
    with tempfile.TemporaryDirectory() as folder:
        for unit in (HERE / "systemd").glob("*.service"):
            copy = Path(folder) / unit.name
            copy.write_text(re.sub(r"/opt/corrigenda/bin/\S+", "/bin/true", unit.read_text()))
            run(program, "verify", "--man=no", str(copy))


def main() -> None:
    """Run all checks."""
    checks: list[Callable[[], None]] = [lint, helm, kubernetes, dockerfile, compose, prometheus, systemd]
    missing = 0
    for check in checks:
        try:
            check()
            print(f"{check.__name__}: good")
        except Missing as error:
            missing += 1
            print(f"{check.__name__}: left out, there is no {error} here")
    if missing and "--need-all" in sys.argv:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
