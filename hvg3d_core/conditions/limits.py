# SPDX-License-Identifier: Apache-2.0
"""How large a clip may be, found out from its header before anything in it is decompressed or copied.

For places that read files of strangers. A file of a few megabytes can claim masks of a terabyte ("decompression
bomb"): what it would take is worked out from the shapes, the way :mod:`.io` will use them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from . import safetensors
from .clip import ClipError
from .io import read_header

MIB = 1024 * 1024
MAX_HEADER_BYTES = 4 * MIB
"""Of JSON, which takes some 25 times its length as Python objects. A clip with 64 views has some 60 KiB."""


class ClipTooLarge(ClipError):
    """A clip beyond a limit of whoever reads it. ``limit`` is the name of the field of :class:`ClipLimits`."""

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit


@dataclass(frozen=True)
class ClipLimits:
    max_frames: int = 1001
    max_points: int = 262_144  # of one frame
    max_tracks: int = 262_144
    max_pixels: int = 4096 * 4096  # of one picture
    max_decoded_bytes: int = 4096 * MIB  # the file, with masks and reference images decompressed


def check_limits(path: str | os.PathLike[str], limits: ClipLimits, name: str = "clip") -> None:
    """Raise :class:`ClipTooLarge` for the first limit that the file breaks, ClipError if it is no clip at all.

    ``name`` is what the messages call it. Takes no memory beyond the header's; what passes may still be invalid.
    """
    size = os.path.getsize(path)
    buffer = np.memmap(path, np.uint8, mode="r") if size else np.zeros(0, np.uint8)
    try:
        tensors, metadata = safetensors.decode(buffer, MAX_HEADER_BYTES)
        _check(tensors, read_header(metadata), size, limits)
    except ClipTooLarge as error:
        raise ClipTooLarge(error.limit, f"{name}: {error}") from None
    except ClipError as error:
        raise ClipError(f"{name}: {error}") from None


def _check(tensors: dict[str, np.ndarray], header: dict, size: int, limits: ClipLimits) -> None:
    frames, points = _sides(tensors, "points")
    _, tracks = _sides(tensors, "tracks")
    for limit, count, what in (
        ("max_frames", frames, "frames"),
        ("max_points", points, "points"),
        ("max_tracks", tracks, "tracks"),
    ):
        largest = getattr(limits, limit)
        if count > largest:
            raise ClipTooLarge(limit, f"it has {count:,} {what}, and up to {largest:,} are taken; use fewer")
    width, height, views = header.get("width"), header.get("height"), header.get("views")
    if type(width) is not int or type(height) is not int or not isinstance(views, list) or min(width, height) < 1:
        raise ClipError("width, height or views are missing or wrong in the header; the file is damaged")
    if width * height > limits.max_pixels:
        raise ClipTooLarge(
            "max_pixels",
            f"its pictures have {_number(width)} x {_number(height)} pixels, and up to {limits.max_pixels:,} in all are"
            " taken; use a smaller resolution",
        )
    decoded = size + len(views) * width * height * (frames + 4)  # a mask a frame, and the reference as RGBA
    if decoded > limits.max_decoded_bytes:
        raise ClipTooLarge(
            "max_decoded_bytes",
            f"it takes {decoded / MIB:,.0f} MiB decompressed, and up to {limits.max_decoded_bytes / MIB:,.0f} are"
            " taken; use fewer frames, cameras or pixels",
        )


def _sides(tensors: dict[str, np.ndarray], name: str) -> tuple[int, int]:
    """(frames, entries) of a T x N x 3 tensor; what has another shape is refused by the reader."""
    shape = tensors[name].shape if name in tensors else ()
    return (shape[0], shape[1]) if len(shape) == 3 else (0, 0)


def _number(value: int) -> str:
    return f"{value:,}" if value < 10**12 else "more than 10^12"
