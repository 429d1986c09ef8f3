# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a server did not start, from the end of its log: in words, with what to do, and with a code for the buttons."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass


class CareError(Exception):
    """Something about the server on this computer that a user has to know. ``code`` picks the buttons."""

    def __init__(self, code: str, message: str, remedy: str = "", log: Sequence[str] = ()):
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy
        self.log = tuple(log)


@dataclass(frozen=True)
class _Known:
    pattern: str
    code: str
    message: str
    remedy: str


# The first that is found counts; {0}, {1} are its groups.
_KNOWN = (
    _Known(
        r"another server.* already uses (.+?):",
        "in_use",
        "Another server already uses the folder {0}",
        "It will be used instead; or stop it, or choose another folder",
    ),
    _Known(
        r"cannot listen on (\S+:\d+): .*(?:already in use|10048|only one usage)",
        "port_taken",
        "Another program already listens on {0}",
        "Set the port to 0, which takes any free one, or to another number",
    ),
    _Known(
        r"cannot listen on (\S+:\d+): (.*?)(?:;|$)",
        "port",
        "The server cannot listen on {0}: {1}",
        "Set the port to 0, which takes any free one",
    ),
    _Known(
        r"No space left on device|database or disk is full|Errno 28|Errno 27|File too large|WinError 112|disk_full",
        "disk_full",
        "The disk is full",
        "Free some space, or choose a folder for the server on another disk",
    ),
    _Known(
        r"disk I/O error|Errno 5\b|Input/output error",
        "disk_full",
        "The disk of the server's folder is full, or it fails",
        "Free some space, or choose a folder for the server on another disk",
    ),
    _Known(
        r"(?:Read-only file system|Permission denied|Access is denied|unable to open database|readonly database)"
        r"[^'\"\n]*(?:['\"]([^'\"]+))?",
        "read_only",
        "The server may not write to its folder {0}",
        "Choose a folder that you may write to",
    ),
    _Known(
        r"No module named ['\"]?(server|hvg3d_core)\b",
        "wrong_python",
        "This Python does not have the HVG-3D server",
        "Choose another program, or install the server",
    ),
    _Known(
        r"No module named ['\"]?([\w.]+)",
        "incomplete",
        "The server's Python lacks the module {0}",
        "Install the server again, or run: pip install 'hvg3d[network,server]'",
    ),
    _Known(
        r"(?:--model \S+: )?(model '?[^\s':]+'? is not (?:known|on this server|installed).*)",
        "model",
        "The server does not have the model it was told to use: {0}",
        "Correct --model among the options, or fetch it with: hvg3d models pull",
    ),
    _Known(
        r"(--model [^:]+: .*)", "model", "The model cannot be used: {0}", "Correct --model among the server's options"
    ),
    _Known(
        r"(.*written by a newer server.*)",
        "version",
        "The folder was used by a newer server",
        "Install the newer server, or choose another folder",
    ),
    _Known(
        r"error: ((?:unrecognized arguments|argument |--\w).*)",
        "options",
        "The server does not understand its options: {0}",
        "Correct the options in the add-on's preferences",
    ),
    _Known(
        r"(?:DLL load failed|GLIBC(?:XX)?_[\d.]+|cannot open shared object|mach-o file).*",
        "broken",
        "A library of the server cannot be loaded here",
        "Install the server again; the log says which library",
    ),
    _Known(
        r"MemoryError|Cannot allocate memory|DefaultCPUAllocator",
        "memory",
        "There is not enough memory for the server",
        "Close other programs, or use a server on another computer",
    ),
    _Known(r"SyntaxError", "wrong_python", "This Python is too old for the server", "Choose Python 3.11 to 3.13"),
)
_LAST_WORDS = re.compile(r"^(?:error: |\w*(?:Error|Exception|Interrupt)\b).*")


def explain(log: Sequence[str], code: int | None) -> CareError:
    """``log``: its last lines; ``code``: how the process ended, None if it has not."""
    text = "\n".join(log)
    for known in _KNOWN:
        if found := re.search(known.pattern, text, re.IGNORECASE):
            groups = [group or "" for group in found.groups()]
            return CareError(known.code, known.message.format(*groups).strip(), known.remedy, log)
    said = next((line.strip() for line in reversed(log) if _LAST_WORDS.match(line.strip())), "")
    if said:
        said = said.removeprefix("error: ")
        message, _, remedy = said.partition("; ")
        return CareError("failed", f"The server did not start: {message}", _sentence(remedy) or _LOOK, log)
    return CareError("failed", f"The server has ended ({describe_exit(code)})", _LOOK, log)


_LOOK = "The log says more"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def describe_exit(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None:
        return "it is not known how"
    if code in (-9, 137):
        return "it was killed, perhaps because there was not enough memory"
    if code in (-15, 143, -2, 130):
        return "somebody stopped it"
    if code < 0:
        return f"signal {-code}"
    if sys.platform == "win32" and code >= 0xC0000000:
        known = {0xC0000135: "a library is missing", 0xC0000005: "it crashed", 0xC000013A: "somebody stopped it"}
        return f"{known.get(code, 'it crashed')}, code {code:#x}"
    return f"exit code {code}"
