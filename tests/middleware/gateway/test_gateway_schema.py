"""The OpenAPI document: whole, and true; schemathesis tries to prove otherwise, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from gateway_harness import Printer, StartGateway, Stub, get

from corrigenda.memory.memory import Memory
from corrigenda.middleware.gateway.admin.groups import handlers
from corrigenda.middleware.gateway.admin.openapi import document
from corrigenda.middleware.gateway.admin.table import OPERATIONS
from corrigenda.middleware.gateway.app import Gateway
from corrigenda.middleware.gateway.keys import Keys
from corrigenda.middleware.gateway.settings import Settings

SCHEMATHESIS = os.environ.get("SCHEMATHESIS") or shutil.which("schemathesis")


def test_every_operation_is_described_and_done(memory: Memory) -> None:
    paths = document()["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert described == {(operation.method, operation.path) for operation in OPERATIONS}
    assert set(handlers(Gateway(memory, upstream="http://127.0.0.1:1"))) == {one.name for one in OPERATIONS}
    for methods in paths.values():
        for row in methods.values():
            assert {"401", "403", "422", "429"} <= set(row["responses"])


@pytest.mark.slow
@pytest.mark.skipif(SCHEMATHESIS is None, reason="no schemathesis here: pip install schemathesis, or set SCHEMATHESIS")
def test_schemathesis_finds_no_5xx(start: StartGateway, stub: Stub, keys: Keys, memory: Memory) -> None:
    stub.chunks = [b'{"data":[{"id":"m"}],"choices":[{"message":{"content":"x"},"text":"x"}]}']
    memory.add("The capital of Kazakhstan is", "Astana", subject="Kazakhstan", relation="capital")
    url = start(Settings(rate=1e6, burst=10**6), upstream=stub.url, consolidator=Printer())
    _, key = keys.create("fuzz", "admin", ["*"])
    assert get(url + "/admin/v1/openapi.json").status_code == 200
    command = [str(SCHEMATHESIS), "run", url + "/admin/v1/openapi.json", "-H", f"Authorization: Bearer {key}"]
    # 503 is what a stub upstream would have to cause; here nothing may.
    command += ["--checks", "not_a_server_error,response_schema_conformance,content_type_conformance"]
    command += [
        "--max-examples",
        os.environ.get("SCHEMATHESIS_EXAMPLES", "40"),
        "--phases",
        "examples,coverage,fuzzing",
    ]
    command += [
        "--seed",
        "1",
        "--request-timeout",
        "60",
        "--suppress-health-check",
        "all",
        "--exclude-path-regex",
        "^/(keys/.*|import)$",
    ]
    with tempfile.TemporaryDirectory() as folder:
        # It keeps a database of examples in its working folder.
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(folder), timeout=1500, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
