# SPDX-License-Identifier: Apache-2.0
"""Clips that are too large are refused from their header alone, each with the limit that it breaks."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from hvg3d_core.conditions import Clip, ClipError, Entity, View, clip_bytes, encode_png, load_clip
from hvg3d_core.conditions import safetensors as format_
from hvg3d_core.conditions.limits import MAX_HEADER_BYTES, ClipLimits, ClipTooLarge, check_limits


def small_clip(
    frames: int = 9, points: int = 16, width: int = 32, height: int = 24, views: int = 1, tracks: int = 4
) -> bytes:
    rng = np.random.default_rng(0)
    cloud = rng.uniform(-1, 1, (frames, points, 3)).astype(np.float32)
    camera = View(
        "camera",
        np.tile(np.array([[30, 0, 16], [0, 30, 12], [0, 0, 1]], np.float32), (frames, 1, 1)),
        np.tile(np.eye(4, dtype=np.float32), (frames, 1, 1)),
        np.ones((frames, points), bool),
        np.zeros((frames, height, width), np.uint8),
        encode_png(np.zeros((height, width, 3), np.uint8)),
    )
    return clip_bytes(
        Clip(
            points=cloud,
            point_entity=np.zeros(points, np.uint8),
            tracks=cloud[:, :tracks].copy(),
            track_visible=np.ones((frames, tracks), bool),
            views=[camera] * views,
            entities=(Entity("hand", "right_hand"),),
            fps=8.0,
            frame_range=(1, frames),
            width=width,
            height=height,
        )
    )


def rewrite(data: bytes, **header: object) -> bytes:
    """The file with other values in the clip's own header, sizes and offsets as they were."""
    length = int.from_bytes(data[:8], "little")
    top = json.loads(data[8 : 8 + length])
    top["__metadata__"]["hvg3d.clip"] = json.dumps(json.loads(top["__metadata__"]["hvg3d.clip"]) | header)
    text = json.dumps(top).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "clip.safetensors"


@pytest.mark.parametrize(
    ("limits", "limit", "words"),
    [
        (ClipLimits(max_frames=8), "max_frames", "it has 9 frames, and up to 8 are taken; use fewer"),
        (ClipLimits(max_points=15), "max_points", "it has 16 points, and up to 15 are taken"),
        (ClipLimits(max_tracks=3), "max_tracks", "it has 4 tracks, and up to 3 are taken"),
        (ClipLimits(max_pixels=767), "max_pixels", "32 x 24 pixels, and up to 767 in all are taken"),
        (ClipLimits(max_decoded_bytes=20_000), "max_decoded_bytes", "MiB decompressed"),
    ],
)
def test_each_limit_has_its_message(path: Path, limits: ClipLimits, limit: str, words: str) -> None:
    path.write_bytes(small_clip(views=2))
    check_limits(path, ClipLimits())
    with pytest.raises(ClipTooLarge, match=words) as caught:
        check_limits(path, limits, "shot 3")
    assert caught.value.limit == limit
    assert str(caught.value).startswith("shot 3: ")


def test_a_limit_that_is_just_kept_lets_it_pass(path: Path) -> None:
    path.write_bytes(small_clip())
    exact = path.stat().st_size + 32 * 24 * (9 + 4)
    check_limits(path, ClipLimits(9, 16, 4, 32 * 24, exact))
    with pytest.raises(ClipTooLarge):
        check_limits(path, ClipLimits(9, 16, 4, 32 * 24, exact - 1))


def test_a_mask_bomb_is_seen_before_it_goes_off(path: Path) -> None:
    """Half a megabyte that holds masks of 400 MB: refused in next to no memory, not unpacked."""
    side, frames = 2048, 97
    inflater = zlib.compressobj(9)
    packed = b"".join(inflater.compress(bytes(side * side)) for _ in range(frames)) + inflater.flush()
    data = small_clip(frames)
    tensors, metadata = format_.decode(np.frombuffer(data, np.uint8))
    tensors["views.0.masks"] = np.frombuffer(packed, np.uint8)
    path.write_bytes(rewrite(b"".join(format_.encode(tensors, metadata)), width=side, height=side))
    assert path.stat().st_size < 500_000
    tracemalloc.start()
    with pytest.raises(ClipTooLarge, match="takes 404 MiB decompressed") as caught:
        check_limits(path, ClipLimits(max_decoded_bytes=400 * 2**20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.limit == "max_decoded_bytes"
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes, too few"),
        (b"\x80\x04\x95junk of a pickle", "cut off or no safetensors"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b" " * (MAX_HEADER_BYTES + 9), "up to 4,194,304 are read"),
        (rewrite(small_clip(), width="wide"), "width, height or views are missing or wrong"),
        (rewrite(small_clip(), width=10**4000, height=10**4000), "more than 10\\^12 x more than 10\\^12 pixels"),
        (rewrite(small_clip(), width=-5), "width, height or views"),
    ],
)
def test_what_is_no_clip_is_no_larger_clip(path: Path, data: bytes, words: str) -> None:
    path.write_bytes(data)
    with pytest.raises(ClipError, match=words):
        check_limits(path, ClipLimits())


def test_sizes_beyond_64_bits_are_damage(path: Path) -> None:
    """Python's integers have no end; the product of two of 4,000 digits could not even be printed in the message."""
    text = json.dumps({"points": {"dtype": "F32", "shape": [10**4000, 10**4000], "data_offsets": [0, 0]}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ClipError, match="the file is damaged"):
        load_clip(path)
