# SPDX-License-Identifier: GPL-3.0-or-later
"""Results in real Blenders with a real server: followed, compared, made again, found again after a crash, not lost."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from blender_addon.build_extension import ROOT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("bpy") is None, reason="needs the bpy wheel (pip install 'hvg3d[blender]')"
)
pytest.importorskip("fastapi", reason="needs the server (pip install 'hvg3d[server]')")
pytest.importorskip("av", reason="needs PyAV (pip install 'hvg3d[network]')")

from tests.server.serverkit import RunningServer  # noqa: E402


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with RunningServer(tmp_path_factory.mktemp("server") / "home", step_seconds=0.15) as running:
        yield running


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "projekt ö"
    path.mkdir()
    return path


def drive(step: str, server: RunningServer, folder: Path, code: int = 0) -> str:
    environment = {
        **os.environ,
        "BLENDER_USER_RESOURCES": str(folder.parent / "blender ü"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(Path(__file__).with_name("drive_results.py")), step, str(server.home), str(folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def test_a_video_is_followed_listed_compared_made_again_and_deleted(server, folder):
    """drive_results.py: the checks are in there, step by step."""
    assert "DRIVEN" in drive("everything", server, folder)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_blender_that_is_killed_finds_its_job_and_its_result_again(server, folder):
    began = drive("begin", server, folder, code=-signal.SIGKILL)
    job = next(line for line in began.splitlines() if line.startswith("JOB"))
    found = drive("find", server, folder)
    assert job.replace("JOB", "FOUND") in found
    assert "DRIVEN" in found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_video_that_cannot_be_saved_is_fetched_later(server, folder):
    assert "DRIVEN" in drive("full", server, folder)
