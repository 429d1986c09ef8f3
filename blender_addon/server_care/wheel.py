# SPDX-License-Identifier: GPL-3.0-or-later
"""The server as a wheel: which one to install."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .failures import CareError

_CHOOSE = "Choose the file hvg3d-*.whl of the release"


@dataclass(frozen=True)
class Wheel:
    path: Path
    version: str
    sha256: str


def open_wheel(path: Path) -> Wheel:
    """Looks into it before anything is changed. Raises :class:`CareError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            info = next((name for name in names if re.fullmatch(r"hvg3d-[^/]+\.dist-info/METADATA", name)), None)
            if info is None or "server/__main__.py" not in names:
                raise CareError("wheel", f"{path.name} is not the HVG-3D server", _CHOOSE)
            damaged = archive.testzip()
            if damaged is not None:
                raise CareError("wheel", f"{path.name} is damaged ({damaged})", "Fetch it again, then choose it anew")
            metadata = archive.read(info).decode("utf-8", "replace")
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except zipfile.BadZipFile:
        raise CareError("wheel", f"{path} is not a wheel, or only part of one", _CHOOSE) from None
    except OSError as error:
        raise CareError("wheel", f"{path} cannot be read: {error.strerror or error}", _CHOOSE) from None
    found = re.search(r"^Version: (\S+)", metadata, re.MULTILINE)
    return Wheel(path, found[1] if found else "", digest)


def find_wheel(given: Path | None, folders: Iterable[Path]) -> Path | None:
    """The file or the newest in the folder that was given; else one that came with the add-on."""
    if given is not None:
        if given.is_dir():
            newest = _newest(given)
            if newest is None:
                raise CareError("wheel", f"There is no hvg3d-*.whl in {given}", _CHOOSE)
            return newest
        return given
    return next((found for folder in folders if (found := _newest(folder)) is not None), None)


def _newest(folder: Path) -> Path | None:
    return max(folder.glob("hvg3d-*.whl"), key=lambda path: (_ordered(path.name), path.stat().st_mtime), default=None)


def _ordered(name: str) -> tuple[int, ...]:
    """By version."""
    return tuple(int(part) for part in re.findall(r"\d+", name.split("-")[1]))
