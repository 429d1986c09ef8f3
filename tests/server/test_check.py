# SPDX-License-Identifier: Apache-2.0
"""``hvg3d serve --check``: each thing that can be wrong is found before the start, with what to do."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from server import check
from server.check import look, run_check
from server.config import Settings
from server.devices import Finding, Gpu, ask_driver, ask_torch, judge, parse_gpus

from .serverkit import ROOT, RunningServer

H200 = Gpu(0, "NVIDIA H200", "580.95.05", 143771, 143000, "9.0")
WORKING = {"version": "2.13.0+cu130", "cuda": "13.0", "available": True, "architectures": ["sm_90"], "works": [True]}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(check, "ask_torch", lambda: {"version": "2.13.0+cpu", "cuda": None, "available": False})
    return Settings(home=tmp_path / "home")


def find(settings: Settings, about: str, **changes: Any) -> list[Finding]:
    return [found for found in look(dataclasses.replace(settings, **changes)) if found.about == about]


def one(settings: Settings, about: str, **changes: Any) -> Finding:
    found = find(settings, about, **changes)
    assert len(found) == 1, found
    return found[0]


def test_a_healthy_machine(settings: Settings) -> None:
    assert [found for found in look(settings) if found.level == "problem"] == []
    assert not settings.home.exists(), "looking changes nothing"


def test_the_command_says_it_and_fails(tmp_path: Path) -> None:
    """The real thing, torch and all: one problem, its remedy, and exit code 1."""
    command = [sys.executable, "-m", "server", "--check", "--home", str(tmp_path / "home")]
    bad = [*command, "--min-free-mib", "1e12", "--log-format", "json"]
    done = subprocess.run(bad, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 1, done.stderr
    findings = {finding["about"]: finding for finding in map(json.loads, done.stdout.splitlines())}
    assert [about for about, finding in findings.items() if finding["level"] == "problem"] == ["disk"]
    assert "--keep-gib" in findings["disk"]["remedy"]
    assert findings["torch"]["message"].startswith("torch 2.")


def test_the_exit_code_follows_the_problems(settings: Settings) -> None:
    lines: list[str] = []
    assert run_check(settings, lines.append) == 0
    assert lines[-1].startswith("0 problems") and lines[-1].endswith("the server can be started")
    assert run_check(dataclasses.replace(settings, model="nonsense"), lines.append) == 1
    assert lines[-1].startswith("1 problems")


def test_home(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert one(settings, "home", home=tmp_path / "file" / "home").message.endswith("file is not a folder")
    settings.home.mkdir(mode=0o755)
    assert "chmod 700" in one(settings, "home").remedy
    settings.home.chmod(0o700)
    assert one(settings, "home").level == "ok"
    if os.geteuid() != 0:  # root may write everywhere
        tmp_path.chmod(0o500)
        assert "cannot be written" in one(settings, "home", home=tmp_path / "other").message
        tmp_path.chmod(0o700)


def test_a_server_that_runs_already(server: RunningServer, settings: Settings) -> None:
    found = one(settings, "home", home=server.home)
    assert found.level == "ok"
    assert f"a server runs in {server.home} already: {server.handshake['url']}" in found.message
    assert find(settings, "address", home=server.home, port=server.handshake["port"]) == []


def test_token(settings: Settings) -> None:
    settings.home.mkdir()
    path = settings.home / "token"
    path.write_text("short")
    assert "at least 16 ASCII characters" in one(settings, "token").message
    path.write_text("long enough a token".replace(" ", "-"))
    path.chmod(0o644)
    assert "other users can read" in one(settings, "token").message
    path.chmod(0o600)
    assert one(settings, "token").level == "ok"
    path.write_bytes(b"\xff" * 20)
    assert one(settings, "token").level == "problem"


def test_jobs(settings: Settings) -> None:
    settings.home.mkdir()
    path = settings.home / "jobs.sqlite3"
    path.write_bytes(b"not a table at all, but long enough to be looked at")
    assert "cannot be read" in one(settings, "jobs").message
    path.unlink()
    with RunningServer(settings.home):
        pass
    assert one(settings, "jobs").message.startswith("0 jobs wait in")
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    assert "newer server" in one(settings, "jobs").message


def test_address(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = one(settings, "address", port=taken.getsockname()[1])
    assert found.level == "problem"
    assert "another program has this port" in found.remedy
    assert "an address of this machine" in one(settings, "address", host="192.0.2.1").remedy
    assert "in the clear" in one(settings, "TLS", host="0.0.0.0").message


def test_certificate(settings: Settings, tmp_path: Path) -> None:
    """Names and end are told; one that has ended, or soon does, is found before any client finds it."""
    authority = trustme.CA()

    def pair(name: str, **options: Any) -> dict[str, Path]:
        leaf = authority.issue_cert("gpu.example", **options)
        key, certificate = tmp_path / f"{name}.key", tmp_path / f"{name}.pem"
        leaf.private_key_pem.write_to_path(key)
        leaf.cert_chain_pems[0].write_to_path(certificate)
        return {"tls_cert": certificate, "tls_key": key}

    good = one(settings, "TLS", **pair("good"))
    assert (good.level, good.message[:27]) == ("ok", "certificate for gpu.example")
    ended = one(settings, "TLS", **pair("ended", not_after=datetime(2020, 1, 1, tzinfo=UTC)))
    assert ended.level == "problem"
    assert "certificate has expired" in ended.message
    soon = datetime.fromtimestamp(datetime.now(UTC).timestamp() + 5 * 86400, UTC)
    assert one(settings, "TLS", **pair("soon", not_after=soon)).level == "warning"
    assert one(settings, "TLS", tls_cert=tmp_path / "good.pem").level == "problem"


def test_models_and_memory(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "run hvg3d models pull das" in one(settings, "model", model="das").message
    assert "no_such_backend" in one(settings, "model", backend="no_such_backend").message

    class Small:
        total, available = 3 * 2**30, 2**30

    monkeypatch.setattr(check.psutil, "virtual_memory", lambda: Small)
    found = find(settings, "memory")
    assert [finding.level for finding in found] == ["problem", "warning"]
    assert "nano needs 2.1 GiB of memory, which has 1.0" in found[0].message


@pytest.mark.parametrize(
    ("gpus", "torch", "about", "level", "words"),
    [
        ([H200], WORKING, "GPU 0", "ok", "NVIDIA H200, driver 580.95.05, 143,000 of 143,771 MiB free"),
        ([dataclasses.replace(H200, free_mib=5)], WORKING, "GPU 0", "warning", "nvidia-smi says which"),
        ([H200], {**WORKING, "cuda": None, "available": False}, "GPU", "problem", "built for the CPU only"),
        (
            [H200],
            {**WORKING, "available": False, "reason": "The NVIDIA driver on your system is too old"},
            "GPU",
            "problem",
            "cannot use the driver 580.95.05: The NVIDIA driver on your system is too old",
        ),
        (
            [dataclasses.replace(H200, capability="5.0")],
            {**WORKING, "works": ["no kernel image is available"]},
            "GPU 0",
            "problem",
            "built for sm_90: install one that is built for this GPU",
        ),
        ([], {"error": "ModuleNotFoundError: torch"}, "torch", "problem", "pip install 'hvg3d[network,server]'"),
        ([], {**WORKING, "av_error": "ImportError: libav"}, "av", "problem", "cannot be imported: ImportError: libav"),
    ],
)
def test_gpu_and_torch(gpus: list[Gpu], torch: dict[str, Any], about: str, level: str, words: str) -> None:
    """What driver and torch say of each other, as recorded or as their documentation words it."""
    found = next(finding for finding in judge(gpus, torch) if finding.about == about)
    assert found.level == level
    assert words in f"{found.message} {found.remedy}"


def test_the_driver_is_asked(tmp_path: Path) -> None:
    """A program that is missing, fails, or lists GPUs as nvidia-smi does."""
    gpus, finding = ask_driver(str(tmp_path / "nvidia-smi"))
    assert gpus == [] and finding is not None and finding.level == "warning"
    program = tmp_path / "nvidia-smi"

    def answer(script: str) -> None:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    answer("echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.' >&2; exit 9")
    gpus, finding = ask_driver(str(program))
    assert gpus == [] and finding is not None and finding.level == "problem"
    assert "could not communicate with the NVIDIA driver" in finding.message
    answer("echo '0, NVIDIA H200, 580.95.05, 143771, 143000, 9.0'; echo '1, Orin, 540.4, [N/A], [N/A], 8.7'")
    gpus, finding = ask_driver(str(program))
    assert finding is None
    assert gpus == [H200, Gpu(1, "Orin", "540.4", 0, 0, "8.7")]
    assert parse_gpus("No devices were found") == []


def test_a_broken_torch_is_told(tmp_path: Path) -> None:
    """In a process of its own: even one that crashes while it is imported."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'undefined symbol: cudaFoo' >&2\nexit 134\n")
    python.chmod(0o755)
    assert ask_torch(str(python)) == {"error": "it ended with 134: undefined symbol: cudaFoo"}
    python.write_text('#!/bin/sh\necho \'{"error": "ImportError: libcudart.so.13"}\'\n')
    assert judge([], ask_torch(str(python)))[0].message == "torch cannot be imported: ImportError: libcudart.so.13"
