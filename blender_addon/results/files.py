# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of one result. Standard library only, and never ``bpy``: used in threads.

``NAME.mp4`` is the video, ``NAME.json`` everything needed to make it again, ``NAME.jpg`` a thumbnail,
``NAME.first.png`` the first picture where one was kept. ``original/CLIP/`` are frames of the scene, rendered to compare
with; all videos of a clip share them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

SHOT = "shot"  # the part of the metadata that the add-on writes


def metadata_path(movie: Path) -> Path:
    return movie.with_suffix(".json")


def thumbnail_path(movie: Path) -> Path:
    return movie.with_suffix(".jpg")


def first_picture_path(movie: Path) -> Path:
    return movie.with_suffix(".first.png")


def original_folder(movie: Path, clip: str) -> Path:
    return movie.parent / "original" / clip[:16]


def read_metadata(movie: Path) -> dict[str, Any]:
    """Raises ValueError with words for the user."""
    path = metadata_path(movie)
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.name} is not beside the video: what it was made with is not known") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} does not describe a video")
    return value


def shot_of(metadata: dict[str, Any]) -> dict[str, Any]:
    """What the add-on wrote of the shot; raises ValueError where another program made the video."""
    shot = metadata.get(SHOT)
    if not isinstance(shot, dict) or not isinstance(shot.get("settings"), dict):
        raise ValueError("The video was not made from Blender: there are no settings to bring back")
    return shot


def delete_files(movie: Path, clip: str = "") -> None:
    """Everything of a result, with ``clip`` also the frames to compare with. Raises OSError for what stays."""
    for path in (thumbnail_path(movie), first_picture_path(movie), metadata_path(movie), movie):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    if clip:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(original_folder(movie, clip))
        with contextlib.suppress(OSError):
            original_folder(movie, clip).parent.rmdir()


def write_file(target: Path, data: bytes) -> None:
    """Complete, or not at all. Raises OSError."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, target)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
