# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in an empty Blender: subscribes to a repository, installs from it, then updates to what has come since.

Arguments, after ``--`` where it is Blender's own program: the listing's address, a folder to talk through. It writes
``installed`` there, waits for ``newer``, and prints REPOSITORY when all went well.
"""

import os
import sys
import time
import tomllib
from pathlib import Path

import bpy

import addon_utils  # isort: skip - bpy brings it

URL, FOLDER = sys.argv[-2], Path(sys.argv[-1])


def version() -> str:
    """Of what is installed, from the disk."""
    repository = bpy.context.preferences.extensions.repos["HVG-3D"]
    return str(tomllib.loads((Path(repository.directory) / "hvg3d" / "blender_manifest.toml").read_text())["version"])


def main() -> None:
    preferences = bpy.context.preferences
    addon_utils.enable("bl_pkg")
    preferences.system.use_online_access = True
    bpy.ops.preferences.extension_repo_add(name="HVG-3D", remote_url=URL, type="REMOTE", use_sync_on_startup=True)
    index, repository = next((i, r) for i, r in enumerate(preferences.extensions.repos) if r.name == "HVG-3D")
    assert repository.remote_url == URL
    assert not os.path.isdir(os.path.join(repository.directory, "hvg3d"))

    assert bpy.ops.extensions.repo_sync(repo_index=index) == {"FINISHED"}
    bpy.ops.extensions.package_install(repo_index=index, pkg_id="hvg3d", enable_on_install=True)
    package = f"bl_ext.{repository.module}.hvg3d"
    assert package in preferences.addons, "it is not enabled"
    assert hasattr(bpy.types, "HVG3D_PT_render")
    assert bpy.context.scene.hvg3d.quality == "STANDARD"
    preferences.addons[package].preferences.address = "http://127.0.0.1:9999"
    (FOLDER / "installed").write_text(version())

    end = time.monotonic() + 60
    while not (FOLDER / "newer").is_file():
        assert time.monotonic() < end, "no newer version was published"
        time.sleep(0.1)
    bpy.ops.extensions.repo_sync(repo_index=index)
    bpy.ops.extensions.package_upgrade_all()
    assert package in preferences.addons
    assert preferences.addons[package].preferences.address == "http://127.0.0.1:9999", "settings were lost"
    (FOLDER / "updated").write_text(version())
    bpy.ops.extensions.package_uninstall(repo_index=index, pkg_id="hvg3d")
    assert package not in preferences.addons
    assert not hasattr(bpy.types, "HVG3D_PT_render")
    print("REPOSITORY", bpy.app.version_string, flush=True)


try:
    main()
except BaseException:
    import traceback

    traceback.print_exc()
    os._exit(1)
sys.stdout.flush()
os._exit(0)  # Blender as a module may hang at exit
