# SPDX-License-Identifier: GPL-3.0-or-later
"""For tests of the care for a server: an environment that has it, and the add-on with preferences as when installed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

from blender_addon.server_care.pythons import environment_python

ROOT = Path(__file__).parents[2]


def lean_environment(folder: Path, *, with_server: bool = True) -> Path:
    """The Python of a real environment that borrows all packages from this one, made in a moment.

    With the slow backend of the server's tests, so that no test waits for a real network.
    """
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", str(folder)], check=True)
    python = environment_python(folder)
    if with_server:
        asked = [str(python), "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        packages = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
        lines = [sysconfig.get_path("purelib"), str(ROOT), str(ROOT / "tests" / "server")]
        (Path(packages) / "borrowed.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return python


def switch_on():
    """Registers the add-on from the checkout; its preferences, as an installed one has them."""
    import bpy

    import blender_addon

    blender_addon.register()
    addon = bpy.context.preferences.addons.new()
    addon.module = "blender_addon"
    return addon.preferences


def switch_off() -> None:
    import bpy

    import blender_addon

    blender_addon.unregister()
    bpy.context.preferences.addons.remove(bpy.context.preferences.addons["blender_addon"])


def pumped(condition: Callable[[], object], seconds: float = 40.0) -> None:
    """Timers do not fire without a window: do what the timer would."""
    from blender_addon import pump
    from blender_addon.server_care.care import CARE

    end = time.monotonic() + seconds
    while not condition():
        pump.pump()
        assert time.monotonic() < end, (CARE.status, CARE.log, CARE.install_state)
        time.sleep(0.02)
