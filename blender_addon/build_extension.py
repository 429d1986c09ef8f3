# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the extension's zip: ``python -m blender_addon.build_extension`` writes ``dist/hvg3d-<version>.zip``.

The add-on's modules, its demo assets and a copy of ``hvg3d_core/conditions``, the only part of the library that runs in
Blender. Built with the tool that comes with the ``bpy`` wheel where it is installed (it checks the manifest), else with
the standard library; the content is the same. Needs no Blender.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ADDON = Path(__file__).resolve().parent
ROOT = ADDON.parent
# What only a checkout needs: this file, the command line on the bpy wheel, the generator of training data.
_LEFT_OUT = {"build_extension.py", "headless.py", "demo/generate.py", "demo/randomise.py", "demo/records.py"}
_CORE_INIT = '# SPDX-License-Identifier: Apache-2.0\n"""The part of the HVG-3D library that runs inside Blender."""\n'


def version() -> str:
    """The library's version, read without importing it."""
    text = (ROOT / "hvg3d_core" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


def content() -> dict[str, bytes]:
    """Every file of the extension: its name in the zip (with /) and its bytes."""
    files = {name: path.read_bytes() for name, path in _files(ADDON) if name not in _LEFT_OUT}
    files.update((f"hvg3d_core/conditions/{n}", p.read_bytes()) for n, p in _files(ROOT / "hvg3d_core" / "conditions"))
    files["hvg3d_core/__init__.py"] = _CORE_INIT.encode()
    files["hvg3d_core/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    manifest = files["blender_manifest.toml"].decode()
    files["blender_manifest.toml"] = re.sub(r'(?m)^version = ".*"', f'version = "{version()}"', manifest).encode()
    return files


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."):
            yield path.relative_to(folder).as_posix(), path


def blender_tool() -> Path | None:
    """Blender's own packager, which runs alone; found without importing ``bpy``."""
    spec = importlib.util.find_spec("bpy")
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(Path(spec.submodule_search_locations[0]).rglob("bl_pkg/cli/blender_ext.py"), None)


def build(out: Path, *, use_blender: bool = True) -> Path:
    """Writes the zip into the folder ``out`` and returns its path."""
    files = content()
    identifier = tomllib.loads(files["blender_manifest.toml"].decode())["id"]
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"{identifier}-{version()}.zip"
    tool = blender_tool() if use_blender else None
    if tool is None:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in sorted(files.items()):
                archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # no time stamps: same in, same out
        return target
    with tempfile.TemporaryDirectory(prefix="hvg3d_") as folder:
        source = Path(folder) / identifier
        for name, data in files.items():
            path = source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        made = Path(folder) / "made"
        made.mkdir()
        command = [sys.executable, str(tool), "build", "--source-dir", str(source), "--output-dir", str(made)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"Blender's packager refuses the extension:\n{done.stdout}{done.stderr}")
        shutil.copyfile(next(made.glob("*.zip")), target)
    return target


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m blender_addon.build_extension", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the zip (%(default)s)")
    path = build(parser.parse_args(argv).out)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
