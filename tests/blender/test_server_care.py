# SPDX-License-Identifier: GPL-3.0-or-later
"""A server on this computer, from inside Blender: started, watched, killed, restarted, stopped, kept, found again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

bpy = pytest.importorskip("bpy", reason="needs the bpy wheel (pip install 'hvg3d[blender]')")
pytest.importorskip("fastapi", reason="needs the server (pip install 'hvg3d[server]')")
pytest.importorskip("av", reason="needs PyAV (pip install 'hvg3d[network]')")

import psutil  # noqa: E402

from blender_addon.client.http import Address  # noqa: E402
from blender_addon.runtime import RUNTIME  # noqa: E402
from blender_addon.server_care.care import CARE  # noqa: E402
from blender_addon.server_care.local import read_handshake  # noqa: E402
from blender_addon.shot import checklist  # noqa: E402
from tests.server.serverkit import tiny_clip  # noqa: E402

from .carekit import ROOT, lean_environment, pumped, switch_off, switch_on  # noqa: E402


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """Its folder has a name as people on Windows have them."""
    return lean_environment(tmp_path_factory.mktemp("programs") / "ä b" / "hvg3d")


@pytest.fixture
def chosen(python, tmp_path, monkeypatch):
    """The add-on's preferences, for a server with the slow backend in a home of its own."""
    monkeypatch.setenv("HVG3D_TEST_FOLDER", str(tmp_path))
    monkeypatch.setenv("HVG3D_TEST_STEP_SECONDS", "0.3")
    chosen = switch_on()
    chosen.server_home = f'  "{tmp_path / "höme"}/"'
    chosen.server_program = str(python)
    chosen.server_options = "--backend slow_backend"
    try:
        yield chosen
    finally:
        switch_off()


def home(tmp_path: Path) -> Path:
    return tmp_path / "höme"


def server_line() -> tuple[bool, str, list[str]]:
    """Of the checklist: is it well, what it says, its buttons' operators."""
    check = checklist(bpy.context.scene)[-1]
    return check.ok, check.text, [fix.operator for fix in check.fixes]


def ready() -> bool:
    return RUNTIME.server.state == "ready"


def alive(*processes: psutil.Process) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def family(pid: int) -> list[psutil.Process]:
    """A server and its worker, once there is one."""
    server = psutil.Process(pid)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        workers = [child for child in server.children() if "server.worker" in child.cmdline()]
        if workers:
            return [server, *workers]
        time.sleep(0.05)
    raise AssertionError("no worker")


def gone(processes: list[psutil.Process], seconds: float = 12) -> bool:
    _, left = psutil.wait_procs(processes, timeout=seconds)
    return not alive(*left)


def test_the_whole_life_of_a_server(chosen, tmp_path):
    """Off, started with the checklist's button, killed and restarted by itself, killed again and offered, stopped."""
    bpy.ops.hvg3d.check_server()
    pumped(lambda: RUNTIME.server.code == "off")
    assert server_line() == (False, "The server is not running", ["hvg3d.start_server", "hvg3d.show_preferences"])
    assert not bpy.ops.hvg3d.stop_server.poll()

    assert bpy.ops.hvg3d.start_server() == {"FINISHED"}
    assert not bpy.ops.hvg3d.start_server.poll()
    pumped(lambda: RUNTIME.server.state == "starting")
    assert server_line()[0] is False
    assert server_line()[2] == ["hvg3d.stop_server"]
    pumped(ready)
    told = read_handshake(home(tmp_path))
    assert RUNTIME.server.url == f"http://127.0.0.1:{told['port']}"
    assert server_line() == (True, f"Connected to {told['url']}", [])
    assert not bpy.ops.hvg3d.start_server.poll()
    first = family(told["pid"])

    os.kill(told["pid"], signal.SIGKILL)
    pumped(lambda: RUNTIME.server.state == "starting")
    assert "killed" in RUNTIME.server.message
    pumped(lambda: ready() and RUNTIME.server.instance != told["instance"])
    assert gone(first)  # its worker, too

    told = read_handshake(home(tmp_path))
    second = family(told["pid"])
    os.kill(told["pid"], signal.SIGKILL)
    pumped(lambda: RUNTIME.server.code == "gone")
    assert server_line()[2] == ["hvg3d.start_server", "hvg3d.show_server_log"]
    assert gone(second)

    bpy.ops.hvg3d.start_server()
    pumped(ready)
    third = family(read_handshake(home(tmp_path))["pid"])
    assert bpy.ops.hvg3d.stop_server() == {"FINISHED"}
    pumped(lambda: RUNTIME.server.code == "off")
    assert gone(third)
    assert not (home(tmp_path) / "server.json").exists()


