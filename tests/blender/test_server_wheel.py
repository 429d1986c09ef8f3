# SPDX-License-Identifier: GPL-3.0-or-later
"""The wheel of this repository has everything that a server needs; the add-on can tell it from other files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import hvg3d_core
from blender_addon.server_care.failures import CareError
from blender_addon.server_care.wheel import find_wheel, open_wheel

from .carekit import ROOT

PACKAGES = ("hvg3d_core", "server", "blender_addon")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, for a build leaves its own folders beside the sources."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    command = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder)]
    done = subprocess.run(
        [sys.executable, *command, str(folder / "source")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return next(folder.glob("hvg3d-*.whl"))


def test_every_file_of_the_packages_is_in_it(wheel):
    """Weights, configurations, the page's files: whatever is in the repository, apart from what only explains."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.getinfo(name).file_size for name in archive.namelist()}
    listed = subprocess.run(["git", "ls-files", "-z", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=False)
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    if not names:
        names = [p.relative_to(ROOT).as_posix() for d in PACKAGES for p in (ROOT / d).rglob("*") if p.is_file()]
        names = [name for name in names if "__pycache__" not in name]
    missing = [name for name in names if name not in packed and not name.endswith(".md")]
    assert missing == []
    assert {"server/__main__.py", "server/gallery/static/index.html", "server/openapi.json"} <= set(packed)
    weights = [name for name in packed if name.startswith("hvg3d_core/checkpoints/nano/") and name.endswith("tensors")]
    assert len(weights) == 3
    for name in weights:
        assert packed[name] == (ROOT / name).stat().st_size
    assert not [name for name in packed if name.startswith(("tests/", "benchmarks/", "data/"))]


def test_its_metadata(wheel):
    """Name, version, the Pythons, and the extras that an installation asks for."""
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"hvg3d-{hvg3d_core.__version__}.dist-info/METADATA").decode()
        scripts = archive.read(f"hvg3d-{hvg3d_core.__version__}.dist-info/entry_points.txt").decode()
    said = Parser().parsestr(text)
    assert (said["Name"], said["Version"]) == ("hvg3d", hvg3d_core.__version__)
    assert {"network", "server"} <= set(said.get_all("Provides-Extra"))
    needs = said.get_all("Requires-Dist")
    assert any(re.match(r"torch>=\S+; extra == .network.", need) for need in needs)
    assert any(re.match(r"fastapi>=\S+; extra == .server.", need) for need in needs)
    assert "hvg3d = hvg3d_core.cli.main:run" in scripts


def test_the_add_on_knows_it(wheel, tmp_path):
    opened = open_wheel(wheel)
    assert opened.version == hvg3d_core.__version__
    assert len(opened.sha256) == 64
    assert find_wheel(wheel.parent, ()) == wheel
    assert find_wheel(None, (tmp_path, wheel.parent)) == wheel
    assert find_wheel(None, (tmp_path,)) is None
    for version in ("0.9.0", "0.10.0"):
        shutil.copy(wheel, tmp_path / f"hvg3d-{version}-py3-none-any.whl")
    assert find_wheel(tmp_path, ()).name == "hvg3d-0.10.0-py3-none-any.whl"


def test_files_that_are_not_it(wheel, tmp_path):
    """Half of it, another package, no file at all: said before anything is touched."""
    half = tmp_path / "hvg3d-0.1.0-py3-none-any.whl"
    half.write_bytes(wheel.read_bytes()[:100_000])
    with pytest.raises(CareError, match="or only part of one"):
        open_wheel(half)
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("other/__init__.py", "")
    with pytest.raises(CareError, match="is not the HVG-3D server"):
        open_wheel(tmp_path / "other.whl")
    with pytest.raises(CareError, match="cannot be read"):
        open_wheel(tmp_path / "none.whl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CareError, match="There is no hvg3d"):
        find_wheel(tmp_path / "empty", ())
