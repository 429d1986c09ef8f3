# SPDX-License-Identifier: GPL-3.0-or-later
"""``hvg3d batch`` with real processes: the command, its batch, Blender as a child of that, and a server."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the server (pip install 'hvg3d[server]')")
pytest.importorskip("av", reason="needs PyAV (pip install 'hvg3d[network]')")
psutil = pytest.importorskip("psutil")
if importlib.util.find_spec("bpy") is None:
    pytest.skip("needs the bpy wheel (pip install 'hvg3d[blender]')", allow_module_level=True)

from tests.server.serverkit import RunningServer, tiny_clip  # noqa: E402

from .batchkit import BROKEN_PLAN, GOOD_PLAN  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material") / "szenen ä"
    command = [sys.executable, "-m", "tests.blender.batchkit", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def folder(material, tmp_path):
    """The material, with the times of its files."""
    shutil.copytree(material, tmp_path / "szenen ä")
    return tmp_path / "szenen ä"


@pytest.fixture
def server(tmp_path):
    with RunningServer(tmp_path / "home", step_seconds=0.08) as running:
        yield running


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "hvg3d_core.cli.main", "batch", *map(str, arguments)]


def run(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    # Without a blender on the PATH, so that it is the bpy module's turn on every machine.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": os.path.dirname(sys.executable), "COLUMNS": "200"}
    return subprocess.run(command(*arguments), cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)


def jobs(server: RunningServer) -> list[dict]:
    return server.get("/v1/jobs?limit=200")["jobs"]


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text("utf-8"))


def check_24(out: Path) -> None:
    """21 videos, each a file; 3 failures, each with what is wrong, where, and what to do."""
    told = report(out)
    assert (told["shots"], told["done"], told["failed"], told["left"]) == (24, 21, 3, 0)
    videos = {entry["video"] for entry in told["results"] if entry["state"] == "done"}
    assert len(videos) == 21
    for name in videos:
        assert (out / name).read_bytes()[4:8] == b"ftyp"
    failures = {(entry["file"], entry["scene"]): entry for entry in told["results"] if entry["state"] == "failed"}
    flat, gone = failures["shots.blend", "Flat"], failures["shots.blend", "Gone"]
    corrupt = failures["corrupt.blend", ""]
    assert "'Plan View'" in flat["error"]
    assert "ORTHO" in flat["error"]
    assert "Perspective" in flat["remedy"]
    assert "deleted" in gone["error"] and "remove it from the list" in gone["remedy"]
    assert "'corrupt.blend' cannot be opened" in corrupt["error"] and "leave it out" in corrupt["remedy"]
    page = (out / "report.html").read_text("utf-8")
    assert page.count("<video ") == 21
    for text in ("21</b> <span>of 24 done", "3</b> <span>failed", "Set Object Data"):
        assert text in page, text


def test_24_shots_three_of_them_broken_killed_half_way(folder, server, tmp_path):
    """Everything is killed at once while jobs are running. The second run ends with 21 results and three explained
    failures, and the server has had 21 jobs in all: nothing was done twice and nothing was lost. A third run has
    nothing to do; saving the file anew without a change sends nothing either; a change sends what it changes."""
    plan = folder / "batch.toml"
    plan.write_text(GOOD_PLAN + BROKEN_PLAN + "", "utf-8")
    out = tmp_path / "out"
    first = subprocess.Popen(
        command(plan, "--server", server.home, "--out", out),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 120
    while len(list((out / "videos").glob("*.mp4"))) < 7:
        assert first.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    processes = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
    for process in processes:
        process.kill()
    first.wait()
    psutil.wait_procs(processes, 10)
    records = [json.loads(line) for line in (out / "batch.jsonl").read_bytes().split(b"\n")[:-1]]
    finished = {out / record["video"] for record in records if record.get("state") == "done"}
    before = {path.name: path.stat().st_mtime_ns for path in finished}
    assert 6 <= len(before) < 21  # the seventh may have come without being noted
    assert not (out / "report.html").exists()
    with open(out / "batch.jsonl", "ab") as state:
        state.write(b'{"kind": "shot", "id": "half a li')  # as a kill in the middle of writing leaves it

    second = run(plan, "--server", server.home, "--out", out)
    assert second.returncode == 1, second.stdout + second.stderr
    assert "21 of 24 done, 3 failed" in second.stderr
    check_24(out)
    assert len(jobs(server)) == 21
    assert all(job["state"] == "done" and job["attempt"] == 1 for job in jobs(server))
    after = {path.name: path.stat().st_mtime_ns for path in (out / "videos").glob("*.mp4")}
    assert {name: after[name] for name in before} == before  # not fetched again either
    assert not list(out.rglob("*.part"))

    log = (out / "blender.log").read_text("utf-8")
    opened = log.count("--- ")
    third = run(plan, "--server", server.home, "--out", out)
    assert third.returncode == 1
    check_24(out)
    log = (out / "blender.log").read_text("utf-8")
    assert log.count("--- ") == opened + 1, log  # only what could not be opened is tried again
    assert len(jobs(server)) == 21

    os.utime(folder / "shots.blend")
    plan.write_text(plan.read_text("utf-8").replace("seeds = [1, 2, 3]", "seeds = [1, 2, 3, 4]"), "utf-8")
    fourth = run(plan, "--server", server.home, "--out", out)
    assert "28 of 31 done, 3 failed" in fourth.stderr, fourth.stderr
    assert len(jobs(server)) == 28


def test_a_folder_of_clips_and_files_with_options(folder, server, tmp_path):
    """Without a plan: every file of the folder, a good clip and one that is cut off among them."""
    (folder / "corrupt.blend").unlink()
    (folder / "shot.clip.safetensors").write_bytes(tiny_clip())
    (folder / "cut.clip.safetensors").write_bytes(tiny_clip()[:-100])
    made = folder / "renders" / "clips"  # by another batch: not to be taken for material
    made.mkdir(parents=True)
    (made / "old.clip.safetensors").write_bytes(tiny_clip())
    (folder / "renders" / "batch.jsonl").write_text("", "utf-8")
    arguments = (folder, "--scene", "A", "--camera", "all", "--seeds", "5-6", "--steps", "2", "--prompt", "a mug")
    dry = run(*arguments, "--dry-run", "--out", tmp_path / "out")
    assert dry.returncode == 0, dry.stderr
    assert "shots, A, Side, seed 6" in dry.stdout and "10 shots" in dry.stdout
    assert jobs(server) == []

    done = run(*arguments, "--server", server.home, "--out", tmp_path / "out")
    assert done.returncode == 1
    told = report(tmp_path / "out")
    states = {(entry["file"], entry["camera"]): entry for entry in told["results"]}
    assert (told["done"], told["failed"]) == (6, 4), done.stderr
    assert "cut.clip.safetensors" in states["cut.clip.safetensors", ""]["error"]
    assert states["shots.blend", "Plan View"]["state"] == "failed"
    assert {(job["request"]["seed"], job["request"]["num_inference_steps"]) for job in jobs(server)} == {(5, 2), (6, 2)}
    assert all(job["request"]["prompt"] == "a mug" for job in jobs(server))


@pytest.mark.slow
def test_ctrl_c_and_a_killed_parent_leave_nothing_behind(folder, server, tmp_path):
    """Ctrl-C ends in order, with a report; when the command itself is killed, what it had started ends too."""
    plan = folder / "batch.toml"
    plan.write_text(GOOD_PLAN, "utf-8")
    for number in (signal.SIGINT, signal.SIGKILL):
        out = tmp_path / f"out{number}"
        process = subprocess.Popen(
            command(plan, "--server", server.home, "--out", out), cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        end = time.monotonic() + 120
        while not list((out / "videos").glob("*.mp4")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(number)
        _, alive = psutil.wait_procs(children, 20)
        assert alive == []
        told = process.communicate(timeout=20)[1]
        if number == signal.SIGINT:
            assert process.returncode == 1
            assert "Run the same command again" in told, told
            assert 1 <= report(out)["done"] < 21
    again = run(plan, "--server", server.home, "--out", tmp_path / f"out{signal.SIGKILL}")
    assert again.returncode == 0, again.stderr
    assert "21 of 21 done" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "there is no 'nowhere'"),
        ((".", "--blender", "no-blender"), "'no-blender' is no program"),
        ((".", "--seeds", "1,x"), "'x' is no seed"),
        ((".", "--server", "http://127.0.0.1:1"), "there is no token"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_starts(folder, arguments, message):
    done = (
        run(*arguments, "--out", "out", cwd=folder)
        if "--server" in arguments
        else run(*arguments, "--server", "home", "--out", "out", cwd=folder)
    )
    assert done.returncode == 2
    assert message in done.stderr, done.stderr
