"""``corrigenda serve`` and ``keys``, as processes of their own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

pytest.importorskip("aiohttp")

from corrigenda.cli.main import app


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.stdout


def test_keys(tmp_path: Path) -> None:
    memory = ["--memory", str(tmp_path / "f.db")]
    made = json.loads(run("keys", "create", "ann", "--role", "admin", "-n", "*", "--json", *memory))
    assert made["key"].startswith(f"ck_{made['id']}_")
    assert run("keys", "create", "bob", *memory).startswith("ck_")
    listed = json.loads(run("keys", "list", "--json", *memory))
    assert [(key["name"], key["role"], key["namespaces"]) for key in listed] == [
        ("ann", "admin", ["*"]),
        ("bob", "editor", ["default"]),
    ]
    assert "revoked" in json.loads(run("keys", "revoke", made["id"], "--json", *memory))
    assert "ann" in run("keys", "list", *memory)
    assert "revoked" in run("keys", "revoke", made["id"], *memory)
    assert "no key" in run("keys", "revoke", "nope", "--json", *memory, code=2)
    assert "role" in run("keys", "create", "x", "--role", "king", "--json", *memory, code=2)
    assert (tmp_path / "f.db.keys").stat().st_mode & 0o077 == 0
    assert made["key"].split("_", 2)[2].encode() not in (tmp_path / "f.db.keys").read_bytes()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "one of them"),
        (["--model", "smollm2", "--upstream", "http://x"], "one of them"),
        (["--upstream", "ftp://x"], "not an http(s) URL"),
        (["--upstream", "http://user:secret@x"], "holds a user name"),
        (["--upstream", "http://x", "--editions", "printed"], "needs --base"),
        (["--upstream", "http://x", "--serves", "m"], "needs --editions"),
    ],
)
def test_serve_refuses_what_makes_no_sense(options: list[str], why: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["serve", *options, "--memory", str(tmp_path / "f.db")])
    assert result.exit_code == 2
    assert why in " ".join(result.output.split())
    assert "secret" not in result.output


def test_serve_in_front_of_an_upstream(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = tmp_path / "f.db"
    key = run("keys", "create", "ann", "--role", "admin", "--memory", str(path)).strip()
    command = [sys.executable, "-m", "corrigenda.cli.main", "serve", "--upstream", "http://127.0.0.1:1/v1"]
    process = subprocess.Popen([*command, "--port", str(port), "--memory", str(path)], stderr=subprocess.PIPE)
    try:
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while True:
            try:
                assert httpx.get(url + "/healthz").status_code == 200
                break
            except httpx.TransportError:
                assert time.monotonic() < end, "the server did not start"
                assert process.poll() is None
                time.sleep(0.1)
        assert httpx.get(url + "/v1/models").status_code == 502
        status = httpx.get(url + "/admin/v1/status", headers={"authorization": f"Bearer {key}"})
        assert status.json()["key"]["name"] == "ann"
    finally:
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert process.returncode in (0, -15)
    assert key.encode() not in said
