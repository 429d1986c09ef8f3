# SPDX-License-Identifier: Apache-2.0
"""Videos on disk: those that an evaluation generates and keeps, without loss, and those that a user brings."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
from PIL import Image

from ..training.dataset import fitted
from ..video import read_video
from .errors import EvaluationError
from .truths import Size

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".gif")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def write_stack(path: Path, frames: np.ndarray) -> None:
    """T x H x W x 3 uint8 as one PNG, frames from top to bottom; there under its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    Image.fromarray(frames.reshape(-1, *frames.shape[2:])).save(partial, "png", compress_level=1)
    partial.replace(path)


def read_stack(path: Path, num_frames: int) -> np.ndarray:
    """T x H x W x 3 uint8 of what :func:`write_stack` wrote. Raises EvaluationError where it is not T frames."""
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise EvaluationError(f"{path}: not a readable picture ({error}); remove it or write it again") from None
    if pixels.shape[0] % num_frames:
        raise EvaluationError(f"{path}: {pixels.shape[0]} rows are not {num_frames} frames stacked; check --frames")
    return pixels.reshape(num_frames, -1, *pixels.shape[1:])


def find_video(folder: Path, name: str) -> Path | None:
    """A clip's video in a user's folder: NAME.mp4 (or another kind), NAME.png (frames stacked), or a folder NAME with
    ``video.mp4`` or with one picture for each frame. None where there is nothing of that name."""
    for suffix in (*VIDEO_SUFFIXES, ".png"):
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path
    inside = folder / name
    if not inside.is_dir():
        return None
    video = inside / "video.mp4"
    return video if video.is_file() else inside


def load_any(path: Path, num_frames: int | None) -> np.ndarray:
    """Frames T x H x W x 3 uint8 of what :func:`find_video` found. Raises EvaluationError.

    ``num_frames`` splits a PNG of stacked frames, which does not know its own number.
    """
    if path.is_dir():
        pictures = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
        if not pictures:
            raise EvaluationError(f"{path}: neither video.mp4 nor pictures there")
        frames = [np.array(Image.open(p).convert("RGB")) for p in pictures]
        if len({frame.shape for frame in frames}) > 1:
            raise EvaluationError(f"{path}: its pictures are not all of one size")
        return np.stack(frames)
    if path.suffix == ".png":
        if num_frames is None:
            raise EvaluationError(f"{path}: say with --frames how many frames are stacked in it")
        return read_stack(path, num_frames)
    try:
        return read_video(path)[0]
    except (OSError, ValueError, IndexError, av.FFmpegError) as error:
        raise EvaluationError(f"{path}: not a readable video ({error})") from None


def load_at(path: Path, size: Size) -> np.ndarray:
    """A user's video at the size of the evaluation. Raises EvaluationError for another number of frames or aspect."""
    frames = load_any(path, size.num_frames)
    if len(frames) != size.num_frames:
        raise EvaluationError(
            f"{path}: {len(frames)} frames where {size.num_frames} are compared; make as many, or say --frames"
        )
    height, width = frames.shape[1:3]
    # One pixel more is what H.264 pads odd sizes to.
    if abs(width * size.height - height * size.width) > 2 * max(size.width, size.height, width, height):
        raise EvaluationError(f"{path}: {width}x{height} has not the aspect of {size.width}x{size.height}")
    return fitted(frames, size.width, size.height)
