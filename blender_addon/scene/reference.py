# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference image: what the first frame of the real video looks like, as PNG bytes of the clip's size.

Rendered from the scene, read from a picture, or taken out of a movie.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from pathlib import Path

import bpy
import numpy as np

from ..compat import png_settings, sequencer_strips
from ..core import ClipError, encode_png
from .restore import Settings, preserved


class RenderStopped(Exception):
    """The user has pressed Esc while Blender was rendering."""


def render_reference(scene: bpy.types.Scene, camera: bpy.types.Object, frame: int, width: int, height: int) -> bytes:
    """:func:`iter_reference` in one go."""
    steps = iter_reference(scene, camera, frame, width, height)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def iter_reference(
    scene: bpy.types.Scene, camera: bpy.types.Object, frame: int, width: int, height: int, *, in_turns: bool = False
) -> Generator[None, None, bytes]:
    """The scene's ``frame`` as its own engine and colour management render it, seen from ``camera``.

    With ``in_turns`` Blender renders in its own thread, as it does for a user, and this yields while that lasts; needs
    a window. The scene must not be changed meanwhile. Raises :class:`RenderStopped`.
    """
    with preserved(scene) as settings, tempfile.TemporaryDirectory(prefix="hvg3d_") as folder:
        path = Path(folder) / "reference.png"
        # A filled sequencer would be rendered instead of the scene, a border would leave the rest black.
        for name in ("use_border", "use_multiview", "use_sequencer", "use_stamp"):
            settings.set(scene.render, name, False)
        _png_output(settings, scene, path, width, height)
        for marker in scene.timeline_markers:
            if marker.camera is not None:  # rendering would switch to it
                settings.set(marker, "camera", None)
        scene.frame_set(frame)
        scene.camera = camera
        if in_turns:
            _start_still(scene)
            while bpy.app.is_job_running("RENDER"):
                yield
            if not path.is_file():
                raise RenderStopped
        else:
            _render_still(scene)
        try:
            return without_notes(path.read_bytes())
        except OSError as error:
            raise ClipError(
                f"reference: frame {frame} could not be rendered ({error}); see Blender's console, or give a picture"
            ) from error


def without_notes(png: bytes) -> bytes:
    """A PNG without its text and time chunks (PNG specification, section 11.3.3 and 11.3.6).

    Blender notes there when, where and how fast it has rendered, so that no two files of one picture are the same.
    """
    kept, at = [png[:8]], 8
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"tIME"):
            kept.append(png[at:end])
        at = end
    return b"".join(kept)


def reference_from_image(path: str | Path, width: int, height: int) -> bytes:
    """A picture file, cropped round its centre to the aspect of ``width`` x ``height`` and scaled to that size."""
    path = _existing(path)
    try:
        image = bpy.data.images.load(str(path), check_existing=False)
    except RuntimeError as error:
        raise ClipError(f"reference: {path.name!r} cannot be opened ({error}); choose a PNG, JPEG or EXR") from error
    try:
        size = tuple(image.size)
        if image.source == "MOVIE" or 0 in size:
            raise ClipError(f"reference: {path.name!r} is not a picture Blender can read; choose a PNG, JPEG or EXR")
        values = np.empty(size[0] * size[1] * image.channels, np.float32)
        image.pixels.foreach_get(values)
        pixels = values.reshape(size[1], size[0], image.channels)[::-1]  # Blender's rows start at the bottom
        return encode_png(fit_picture(_to_rgb8(pixels, linear=image.is_float), width, height))
    finally:
        bpy.data.images.remove(image)


def reference_from_movie(path: str | Path, frame: int, width: int, height: int) -> bytes:
    """Frame ``frame`` (the first is 1) of a movie, cropped and scaled like a picture.

    Read through a temporary scene's sequencer, the only way into a given frame that Blender offers to scripts, with
    the view transform that leaves colours alone.
    """
    path = _existing(path)
    try:
        movie = bpy.data.images.load(str(path), check_existing=False)
    except RuntimeError as error:
        raise ClipError(f"reference: {path.name!r} cannot be opened ({error}); choose a movie") from error
    source, size, length = movie.source, tuple(movie.size), movie.frame_duration
    bpy.data.images.remove(movie)
    if source != "MOVIE" or 0 in size:
        raise ClipError(f"reference: {path.name!r} is not a movie Blender can read; choose an MP4, MOV or MKV")
    if not 1 <= frame <= length:
        raise ClipError(f"reference: frame {frame} of {path.name!r}; the movie has frames 1 to {length}")
    scene = bpy.data.scenes.new("HVG-3D reference")
    try:
        sequencer_strips(scene.sequence_editor_create()).new_movie("movie", str(path), 1, 1)
        scene.view_settings.view_transform = "Standard"
        with tempfile.TemporaryDirectory(prefix="hvg3d_") as folder:
            still = Path(folder) / "frame.png"
            _png_output(Settings(), scene, still, *size)
            scene.render.use_sequencer = True
            scene.frame_set(frame)
            _render_still(scene)
            return reference_from_image(still, width, height)
    finally:
        bpy.data.scenes.remove(scene)


