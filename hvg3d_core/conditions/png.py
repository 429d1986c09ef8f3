# SPDX-License-Identifier: Apache-2.0
"""As much of PNG as a clip needs: write an RGB image, and check one without decoding it (W3C PNG, third edition)."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from .clip import ClipError

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of an H x W x 3 uint8 image."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ClipError(f"image: {image.dtype} {image.shape} given; H x W x 3 uint8 is needed")
    height, width = image.shape[:2]
    rows = np.zeros((height, 1 + width * 3), np.uint8)  # a leading 0 for each row: no filter
    rows[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 6)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def png_size(data: bytes) -> tuple[int, int]:
    """(width, height) of a PNG; every chunk's length and checksum is verified, nothing is decompressed."""
    if data[:8] != SIGNATURE:
        raise ClipError(f"it does not start like a PNG (first bytes {bytes(data[:8]).hex(' ') or 'none'})")
    position, size = 8, None
    while True:
        if position + 12 > len(data):
            raise ClipError(f"the PNG is cut off after {len(data)} bytes")
        (length,) = struct.unpack_from(">I", data, position)
        kind, end = data[position + 4 : position + 8], position + 8 + length
        if end + 4 > len(data):
            raise ClipError(f"the PNG is cut off after {len(data)} bytes")
        if zlib.crc32(data[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ClipError(f"the PNG is damaged: wrong checksum in its {kind!r} chunk")
        if size is None:
            if kind != b"IHDR" or length != 13:
                raise ClipError("the PNG is damaged: its first chunk is not a header")
            size = struct.unpack_from(">II", data, position + 8)
        if kind == b"IEND":
            return int(size[0]), int(size[1])
        position = end + 4
