# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that the add-on installs: in an environment of its own, resumable, removable, away from Blender's Python."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import zipfile
from pathlib import Path

import pytest

from blender_addon import build_extension
from blender_addon.server_care.environment import MARKER, Managed
from blender_addon.server_care.install import Installation, InstallState, Order
from blender_addon.server_care.pip import (
    Cancelled,
    PipProgress,
    explain_pip,
    pip_environment,
    run_module,
    user_has_places,
)

from .carekit import ROOT, lean_environment


def tiny_wheel(folder: Path, name: str, version: str = "1.0", needs: str = "", files: int = 3) -> Path:
    """A wheel written by hand."""
    info = f"{name}-{version}.dist-info"
    content = {f"{name}/part{n}.py": f"value = {n}\n" * 200 for n in range(files)} | {f"{name}/__init__.py": ""}
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (
        f"Requires-Dist: {needs}\n" if needs else ""
    )
    content[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    rows = []
    for path, text in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text)}")
    content[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    target = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, text in content.items():
            archive.writestr(path, text)
    return target


def packages_listing() -> list[tuple[str, int]]:
    """Name and time of every package of this Python, which is Blender's own here."""
    with os.scandir(sysconfig.get_path("purelib")) as entries:
        return sorted((entry.name, entry.stat().st_mtime_ns) for entry in entries if entry.name != "__pycache__")


def site_packages_hash() -> str:
    """The same with every file in them, and of the standard library: name, size and time."""
    digest = hashlib.sha256()
    for key in ("purelib", "stdlib"):
        for folder, _, names in sorted(os.walk(sysconfig.get_path(key))):
            if "__pycache__" in folder:
                continue
            for name in sorted(names):
                status = os.lstat(os.path.join(folder, name))
                digest.update(f"{folder}/{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def end(installation: Installation, seconds: float = 120) -> tuple[InstallState, list[InstallState]]:
    states: list[InstallState] = []
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            states.append(installation.states.get(timeout=0.2))
        except queue.Empty:
            continue
        if states[-1].outcome:
            installation.join(10)
            return states[-1], states
    raise AssertionError(states)


@pytest.fixture(scope="module")
def managed(tmp_path_factory) -> Managed:
    """A managed environment with a pip of its own, and nothing else."""
    managed = Managed(tmp_path_factory.mktemp("managed") / "ä b")
    managed.claim()
    managed.cache.mkdir()
    installation = Installation(Order(managed, "0.1.0", python=Path(sys.executable)))
    before = packages_listing()
    installation._make_environment()
    assert packages_listing() == before  # made with this Python, which is none the wiser
    return managed


def pip(managed: Managed, *arguments: str, on_line=lambda line: None) -> tuple[int, list[str]]:
    return run_module(managed.python, ("pip", *arguments), managed.log, threading.Event(), on_line)


def test_packages_that_are_there_in_part_are_installed_again(managed, tmp_path):
    """What a killed pip leaves: no list of files, a file cut short, a folder moved aside. Whole ones are left alone."""
    for name in ("alpha", "beta", "gamma"):
        tiny_wheel(tmp_path, name)
    install = ("install", "--no-index", "--find-links", str(tmp_path), "alpha", "beta", "gamma")
    progress = PipProgress(3)
    code, lines = pip(managed, *install, on_line=progress.feed)
    assert code == 0, lines
    assert sorted(progress.installing) == ["alpha", "beta", "gamma"]
    assert progress.fraction >= 0.6
    assert {"alpha", "beta", "gamma", "pip"} <= set(managed.packages())
    assert managed.mend() == []
    folder = managed._site_packages()[0]
    (folder / "alpha-1.0.dist-info" / "RECORD").unlink()
    (folder / "beta" / "part1.py").write_text("value = ")
    (folder / "~eta").mkdir()
    assert sorted(managed.mend()) == ["alpha-1.0", "beta-1.0"]
    assert not (folder / "~eta").exists()
    assert "gamma" in managed.packages()
    code, lines = pip(managed, *install)
    assert code == 0, lines
    assert any("already satisfied: gamma" in line for line in lines)
    assert (folder / "beta" / "part1.py").read_text() == "value = 1\n" * 200
    assert managed.mend() == []


def test_settings_of_a_user_that_send_packages_elsewhere_are_not_followed(managed, tmp_path, monkeypatch):
    """PIP_TARGET and the like, PYTHONPATH and PYTHONHOME: the package is where it belongs."""
    tiny_wheel(tmp_path, "delta")
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    code, lines = pip(managed, "install", "--no-index", "--find-links", str(tmp_path), "delta")
    assert code == 0, lines
    assert "delta" in managed.packages()
    assert not (tmp_path / "elsewhere").exists()
    assert "PIP_CERT" in pip_environment({"PIP_CERT": "/x"})


def test_a_cancel_ends_what_runs(managed, tmp_path):
    script = tmp_path / "long.py"
    script.write_text("import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    cancelled = threading.Event()
    seen: list[str] = []

    def on_line(line: str) -> None:
        seen.append(line)
        cancelled.set()

    with pytest.raises(Cancelled):
        run_module(managed.python, (str(script),), managed.log, cancelled, on_line)
    with pytest.raises(ProcessLookupError):
        os.kill(int(seen[0]), 0)


@pytest.mark.skipif(sys.platform == "win32", reason="kills with SIGKILL")
def test_what_runs_ends_with_a_blender_that_is_killed(managed, tmp_path):
    """An installation is no orphan either."""
    script = tmp_path / "long.py"
    script.write_text("import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    code = (
        "import sys, threading; from pathlib import Path; from blender_addon.server_care.pip import run_module\n"
        "say = lambda line: print(line, flush=True)\n"
        "run_module(Path(sys.argv[1]), (sys.argv[2],), Path(sys.argv[3]), threading.Event(), say)"
    )
    command = [sys.executable, "-c", code, str(managed.python), str(script), str(tmp_path / "log")]
    blender = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    pid = int(blender.stdout.readline())
    os.kill(blender.pid, signal.SIGKILL)
    blender.communicate()
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} is an orphan")


def test_what_pip_says_becomes_progress():
    """Lines as pip 23 and pip 26 print them; it never goes back."""
    progress = PipProgress(expected=4)
    fractions = [progress.fraction]
    for line in (
        "Looking in links: /srv/wheels",
        "Collecting torch>=2.6",
        "  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (539.1 MB)",
        "Progress 269550000 of 539100000",
        "Progress 539100000 of 539100000",
        "Collecting sympy>=1.13.3 (from torch>=2.6)",
        "  Using cached sympy-1.14.0-py3-none-any.whl (6.3 MB)",
        "Collecting av",
        "Processing /wheels/av-14.0-cp311-cp311-linux_x86_64.whl (from hvg3d)",
        "Collecting fastapi",
        "Installing collected packages: av, sympy, fastapi, torch",
    ):
        progress.feed(line)
        fractions.append(progress.fraction)
    assert fractions == sorted(fractions)
    assert fractions[4] == pytest.approx(0.6 * 0.5 / 4)
    assert progress.installing == ["av", "sympy", "fastapi", "torch"]
    assert fractions[-1] == pytest.approx(0.6)
    progress.unpacked = 2
    assert progress.fraction == pytest.approx(0.8)
    progress.unpacked = 9
    assert progress.fraction == pytest.approx(1.0)
    progress = PipProgress()
    progress.feed("  Downloading av-14.0-cp311.whl (33.0 MB)")
    assert progress.text == "Fetching av (33.0 MB)"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk_full"),
        ("ERROR: [Errno 13] Permission denied: '/x/env/lib'", "read_only"),
        (
            "NewConnectionError: Failed to establish a new connection: [Errno -3] Temporary failure in name resolution",
            "no_network",
        ),
        ("pip._vendor.urllib3.exceptions.ReadTimeoutError: Read timed out. ReadTimeout", "no_network"),
        ("after connection broken by 'SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY", "certificate"),
        ("ERROR: Package 'hvg3d' requires a different Python: 3.9.2 not in '<3.14,>=3.11'", "wrong_python"),
        ("ERROR: av-14.0-cp313-cp313-win_amd64.whl is not a supported wheel on this platform.", "wheel"),
        ("ERROR: No matching distribution found for torch>=2.6", "not_found"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "damaged"),
        ("ERROR: flux capacitor", "pip"),
    ],
)
def test_what_pip_gives_up_over_is_said_in_words(line, code):
    error = explain_pip(["Collecting x", line, ""], 1)
    assert error.code == code, error.message
    assert error.message
    assert error.remedy
    assert "{" not in error.message


