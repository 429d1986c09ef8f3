# SPDX-License-Identifier: Apache-2.0
"""Frames to and from video files, through PyAV."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_mp4(path: str | os.PathLike[str], frames: Iterable[np.ndarray], fps: float, *, crf: int = 16) -> Path:
    """Write H x W x 3 uint8 RGB frames as H.264 in an MP4 that browsers and Blender play.

    Odd sizes are padded by one pixel, since 4:2:0 chroma needs even ones. The file appears under its name only when
    it is complete. Raises ValueError when there are no frames or ``fps`` is not positive.
    """
    if not fps > 0:
        raise ValueError(f"fps is {fps}: it must be greater than 0")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial.mp4")
    rate = Fraction(fps).limit_denominator(1001)
    count = 0
    try:
        with av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = None
            for frame in frames:
                frame = np.ascontiguousarray(frame)
                height, width = frame.shape[:2]
                if height % 2 or width % 2:
                    frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                if stream is None:
                    stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": "medium"})
                    stream.height, stream.width = frame.shape[:2]
                    stream.pix_fmt = "yuv420p"
                for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                    container.mux(packet)
                count += 1
            if stream is None:
                raise ValueError(f"no frames to write to {path}")
            for packet in stream.encode():
                container.mux(packet)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_video(path: str | os.PathLike[str]) -> tuple[np.ndarray, float]:
    """Read a whole video: (T x H x W x 3 uint8 RGB, frames per second)."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    if not frames:
        raise ValueError(f"{path} holds no video frames")
    return np.stack(frames), fps
