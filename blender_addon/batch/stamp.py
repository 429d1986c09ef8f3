# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether files have changed, from their sizes and times alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable

from ..core import SCHEMA_VERSION


def stamp_of(paths: Iterable[str]) -> str:
    """Changes when one of the files is written, removed or comes back; empty for no files.

    A false alarm costs an export and nothing more: what was made from the same clip still counts as done.
    """
    found = []
    for path in paths:
        try:
            about = os.stat(path)
            found.append([path, about.st_size, about.st_mtime_ns])
        except OSError:
            found.append([path, None, None])
    if not found:
        return ""
    return hashlib.sha256(json.dumps([SCHEMA_VERSION, found]).encode()).hexdigest()[:32]