def test_who_has_told_pip_where_to_look():
    assert user_has_places({"PIP_FIND_LINKS": "/x"})
    assert user_has_places({}, "global.extra-index-url='file:///x'")
    assert not user_has_places({"PIP_CERT": "/x"}, "global.cert='/x'")


def test_what_cannot_work_is_said_before_anything_is_made(tmp_path):
    """No room, a wheel that is none, a Python that is none, a folder of somebody else's."""
    other = tmp_path / "other.whl"
    other.write_text("no zip")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "film.mp4").write_bytes(b"x")
    managed = Managed(tmp_path / "managed")
    for order, code in (
        (Order(managed, "0.1.0", room=10**18), "disk_full"),
        (Order(managed, "0.1.0", wheel=other), "wheel"),
        (Order(managed, "0.1.0", python=tmp_path / "python", room=0), "no_python"),
        (Order(Managed(theirs), "0.1.0"), "not_ours"),
    ):
        installation = Installation(order)
        installation.start()
        state, _ = end(installation)
        assert (state.outcome, state.code) == ("failed", code), state
        assert state.remedy
    assert not managed.env.exists()
    assert os.listdir(theirs) == ["film.mp4"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk")
def test_a_disk_that_fills_up(tmp_path):
    """A disk of 6 MB: the environment does not fit, the reason is the disk, and nothing but it is full."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not let us mount")
    try:
        installation = Installation(Order(Managed(small / "managed"), "0.1.0", python=Path(sys.executable), room=0))
        installation.start()
        state, _ = end(installation)
        assert (state.outcome, state.code) == ("failed", "disk_full"), state
        assert "Free some space" in state.remedy
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.slow
def test_a_half_made_environment_is_made_again(tmp_path):
    """Killed while the environment was made: its Python is there, its pip is not."""
    managed = Managed(tmp_path / "managed")
    managed.claim()
    lean_environment(managed.env, with_server=False)
    stale = managed.env / "stale"
    stale.touch()
    cancelled = Installation(Order(managed, "0.1.0", python=Path(sys.executable), room=0))
    cancelled._make_environment()
    assert not stale.exists()
    code, lines = pip(managed, "--version")
    assert code == 0, lines
    assert (managed.folder / MARKER).is_file()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(importlib.util.find_spec("bpy") is None, reason="needs the bpy wheel")
def test_from_a_wheel_to_a_video_killed_half_way(tmp_path):
    """The whole way with the built extension: Blender is killed in the middle of the installation and leaves no
    orphan; the next one goes on, starts what was installed, makes a video with the nano, stops, removes. Blender's own
    Python is the same before and after. Needs a package index."""
    psutil = pytest.importorskip("psutil")
    package = build_extension.build(tmp_path)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    wheel = next(tmp_path.glob("hvg3d-*.whl"))
    folder = tmp_path / "projekt ö"
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["BLENDER_USER_RESOURCES"] = str(tmp_path / "blender")
    script = str(Path(__file__).with_name("drive_install.py"))
    drive = [sys.executable, script, str(package), str(wheel), str(tmp_path / "home"), str(folder)]
    before = site_packages_hash()

    first = subprocess.Popen([*drive, "until"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    fractions = []
    for line in first.stdout:
        said = json.loads(line) if line.startswith("{") else {}
        fractions.append(said.get("fraction", fractions[-1] if fractions else 0.0))
        assert not said.get("outcome"), said
        if said.get("text", "").startswith("Installing the server: unpacked 3"):
            break
    first.kill()
    first.communicate()
    time.sleep(3)
    orphans = [p.info for p in psutil.process_iter(["cmdline"]) if str(tmp_path / "blender") in str(p.info["cmdline"])]
    assert orphans == []

    second = subprocess.run(drive, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stdout[-3000:] + second.stderr[-5000:]
    said = [json.loads(line) for line in second.stdout.splitlines() if line.startswith("{")]
    told = {name: value for line in said for name, value in line.items()}
    assert [line["fraction"] for line in said if "fraction" in line] == sorted(
        line["fraction"] for line in said if "fraction" in line
    )
    assert not any("Making an environment" in line.get("text", "") for line in said[3:])
    assert told["installed"] == told["version"]
    assert told["size"] > 500e6
    assert told["video"] > 1000
    assert told["model"]["id"] == "nano"
    assert told["removed"]
    assert site_packages_hash() == before
    assert fractions == sorted(fractions)
