# SPDX-License-Identifier: GPL-3.0-or-later
"""pip and other modules of a Python that is not Blender's, in processes that end with Blender; and what pip says, as
progress and as reasons."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .failures import CareError
from .local import kill_group
from .pythons import clean_environment, window_options

# Runs a module (or a file) as `python -m` does, and ends when standard input does: an installation is no orphan either.
_LEASH = """
import os, runpy, sys, threading
line = os.dup(0)
nothing = os.open(os.devnull, os.O_RDONLY)
os.dup2(nothing, 0)
def watch():
    while os.read(line, 4096):
        pass
    os._exit(75)
threading.Thread(target=watch, daemon=True).start()
sys.argv = sys.argv[1:]
if sys.argv[0].endswith(".py"):
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
# Of a user's own settings for pip those that would put packages elsewhere, or do something else instead.
_NOT_FROM_USER = (
    "TARGET",
    "PREFIX",
    "ROOT",
    "USER",
    "PYTHON",
    "DRY_RUN",
    "NO_DEPS",
    "REPORT",
    "QUIET",
    "VERBOSE",
    "LOG",
)
_PAUSE = 0.3


class Cancelled(Exception):
    """The user does not want it any more, or Blender ends."""


def pip_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """With the user's settings of indexes, proxies and certificates, without those that redirect an installation."""
    kept = clean_environment(environment)
    for name in _NOT_FROM_USER:
        kept.pop(f"PIP_{name}", None)
    return {**kept, "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "NO_COLOR": "1", "COLUMNS": "200"}


def run_module(
    python: Path,
    arguments: Sequence[str],
    log: Path,
    cancelled: threading.Event,
    on_line: Callable[[str], None] = lambda line: None,
    on_pause: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, list[str]]:
    """``python -I -m ARGUMENTS`` (or a file.py with arguments); its exit code and last lines.

    All that it prints goes to ``log``, too. ``on_pause`` is called a few times a second. Raises :class:`Cancelled`,
    OSError.
    """
    process = subprocess.Popen(
        [str(python), "-I", "-c", _LEASH, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=log.parent,
        env={**pip_environment(), **(environment or {})},
        **window_options(),
    )
    assert process.stdout is not None and process.stdin is not None
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process, lines), name="hvg3d pip", daemon=True)
    reader.start()
    last: list[str] = []
    try:
        with open(log, "a", encoding="utf-8", errors="replace") as file:
            file.write(f"\n$ {python} -m {' '.join(arguments)}\n")
            while True:
                if cancelled.is_set():
                    raise Cancelled
                on_pause()
                try:
                    line = lines.get(timeout=_PAUSE)
                except queue.Empty:
                    continue
                if line is None:
                    break
                if not line.startswith("Progress "):
                    file.write(line + "\n")
                    file.flush()
                    last = [*last[-59:], line]
                on_line(line)
        return process.wait(), last
    finally:
        kill_group(process)
        process.wait()
        with contextlib.suppress(OSError):
            process.stdin.close()
        reader.join(5)
        process.stdout.close()


