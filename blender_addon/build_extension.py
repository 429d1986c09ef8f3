# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the extension's zip: ``python -m blender_addon.build_extension`` writes ``dist/hvg3d-<version>.zip``.

The add-on's modules, its demo assets and a copy of ``hvg3d_core/conditions``, the only part of the library that runs in
Blender. The same sources give the same bytes. Checked by the tool that comes with the ``bpy`` wheel where that is
installed. With ``--repository DIR`` the zip goes there, and the folder becomes a repository that Blender can subscribe
to (:mod:`blender_addon.repository`). Needs no Blender.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from .repository import LISTING, PAGE, RepositoryError, write_repository

ADDON = Path(__file__).resolve().parent
ROOT = ADDON.parent
# What only a checkout needs: building, the command line on the bpy wheel, the generator of training data.
_LEFT_OUT = {
    *("build_extension.py", "repository.py", "headless.py"),
    *("demo/generate.py", "demo/randomise.py", "demo/records.py"),
}
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
    """Writes the zip into the folder ``out`` and returns its path. Blender's tool has to accept it, if it is there."""
    files = content()
    identifier = tomllib.loads(files["blender_manifest.toml"].decode())["id"]
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"{identifier}-{version()}.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name)  # of 1980: no time of today, same in, same out
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # also where it is built on Windows
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data, compresslevel=9)
    tool = blender_tool() if use_blender else None
    if tool is not None:
        done = subprocess.run([sys.executable, str(tool), "validate", str(target)], capture_output=True, text=True)
        if done.returncode:
            target.unlink()
            raise SystemExit(f"Blender's packager refuses the extension:\n{done.stdout}{done.stderr}")
    return target


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m blender_addon.build_extension", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the zip (%(default)s)")
    parser.add_argument(
        "--repository", type=Path, metavar="DIR", help="folder for the zip, made a repository to subscribe to"
    )
    given = parser.parse_args(argv)
    path = build(given.repository or given.out)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    if given.repository is not None:
        try:
            entries = write_repository(given.repository)
        except RepositoryError as error:
            raise SystemExit(f"error: {error}") from None
        listed = ", ".join(f"{entry['id']} {entry['version']}" for entry in entries)
        print(f"{given.repository / LISTING}: {listed}. Serve the folder over HTTP; {PAGE} says how to subscribe")
    return 0


if __name__ == "__main__":
    sys.exit(main())
