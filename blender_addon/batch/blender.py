# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding a Blender to export with, and running it for one file. Does not import ``bpy``."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .child import MARK
from .plan import PlanError

OLDEST = (4, 5)
_TAIL = 12  # lines of Blender's output that explain a crash


def find_blender(given: str | None) -> list[str]:
    """The beginning of a command that runs a Python script in Blender.

    ``given``, or the ``blender`` of the PATH if that is new enough, or Blender as a module of this Python. Raises
    :class:`PlanError`.
    """
    if given is not None:
        path = shutil.which(given)
        if path is None:
            raise PlanError(f"--blender: {given!r} is no program; give the path of Blender's program")
        version = _version(path)
        if version is None or version < OLDEST:
            shown = ".".join(map(str, version)) if version else "no Blender"
            raise PlanError(f"--blender: {given!r} is {shown}; give one of Blender 4.5 or newer")
        return [path]
    path = shutil.which("blender")
    if path is not None and (_version(path) or (0,)) >= OLDEST:
        return [path]
    if importlib.util.find_spec("bpy") is not None:
        return [sys.executable]
    raise PlanError(
        "blender: there is no Blender 4.5 or newer here; give --blender PATH, or pip install 'hvg3d[blender]'"
    )


def _version(path: str) -> tuple[int, ...] | None:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"^Blender (\d+)\.(\d+)", done.stdout, re.MULTILINE)
    return (int(match[1]), int(match[2])) if match else None


class Blender:
    """One run of Blender over one file. Iterating gives its answers (see ``child``); the last one is "ended".

    "ended" has ``crashed``: empty, or what its output ended with. ``close`` ends it at any time.
    """

    def __init__(self, command: list[str], request: dict[str, Any], log: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hvg3d_batch_")
        folder = Path(self._folder.name)
        script = Path(__file__).with_name("child.py")
        (folder / "request.json").write_text(
            json.dumps({**request, "clips": str(folder), "root": str(Path(__file__).parents[2])}), "utf-8"
        )
        where = ["-b", "--factory-startup", "--python-exit-code", "4", "--python", str(script), "--"]
        in_python = os.path.basename(command[0]).startswith("python") or command[0] == sys.executable
        arguments = [str(script)] if in_python else where
        self._log = open(log, "a", encoding="utf-8")  # noqa: SIM115 - closed with the process
        self._log.write(f"\n--- {request['blend']}\n")
        self._process = subprocess.Popen(
            [*command, *arguments, str(folder / "request.json")],
            stdin=subprocess.PIPE,  # its end tells the child that we are gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=os.name != "nt",  # Ctrl-C is ours to handle
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        tail: list[str] = []
        whole = False
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                answer = json.loads(line[len(MARK) :])
                whole = whole or answer["event"] in ("end", "broken")
                yield answer
            elif line.strip():
                self._log.write(line)
                tail = [*tail[1 - _TAIL :], line.rstrip()]
        code = self._process.wait()
        crashed = "" if whole else f"Blender ended with code {code}: {' | '.join(tail[-3:]) or 'it said nothing'}"
        yield {"event": "ended", "crashed": crashed}

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()

    def close(self) -> None:
        self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._log.close()
        self._folder.cleanup()
