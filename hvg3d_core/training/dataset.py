# SPDX-License-Identifier: Apache-2.0
"""A folder of training clips: ``NAME.png`` (frames stacked from top to bottom) beside ``NAME.clip.safetensors``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..conditions import Clip, ClipError, load_clip

log = logging.getLogger(__name__)
CLIP_SUFFIX = ".clip.safetensors"


@dataclass(frozen=True)
class Sample:
    """One rendered clip: its files. ``frames()`` is T x H x W x 3 uint8, ``clip()`` the conditions for it."""

    name: str
    strip: Path
    clip_path: Path

    def frames(self, width: int, height: int) -> np.ndarray:
        with Image.open(self.strip) as image:
            pixels = np.array(image.convert("RGB"))
        if pixels.shape[1] != width or pixels.shape[0] % height:
            raise ClipError(f"{self.strip}: {pixels.shape[1]}x{pixels.shape[0]} is no strip of {width}x{height} frames")
        return pixels.reshape(-1, height, width, 3)

    def clip(self) -> Clip:
        return load_clip(self.clip_path)


def find_samples(folder: str | Path) -> list[Sample]:
    """All complete samples of a folder, in the order of their names. Raises ClipError when there is none."""
    folder = Path(folder)
    found = []
    for clip_path in sorted(folder.glob(f"*{CLIP_SUFFIX}")):
        name = clip_path.name.removesuffix(CLIP_SUFFIX)
        strip = folder / f"{name}.png"
        if strip.exists():
            found.append(Sample(name, strip, clip_path))
    if not found:
        raise ClipError(f"{folder}: no clips there (NAME.png beside NAME{CLIP_SUFFIX}); render some first")
    return found


def load_frames(samples: list[Sample], width: int, height: int, num_frames: int) -> list[tuple[Sample, np.ndarray]]:
    """The frames of every readable sample; a broken one is reported and left out."""
    loaded = []
    for sample in samples:
        try:
            frames = sample.frames(width, height)
            if len(frames) != num_frames:
                raise ClipError(f"{sample.strip}: {len(frames)} frames where the configuration says {num_frames}")
            loaded.append((sample, frames))
        except (OSError, ValueError) as error:
            log.warning("left out: %s", error)
    if not loaded:
        raise ClipError("not one sample could be read; the reasons are in the log above")
    return loaded