def test_a_job_goes_on_when_its_server_is_killed(chosen, tmp_path):
    """Through the add-on: the job is followed over the restart, and its video arrives."""
    from blender_addon.client.protocol import GenerationRequest
    from blender_addon.client.task import RenderTask
    from hvg3d_core.conditions import clip_from_bytes

    bpy.ops.hvg3d.start_server()
    pumped(ready)
    told = read_handshake(home(tmp_path))
    address = Address(home=str(home(tmp_path)))
    task = RenderTask(
        address, clip_from_bytes(tiny_clip()), GenerationRequest("", "a hand", 3), tmp_path / "v.mp4", "t"
    )
    task.start()
    states = []

    def seen(condition) -> bool:
        while not task.states.empty():
            states.append(task.states.get())
        return any(condition(state) for state in states)

    pumped(lambda: seen(lambda state: state.phase == "Generating"))
    assert RUNTIME.server.waiting in (0, 1)
    os.kill(told["pid"], signal.SIGKILL)
    pumped(lambda: seen(lambda state: state.outcome), 90)
    assert states[-1].outcome == "done"
    assert (tmp_path / "v.mp4").is_file()
    assert CARE.restarts == 1
    assert read_handshake(home(tmp_path))["instance"] != told["instance"]


BLENDER = """
import json, os, sys, time
import bpy
from tests.blender.carekit import pumped, switch_on
from blender_addon.runtime import RUNTIME
from blender_addon.server_care.care import CARE
from blender_addon.server_care.local import read_handshake
from pathlib import Path
home, program, keep, end = sys.argv[1:5]
chosen = switch_on()
chosen.server_home, chosen.server_program, chosen.server_options = home, program, "--backend slow_backend"
bpy.ops.hvg3d.start_server()
pumped(lambda: RUNTIME.server.state == "ready")
chosen.keep_running = keep == "keep"
print(json.dumps({"pid": read_handshake(Path(home))["pid"], "mine": CARE.mine}), flush=True)
sys.stdin.readline()
print("END", flush=True)
"""


