# SPDX-License-Identifier: GPL-3.0-or-later
"""The extension as a user gets it: built as a zip, installed into an empty Blender, driven, removed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from blender_addon import build_extension

needs_bpy = pytest.mark.skipif(
    importlib.util.find_spec("bpy") is None, reason="needs the bpy wheel (pip install 'hvg3d[blender]')"
)


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    return build_extension.build(tmp_path_factory.mktemp("dist"))


def test_the_zip_has_all_it_needs_and_nothing_else(package):
    import hvg3d_core

    with zipfile.ZipFile(package) as archive:
        names = set(archive.namelist())
        manifest = tomllib.loads(archive.read("blender_manifest.toml").decode())
    assert package.name == f"hvg3d-{hvg3d_core.__version__}.zip"
    assert manifest["version"] == hvg3d_core.__version__
    assert manifest["blender_version_min"] == "4.5.0"
    assert set(manifest["permissions"]) == {"files", "network"}
    assert {"__init__.py", "LICENSE", "hvg3d_core/LICENSE", "hvg3d_core/conditions/clip.py"} <= names
    assert any(name.startswith("demo/assets/") and name.endswith(".glb") for name in names)
    assert any(name.startswith("demo/assets/LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name or "build_extension" in name or "test" in name]
    assert package.stat().st_size < 2_000_000


@needs_bpy
def test_a_user_installs_marks_exports_renders_and_removes(package, tmp_path):
    """drive_extension.py in a Blender of its own, with a real server; the checks are in there, step by step."""
    pytest.importorskip("fastapi", reason="needs the server (pip install 'hvg3d[server]')")
    pytest.importorskip("av", reason="needs PyAV (pip install 'hvg3d[network]')")
    from tests.server.serverkit import RunningServer

    folder = tmp_path / "projekt ö"
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["BLENDER_USER_RESOURCES"] = str(tmp_path / "blender")
    with RunningServer(tmp_path / "home", step_seconds=0.25) as server:
        command = [sys.executable, str(Path(__file__).with_name("drive_extension.py")), str(package)]
        done = subprocess.run(
            [*command, str(server.home), str(folder)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert "DRIVEN" in done.stdout


@needs_bpy
def test_a_script_that_switches_the_add_on_on_can_end():
    """Blender as a module hangs at exit when classes stay registered; the add-on takes its own away."""
    script = "import bpy, blender_addon; blender_addon.register(); bpy.ops.hvg3d.new_seed(); print('END')"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=build_extension.ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert "END" in done.stdout
