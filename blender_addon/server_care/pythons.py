# SPDX-License-Identifier: GPL-3.0-or-later
"""Pythons on this computer: where they are, and what they have. None of them is ever changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

OLDEST, NEWEST = (3, 11), (3, 13)
_PROBE_SECONDS = 30
# What the server itself and its worker import; looked up, not imported, for torch takes seconds.
_NEEDED = ("server", "hvg3d_core", "fastapi", "uvicorn", "psutil", "torch", "diffusers", "transformers", "av")
_PROBE = """
import importlib.util as u, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        spec = u.find_spec(name)
        found[name] = bool(spec and (spec.origin or spec.submodule_search_locations))
    except Exception:
        found[name] = False
version = ""
if found.get("hvg3d_core"):
    try:
        import hvg3d_core
        version = hvg3d_core.__version__
    except Exception as error:
        version = ""
bits = 64 if sys.maxsize > 2**32 else 32
print(json.dumps({"version": list(sys.version_info[:3]), "base": sys.base_prefix, "executable": sys.executable,
                  "found": found, "hvg3d": version, "bits": bits}))
"""


@dataclass(frozen=True)
class Probe:
    """What a Python said of itself. ``problem`` is empty if it can be used."""

    python: Path
    version: tuple[int, ...] = ()
    executable: Path = Path()
    """Itself, where ``python`` is only a script that leads to it."""
    base: str = ""
    hvg3d: str = ""
    missing: tuple[str, ...] = ()
    problem: str = ""

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version))


def clean_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """For a Python that is not Blender's: nothing of what Blender or a shell says about Python reaches it."""
    given = os.environ if environment is None else environment
    kept = {
        name: value
        for name, value in given.items()
        if not name.upper().startswith("PYTHON") and name not in ("__PYVENV_LAUNCHER__", "VIRTUAL_ENV", "CONDA_PREFIX")
    }
    return {**kept, "PYTHONNOUSERSITE": "1", "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}


def window_options() -> dict[str, Any]:
    """For Popen: away from Blender's terminal and its Ctrl-C; on Windows without a console of its own."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def environment_python(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def probe(python: Path, needed: Sequence[str] = _NEEDED, cwd: Path | None = None) -> Probe:
    """Asks a Python what it is and which modules it has. ``cwd``: also those of this folder (a checkout)."""
    isolated = () if cwd else ("-I",)
    try:
        done = subprocess.run(
            [str(python), *isolated, "-c", _PROBE, *needed],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_PROBE_SECONDS,
            cwd=cwd or python.parent,
            env=clean_environment(),
            **window_options(),
        )
        told = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return Probe(python, problem=f"{python} does not answer")
    except OSError as error:
        return Probe(python, problem=f"{python} cannot be started: {error.strerror or error}")
    except (ValueError, IndexError):
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Probe(python, problem=f"{python} is not a Python that works ({said[:200]})")
    version = tuple(told["version"])
    problem = ""
    if not OLDEST <= version[:2] <= NEWEST:
        shown = ".".join(map(str, version))
        problem = f"{python} is Python {shown}; the server needs 3.{OLDEST[1]} to 3.{NEWEST[1]}"
    elif told["bits"] != 64:
        problem = f"{python} is a 32-bit Python; the server needs one of 64 bits"
    missing = tuple(name for name in needed if not told["found"].get(name))
    return Probe(python, version, Path(told["executable"]), told["base"], told["hvg3d"], missing, problem)


def candidates(own: Path | None = None) -> Iterator[Path]:
    """Pythons that may be on this computer, the best first, Blender's ``own`` last. Not all of them need exist."""
    names = [f"python3.{minor}" for minor in (12, 13, 11)] + ["python3", "python"]
    for name in names:
        if found := shutil.which(name):
            yield Path(found)
    if sys.platform == "win32":
        programs = [os.environ.get("LOCALAPPDATA", ""), os.environ.get("PROGRAMFILES", "")]
        for minor in (12, 13, 11):
            for base in programs:
                if base:
                    yield Path(base) / "Programs" / "Python" / f"Python3{minor}" / "python.exe"
                    yield Path(base) / f"Python3{minor}" / "python.exe"
    else:
        folders = ["/usr/local/bin", "/usr/bin", "/opt/homebrew/bin", "/opt/local/bin"]
        folders += [f"/Library/Frameworks/Python.framework/Versions/3.{minor}/bin" for minor in (12, 13, 11)]
        folders += sorted(map(str, (Path.home() / ".pyenv" / "versions").glob("3.1[123]*/bin")), reverse=True)
        for folder in folders:
            for name in names:
                yield Path(folder) / name
    if own is not None:
        yield own


def find_python(given: Path | None = None, own: Path | None = None) -> Probe:
    """A Python that environments can be made with: the one given, or the first on this computer that will do."""
    if given is not None:
        path = environment_python(given) if given.is_dir() else given
        found = probe(path, ("venv", "ensurepip"))
        if not found.problem and found.missing:
            return _cannot_make(found)
        return found
    seen: set[str] = set()
    reasons = []
    for path in candidates(own):
        real = os.path.realpath(path)
        if real in seen or not os.access(path, os.X_OK) or "WindowsApps" in real:  # those only open a shop
            continue
        seen.add(real)
        found = probe(path, ("venv", "ensurepip"))
        if found.problem or found.missing:
            reasons.append(found.problem or _cannot_make(found).problem)
            continue
        return found
    why = f" ({'; '.join(reasons[:2])})" if reasons else ""
    return Probe(Path(), problem=f"There is no Python 3.{OLDEST[1]} to 3.{NEWEST[1]} on this computer{why}")


def _cannot_make(found: Probe) -> Probe:
    text = f"{found.python} cannot make environments: its {' and '.join(found.missing)} is missing"
    return replace(found, problem=text)
