# SPDX-License-Identifier: Apache-2.0
"""The arrows between the rooms point one way, and the light parts stay light."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_import_contracts_are_kept():
    program = Path(sys.executable).with_name("lint-imports.exe" if sys.platform == "win32" else "lint-imports")
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("module", ["hvg3d_core.checkpoints.registry", "hvg3d_core.cli.main", "server.app"])
def test_importing_it_does_not_import_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_every_source_file_says_its_licence():
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.split():
        path = ROOT / name
        if path.exists() and path.stat().st_size:
            either = ("GPL-3.0-or-later", "Apache-2.0")
            allowed = either[:1] if name.startswith("blender_addon/") else either
            allowed = either[1:] if name.startswith(("hvg3d_core/", "server/")) else allowed
            first = path.read_text(encoding="utf-8").partition("\n")[0]
            assert first.removeprefix("# SPDX-License-Identifier: ") in allowed, f"{name}: {first!r}"
