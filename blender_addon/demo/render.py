# SPDX-License-Identifier: GPL-3.0-or-later
"""Renders frames of the current scene to arrays."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import bpy
import numpy as np


def render_frames(
    scene: bpy.types.Scene, frames: Sequence[int], width: int, height: int, samples: int = 6, threads: int = 0
) -> np.ndarray:
    """Render scene frames with Cycles; returns T×height×width×3 uint8 (sRGB). threads 0: all cores."""
    render = scene.render
    render.resolution_x, render.resolution_y, render.resolution_percentage = width, height, 100
    render.image_settings.file_format, render.image_settings.color_mode = "PNG", "RGB"
    render.image_settings.color_depth, render.image_settings.compression = "8", 0
    render.dither_intensity = 0.0
    render.use_file_extension = True
    scene.cycles.samples = samples
    render.threads_mode = "FIXED" if threads else "AUTO"
    if threads:
        render.threads = threads
    pictures = []
    with tempfile.TemporaryDirectory(prefix="hvg3d-") as folder, _quiet():
        for frame in frames:
            scene.frame_set(frame)
            render.filepath = str(Path(folder) / f"{frame:05d}.png")
            bpy.ops.render.render(write_still=True)
            pictures.append(_read(render.filepath, width, height))
    return np.stack(pictures)


def _read(path: str, width: int, height: int) -> np.ndarray:
    image = bpy.data.images.load(path)
    try:
        pixels = np.empty(width * height * 4, np.float32)
        image.colorspace_settings.name = "Non-Color"
        image.pixels.foreach_get(pixels)
    finally:
        bpy.data.images.remove(image)
    return np.rint(pixels.reshape(height, width, 4)[::-1, :, :3] * 255).astype(np.uint8)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Blender prints a line for every saved frame straight to the terminal; send those nowhere for the moment."""
    saved = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(nowhere)