def _render_still(scene: bpy.types.Scene) -> None:
    """The current frame of ``scene``. (The operator's own ``scene`` argument takes the context's frame instead.)"""
    with bpy.context.temp_override(scene=scene):
        bpy.ops.render.render(write_still=True)


def _start_still(scene: bpy.types.Scene) -> None:
    """The same, without waiting for it and without a window of its own."""
    view = bpy.context.preferences.view
    display, view.render_display_type = view.render_display_type, "NONE"
    try:
        with bpy.context.temp_override(scene=scene):
            bpy.ops.render.render("INVOKE_DEFAULT", write_still=True)
    finally:
        view.render_display_type = display


def _existing(path: str | Path) -> Path:
    resolved = Path(bpy.path.abspath(str(path)))
    if not resolved.is_file():
        raise ClipError(f"reference: there is no file {str(resolved)!r}; choose a picture or a movie that exists")
    return resolved


def _png_output(settings: Settings, scene: bpy.types.Scene, path: Path, width: int, height: int) -> None:
    render = scene.render
    settings.set(render, "resolution_x", width)
    settings.set(render, "resolution_y", height)
    settings.set(render, "resolution_percentage", 100)
    settings.set(render, "filepath", str(path))
    settings.set(render, "use_file_extension", True)
    settings.set(render, "use_overwrite", True)
    image = render.image_settings
    wanted = png_settings(image)
    settings.remember(image, *wanted)
    for attribute, value in wanted.items():
        settings.set(image, attribute, value)


def _to_rgb8(pixels: np.ndarray, *, linear: bool) -> np.ndarray:
    """H x W x C floats to H x W x 3 uint8 sRGB; what is transparent turns black. ``linear``: as in EXR files."""
    if pixels.shape[2] in (1, 2):
        pixels = np.concatenate([pixels[..., :1]] * 3 + [pixels[..., 1:]], axis=2)
    rgb = pixels[..., :3]
    if pixels.shape[2] == 4 and not linear:  # linear pictures have their colours multiplied by alpha already
        rgb = rgb * pixels[..., 3:]
    rgb = np.clip(rgb, 0.0, 1.0)
    if linear:  # IEC 61966-2-1
        rgb = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
    return np.round(rgb * 255.0).astype(np.uint8)


def fit_picture(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Centre crop of an H x W x 3 uint8 picture to the aspect of ``width`` x ``height``, scaled to that size."""
    rows, columns = picture.shape[:2]
    if columns * height > rows * width:
        keep = max(1, round(rows * width / height))
        start = (columns - keep) // 2
        picture = picture[:, start : start + keep]
    else:
        keep = max(1, round(columns * height / width))
        start = (rows - keep) // 2
        picture = picture[start : start + keep]
    scaled = _resample(_resample(picture.astype(np.float64), height, 0), width, 1)
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)


def _resample(picture: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Along one axis: averages over each new pixel's area when shrinking, interpolates linearly when growing."""
    old = picture.shape[axis]
    if old == size:
        return picture
    picture = np.moveaxis(picture, axis, 0)
    if size < old:
        sums = np.concatenate([np.zeros_like(picture[:1]), np.cumsum(picture, axis=0)])
        edges = np.linspace(0.0, old, size + 1)
        below = np.minimum(edges.astype(int), old - 1)
        at_edge = sums[below] + (edges - below)[:, None, None] * picture[below]
        scaled = np.diff(at_edge, axis=0) * (size / old)
    else:
        centre = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        below = np.minimum(centre.astype(int), max(old - 2, 0))
        weight = (centre - below)[:, None, None]
        scaled = picture[below] * (1 - weight) + picture[np.minimum(below + 1, old - 1)] * weight
    return np.moveaxis(scaled, 0, axis)