def _read(process: subprocess.Popen[bytes], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    with contextlib.suppress(OSError, ValueError):
        for raw in process.stdout:
            # A progress bar draws over itself; only its last state is a line.
            text = raw.decode("utf-8", "replace").rstrip().rpartition("\r")[2]
            if text:
                lines.put(text)
    lines.put(None)


_COLLECTING = re.compile(r"^\s*Collecting ([A-Za-z0-9._-]+)")
_FETCHING = re.compile(r"^\s*(?:Downloading|Using cached|Processing) (\S+?)(?: \(([\d.]+) ?([kMG]?B)\))?$")
_RAW = re.compile(r"^\s*Progress (\d+) of (\d+)")
_INSTALLING = re.compile(r"^Installing collected packages: (.+)")
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_FETCH_SHARE = 0.6  # of a run of pip; the rest is unpacking


class PipProgress:
    """What one run of pip has come to. ``expected``: how many packages it will take, if that is known."""

    def __init__(self, expected: int = 0) -> None:
        self.expected = expected
        self.text = ""
        self.installing: list[str] = []
        self.unpacked = 0
        """Of ``installing``; set by whoever looks into the folder, for pip does not say."""
        self._collected = 0
        self._part = 0.0

    @property
    def fraction(self) -> float:
        if self.installing:
            done = min(self.unpacked, len(self.installing)) / len(self.installing)
            return _FETCH_SHARE + (1 - _FETCH_SHARE) * done
        total = max(self.expected, self._collected + 1)
        return _FETCH_SHARE * min(1.0, max(0, self._collected - 1 + self._part) / total)

    def feed(self, line: str) -> None:
        if found := _RAW.match(line):
            self._part = int(found[1]) / max(1, int(found[2]))
        elif found := _COLLECTING.match(line):
            self._collected += 1
            self._part = 0.0
            self.text = self._count(f"Looking for {found[1]}")
        elif found := _FETCHING.match(line):
            name = re.split(r"[/\\]", found[1])[-1].split("-")[0]
            size = f" ({found[2]} {found[3]})" if found[2] else ""
            self.text = self._count(f"Fetching {name}{size}")
        elif found := _INSTALLING.match(line):
            self.installing = [name.strip() for name in found[1].split(",")]
            self.text = f"Unpacking {len(self.installing)} packages"

    def _count(self, text: str) -> str:
        return f"{text}, {min(self._collected, self.expected)} of {self.expected}" if self.expected else text


_REASONS = (
    (
        r"No space left on device|Errno 28|Errno 27|File too large|WinError 112|disk full",
        "disk_full",
        "The disk is full",
        "Free some space; what has been fetched is kept, and the installation goes on from there",
    ),
    (
        r"Permission denied|Access is denied|Read-only file system|Errno 13|Errno 30|WinError 5\b",
        "read_only",
        "The installation may not write to its folder",
        "See that the folder belongs to you, and that no server or virus scanner uses it",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|certificate verify failed",
        "certificate",
        "The package index is not trusted by this computer",
        "Behind a proxy, give pip its certificate (PIP_CERT), then go on",
    ),
    (
        r"NameResolutionError|Temporary failure in name resolution|getaddrinfo failed|Network is unreachable"
        r"|Failed to establish a new connection|Connect(?:ion)?Timeout|ReadTimeout|IncompleteRead|ProxyError"
        r"|Connection ?(?:reset|aborted|broken|refused)|error sending request",
        "no_network",
        "The packages cannot be fetched: the connection failed",
        "See whether this computer is online; then go on, what has been fetched is kept",
    ),
    (
        r"requires a different Python|Ignored the following versions that require a different python",
        "wrong_python",
        "This Python is too old or too new for the server",
        "Choose Python 3.11 to 3.13",
    ),
    (
        r"([^\s/\\]+\.whl) is not a supported wheel",
        "wheel",
        "{0} is not for this computer",
        "Choose the wheel of the server for this system",
    ),
    (
        r"(?:BadZipFile|Invalid wheel|is not a zip file|has an invalid wheel|Wheel '([^']*)')",
        "wheel",
        "The wheel is damaged",
        "Fetch it again, then choose it anew",
    ),
    (
        r"DO NOT MATCH THE HASHES",
        "damaged",
        "A package arrived damaged",
        "Go on: it is fetched again",
    ),
    (
        r"No matching distribution found for ([^\s;]+)",
        "not_found",
        "No package index has {0} for this Python and system",
        "Choose another Python (3.11 to 3.13), give another index, or a folder with the packages",
    ),
    (r"MemoryError|Cannot allocate memory", "memory", "There is not enough memory", "Close other programs, then go on"),
)


def explain_pip(lines: Sequence[str], code: int) -> CareError:
    """Why pip gave up."""
    text = "\n".join(lines)
    for pattern, kind, message, remedy in _REASONS:
        if found := re.search(pattern, text, re.IGNORECASE):
            groups = [group or "" for group in found.groups()]
            return CareError(kind, message.format(*groups) if groups else message, remedy, lines[-12:])
    said = next((line for line in reversed(lines) if line.lstrip().lower().startswith("error:")), "")
    said = said.partition(":")[2].strip() or (f"pip was killed (signal {-code})" if code < 0 else f"exit code {code}")
    return CareError("pip", f"The installation stopped: {said[:300]}", "The log says more; then go on", lines[-12:])


def user_has_places(environment: Mapping[str, str] | None = None, told: str = "") -> bool:
    """Whether somebody has told pip where to look for packages. ``told``: what ``pip config list`` printed."""
    given = os.environ if environment is None else environment
    names = ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "NO_INDEX")
    return any(given.get(f"PIP_{name}") for name in names) or bool(
        re.search(r"(?:index-url|extra-index-url|find-links|no-index)\s*=", told)
    )