class OtherBlender:
    """A Blender of its own that has started a server."""

    def __init__(self, folder: Path, python: Path, keep: str = "") -> None:
        environment = {**os.environ, "HVG3D_TEST_FOLDER": str(folder), "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", BLENDER, str(folder / "höme"), str(python), keep, ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self.told = json.loads(line)
                break
        else:
            raise AssertionError("it did not come so far")
        self.family = family(self.told["pid"])

    def end(self) -> None:
        """As a user does it."""
        self.process.communicate("\n", timeout=30)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("how", ["end", "kill"])
def test_the_server_ends_with_its_blender(python, tmp_path, how):
    """Also with one that is killed and has no time for anything. No worker is left either."""
    blender = OtherBlender(tmp_path, python)
    assert blender.told["mine"]
    getattr(blender, how)()
    assert gone(blender.family)


@pytest.mark.parametrize("how", ["kill", pytest.param("end", marks=pytest.mark.slow)])
def test_a_server_that_is_kept_is_found_again(chosen, python, tmp_path, how):
    """It outlives its Blender; the next one finds it, does not start another, and can stop it."""
    blender = OtherBlender(tmp_path, python, "keep")
    getattr(blender, how)()
    time.sleep(2.5)  # longer than it looks for its parent
    assert len(alive(*blender.family)) == len(blender.family)
    bpy.ops.hvg3d.check_server()
    pumped(ready)
    assert not CARE.mine
    assert not bpy.ops.hvg3d.start_server.poll()
    CARE.start()  # as with a button that was drawn a moment before
    pumped(lambda: not CARE.doing)
    assert not CARE.mine
    assert read_handshake(home(tmp_path))["pid"] == blender.told["pid"]
    bpy.ops.hvg3d.stop_server()
    pumped(lambda: RUNTIME.server.code == "off")
    assert gone(blender.family)


@pytest.mark.slow
def test_two_blenders_share_one_server_and_the_second_takes_over(chosen, python, tmp_path):
    """No fight: the second uses the first one's server, and when that goes with its Blender, it can start its own."""
    blender = OtherBlender(tmp_path, python)
    bpy.ops.hvg3d.check_server()
    pumped(ready)
    assert not CARE.mine
    blender.kill()
    pumped(lambda: RUNTIME.server.code == "off")
    assert RUNTIME.server.message == "The server has gone"
    assert gone(blender.family)
    bpy.ops.hvg3d.start_server()
    pumped(ready)
    assert CARE.mine


def test_switching_the_add_on_off_ends_the_server(python, tmp_path, monkeypatch):
    monkeypatch.setenv("HVG3D_TEST_FOLDER", str(tmp_path))
    chosen = switch_on()
    try:
        chosen.server_home, chosen.server_program = str(home(tmp_path)), str(python)
        chosen.server_options = "--backend slow_backend"
        bpy.ops.hvg3d.start_server()
        pumped(ready)
        processes = family(read_handshake(home(tmp_path))["pid"])
    finally:
        switch_off()
    assert gone(processes, 1)  # it has been waited for


def test_a_start_can_be_stopped(chosen, tmp_path):
    bpy.ops.hvg3d.start_server()
    assert bpy.ops.hvg3d.stop_server.poll()
    bpy.ops.hvg3d.stop_server()
    pumped(lambda: RUNTIME.server.code == "off")
    assert not CARE.mine
    assert not CARE.doing
    assert [p for p in psutil.process_iter(["cmdline"]) if str(home(tmp_path)) in (p.info["cmdline"] or [])] == []


def test_a_port_that_is_taken_is_mended_by_its_button(chosen, tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        chosen.server_port = other.getsockname()[1]
        bpy.ops.hvg3d.start_server()
        pumped(lambda: RUNTIME.server.code == "port_taken")
        assert f"127.0.0.1:{chosen.server_port}" in RUNTIME.server.message
        assert server_line()[2][0] == "hvg3d.use_any_port"
        bpy.ops.hvg3d.use_any_port()
        pumped(ready)
        assert read_handshake(home(tmp_path))["port"] not in (0, other.getsockname()[1])


def test_addresses_elsewhere_need_online_access(chosen):
    """Nothing is sent to another computer while Blender's online access is off; this computer is always asked."""
    system = bpy.context.preferences.system
    before = system.use_online_access
    try:
        system.use_online_access = False
        chosen.find_server, chosen.address = "ADDRESS", "192.0.2.1:8765"
        pumped(lambda: RUNTIME.server.code == "online_access")
        assert server_line()[2][0] == "hvg3d.show_online_access"
        assert not bpy.ops.hvg3d.start_server.poll()
        chosen.address = "127.0.0.1:9/"
        pumped(lambda: RUNTIME.server.code == "refused")
        assert "http://127.0.0.1:9" in RUNTIME.server.message
    finally:
        system.use_online_access = before


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("server_home", r"C:\Users\ä b\hvg3d", "path of windows"),
        ("server_home", "relative/folder", "not a full path"),
        ("server_program", r'"\\server\share\python.exe"', "path of windows"),
        ("server_program", "/no/such/python", "there is no /no/such/python"),
        ("server_options", "--model 'nano", "close the quotes"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="these are right there")
def test_settings_that_cannot_be_used_say_so(chosen, name, value, said):
    setattr(chosen, name, value)
    pumped(lambda: RUNTIME.server.state == "problem")
    assert said in f"{RUNTIME.server.message}: {RUNTIME.server.remedy}".lower()
    assert RUNTIME.server.remedy
    bpy.ops.hvg3d.start_server()
    pumped(lambda: RUNTIME.server.state == "problem" and not CARE.doing)
    assert said in f"{RUNTIME.server.message}: {RUNTIME.server.remedy}".lower()
