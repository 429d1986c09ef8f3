# SPDX-License-Identifier: GPL-3.0-or-later
"""The last clips that were sent, so that another seed needs no second look at the scene."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_COUNT = 8
_BYTES = 2**30


class KeptClips:
    """``folder`` holds ``<sha256>.clip``. Nothing here raises: a clip that is not kept is exported again."""

    def __init__(self, folder: Path, count: int = _COUNT, size: int = _BYTES) -> None:
        self._folder = folder
        self._count = count
        self._size = size

    def keep(self, sha256: str, data: bytes) -> None:
        part = self._folder / f".{sha256}.{os.getpid()}.part"
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._path(sha256)
            if not path.exists():
                part.write_bytes(data)
                os.replace(part, path)
            os.utime(path)
            self._make_room()
        with contextlib.suppress(OSError):
            part.unlink()

    def read(self, sha256: str) -> bytes | None:
        try:
            return self._path(sha256).read_bytes()
        except OSError:
            return None

    def has(self, sha256: str) -> bool:
        return self._path(sha256).is_file()

    def _make_room(self) -> None:
        """The newest stay."""
        files = sorted(
            ((path.stat().st_mtime, path.stat().st_size, path) for path in self._folder.glob("*.clip")), reverse=True
        )
        total = 0
        for number, (_, size, path) in enumerate(files):
            total += size
            if number >= self._count or (number > 0 and total > self._size):
                path.unlink()

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.clip"
