# SPDX-License-Identifier: Apache-2.0
"""The published description of the API: kept in the repository, and what the server does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from server.openapi import FILE, as_text, current

from .serverkit import ROOT, RunningServer


def test_the_file_is_up_to_date() -> None:
    """A change of the API is a change of server/openapi.json: run ``python -m server.openapi``."""
    assert FILE.read_text("utf-8") == as_text(current())


def test_the_server_publishes_it(server: RunningServer) -> None:
    assert as_text(server.get("/v1/openapi.json")) == FILE.read_text("utf-8")


def test_drift_is_seen(tmp_path: Path) -> None:
    """The command says so and fails, as a check in continuous integration needs it."""
    command = [sys.executable, "-m", "server.openapi", "--check"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    code = (
        "import sys, pathlib, server.openapi as o; o.FILE = pathlib.Path(sys.argv[1]); "
        "sys.argv[1:] = ['--check']; sys.exit(o.main())"
    )
    other = tmp_path / "openapi.json"
    other.write_text(FILE.read_text("utf-8").replace('"label"', '"name"', 1), "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", code, str(other)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "run python -m server.openapi" in done.stderr


def test_every_operation_is_described() -> None:
    document = json.loads(FILE.read_text("utf-8"))
    names = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            names.append(operation["operationId"])
            assert operation.get("tags"), (method, path)
            assert {"4XX", "5XX"} <= set(operation["responses"]), (method, path)
            assert any(code.startswith("2") for code in operation["responses"]), (method, path)
    assert len(names) == len(set(names))
    open_to_all = [
        path for path, operations in document["paths"].items() if operations.get("get", {}).get("security") == []
    ]
    assert open_to_all == ["/v1/health/live", "/v1/health/ready"]
    assert document["security"] == [{"token": []}]
