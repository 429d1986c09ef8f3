# SPDX-License-Identifier: GPL-3.0-or-later
"""Which server would be started: what the user chose, a managed installation, a checkout, or one on the search path."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .environment import Managed
from .failures import CareError
from .pythons import clean_environment, environment_python, probe

_INSTALL = "Install it, or choose a program in the add-on's preferences that has it"


@dataclass(frozen=True)
class Program:
    """How to start a server. ``kind``: chosen, managed, checkout or path."""

    kind: str
    command: tuple[str, ...]
    python: Path | None
    cwd: Path | None = None

    @property
    def label(self) -> str:
        where = str(self.cwd or self.python or self.command[0])
        return {"managed": "the installed one", "chosen": f"the chosen one, {where}"}.get(self.kind, where)


def checkout_of(package: Path) -> Path | None:
    """The repository that the add-on runs from, if it does; ``package`` is the add-on's folder."""
    root = package.parent
    is_one = (root / "pyproject.toml").is_file() and (root / "server" / "__main__.py").is_file()
    return root if is_one else None


def find_program(chosen: Path | None, managed: Managed, checkout: Path | None) -> Program:
    """Quick: looks at files only. Raises :class:`CareError` where there is none."""
    if chosen is not None:
        return chosen_program(chosen)
    state = managed.state()
    if state.ready:
        return with_python("managed", managed.python)
    if checkout is not None:
        for python in _environments(checkout):
            return with_python("checkout", python, checkout)
    script = shutil.which("hvg3d")
    if script is not None:
        program = chosen_program(Path(script))
        return Program("path", program.command, program.python)
    if state.started:
        raise CareError("unfinished", "The server's installation is not finished", "Go on with it")
    raise CareError("not_installed", "There is no HVG-3D server on this computer", _INSTALL)


def with_python(kind: str, python: Path, checkout: Path | None = None) -> Program:
    """``python -m server``: one process, whose end can be seen. Isolated, except where the code is in a checkout."""
    isolated = () if checkout else ("-I",)
    return Program(kind, (str(python), *isolated, "-m", "server"), python, checkout)


def chosen_program(path: Path) -> Program:
    """From what a user chose: a Python, the command ``hvg3d``, an environment, or a checkout."""
    if not path.exists():
        raise CareError("no_program", f"There is no {path}", "Correct the server's program in the add-on's preferences")
    if path.is_dir():
        if (path / "server" / "__main__.py").is_file() and (path / "hvg3d_core").is_dir():
            for python in _environments(path):
                return with_python("chosen", python, path)
            raise CareError(
                "no_program",
                f"The checkout {path} has no environment",
                "Run 'python bootstrap.py demo' in it, or choose a Python that has the server",
            )
        for python in (environment_python(path), path / environment_python(Path()).name):
            if python.is_file():
                return with_python("chosen", python)
        raise CareError(
            "no_program",
            f"In {path} there is no Python",
            "Choose a Python, the command hvg3d, an environment or a checkout of HVG-3D",
        )
    if not os.access(path, os.X_OK):
        raise CareError("no_program", f"{path} is not a program", "Choose a Python, or the command hvg3d")
    if path.name.lower().startswith("python"):
        return with_python("chosen", path)
    behind = script_python(path)
    if behind is not None:
        return with_python("chosen", behind)
    return Program("chosen", (str(path), "serve"), None)


def script_python(script: Path) -> Path | None:
    """The Python that a command like ``hvg3d`` runs with: in its first line, or beside it."""
    try:
        with open(script, "rb") as file:
            first = file.readline(1024)
    except OSError:
        return None
    if first.startswith(b"#!"):
        python = Path(first[2:].decode("utf-8", "replace").strip())
        if python.name.startswith("python") and python.is_file():
            return python
    beside = script.parent / environment_python(Path()).name
    return beside if beside.is_file() else None


def check_program(program: Program) -> str:
    """Asks its Python whether it has all that a server needs; the version of it. Raises :class:`CareError`."""
    if program.python is None:
        return ""
    told = probe(program.python, cwd=program.cwd)
    choose = "Choose another program in the add-on's preferences, or install the server"
    if told.problem:
        raise CareError("wrong_python", told.problem, choose)
    if "server" in told.missing or "hvg3d_core" in told.missing:
        raise CareError("wrong_python", f"{program.python} does not have the HVG-3D server", choose)
    if told.missing:
        again = "Install it again" if program.kind == "managed" else "Run there: pip install 'hvg3d[network,server]'"
        raise CareError("incomplete", f"The server's Python lacks {', '.join(told.missing)}", again)
    return told.hvg3d


def server_environment() -> dict[str, str]:
    return {**clean_environment(), "PYTHONIOENCODING": "utf-8"}


def _environments(checkout: Path) -> Iterator[Path]:
    for name in (".venv", "venv"):
        python = environment_python(checkout / name)
        if python.is_file():
            yield python
