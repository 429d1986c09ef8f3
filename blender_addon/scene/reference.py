# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference image: what the first frame of the real video looks like, as PNG bytes of the clip's size."""

from __future__ import annotations

import tempfile
from pathlib import Path

import bpy

from .restore import preserved


def render_reference(scene: bpy.types.Scene, camera: bpy.types.Object, frame: int, width: int, height: int) -> bytes:
    """The scene's ``frame`` as its own engine and colour management render it, seen from ``camera``."""
    render = scene.render
    with preserved(scene) as settings, tempfile.TemporaryDirectory(prefix="hvg3d_") as folder:
        path = Path(folder) / "reference.png"
        settings.set(render, "resolution_x", width)
        settings.set(render, "resolution_y", height)
        settings.set(render, "resolution_percentage", 100)
        settings.set(render, "use_border", False)
        settings.set(render, "use_multiview", False)
        settings.set(render, "use_sequencer", False)  # a filled sequencer would be rendered instead of the scene
        settings.set(render, "filepath", str(path))
        settings.set(render, "use_file_extension", True)
        settings.set(render, "use_overwrite", True)
        if hasattr(render.image_settings, "media_type"):  # Blender 5.0 asks for the kind before the format
            settings.set(render.image_settings, "media_type", "IMAGE")
        settings.set(render.image_settings, "file_format", "PNG")
        settings.set(render.image_settings, "color_mode", "RGB")
        settings.set(render.image_settings, "color_depth", "8")
        scene.frame_set(frame)
        scene.camera = camera
        bpy.ops.render.render(write_still=True, scene=scene.name)
        return path.read_bytes()
