# SPDX-License-Identifier: GPL-3.0-or-later
"""A scene of its own in which a video and the scene it was made from lie one over the other in the sequencer.

Both sides must go through the same colours, or the comparison is worth nothing. A video's pixels are final: they were
made after a picture that had been through the scene's view transform. So the comparison scene uses the transform that
leaves pixels alone ("Standard"), and the original is shown as frames that its own scene has rendered, with its view
transform, look and exposure. Until they are rendered, the scene itself is shown (a scene strip), which is the same only
where its own view is Standard; :func:`is_fair` says so. (The other way round, the video led backwards through the
scene's view transform, is no choice: AgX cannot be inverted for saturated colours.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy

from ..compat import action_curves, effect_strip, png_settings, sequencer_strips, set_strip_end, set_strip_start
from .files import original_folder, read_metadata, shot_of
from .frames import changes, is_one_to_one, scene_times, shown_frames

WIPE, REAL, MAP, ORIGINAL, SOUND = "Wipe", "Real", "Real at Scene Frames", "Original", "Sound of Scene"
_LAYERS = {SOUND: 1, REAL: 2, MAP: 3, ORIGINAL: 4, WIPE: 5}


def name_of(movie: Path) -> str:
    return f"Compare {movie.stem}"


def find(movie: Path) -> bpy.types.Scene | None:
    """The comparison scene of a video, if there is one in this file."""
    return next((s for s in bpy.data.scenes if s.hvg3d_compare.movie == str(movie)), None)


def strip(scene: bpy.types.Scene, name: str):
    editor = scene.sequence_editor
    return None if editor is None else sequencer_strips(editor).get(name)


def build(movie: Path, layout: str = "WIPE") -> bpy.types.Scene:
    """Make the comparison scene, or bring it up to date. Raises ValueError for a result that does not say enough."""
    metadata = read_metadata(movie)
    shot = shot_of(metadata)
    scene = find(movie)
    wipe = 0.5
    if scene is None:
        scene = bpy.data.scenes.new(name_of(movie))
        scene.hvg3d_compare.movie = str(movie)
        scene.frame_set(int(shot["frame_start"]))
    elif strip(scene, WIPE) is not None:
        wipe = strip(scene, WIPE).effect_fader
    original = bpy.data.scenes.get(str(shot.get("scene", "")))
    settings = scene.hvg3d_compare
    settings.original = original
    _clear(scene)
    _time_and_size(scene, shot, metadata)
    first, last = int(shot["frame_start"]), int(shot["frame_end"])
    editor = scene.sequence_editor or scene.sequence_editor_create()
    real = _real(editor, movie, metadata, first, last)
    other = _original(editor, scene, movie, shot, original)
    effect = effect_strip(
        editor, WIPE, "WIPE", _LAYERS[WIPE], first, last + 1, *((real, other) if other else (real, real))
    )
    effect.use_default_fade = False
    effect.effect_fader = wipe
    effect.transition_type = "SINGLE"
    effect.angle = -1.5707963  # the scene on the left of the line, the video on the right
    effect.blur_width = 0.0
    settings.layout = layout
    arrange(scene)
    return scene


def is_fair(scene: bpy.types.Scene) -> bool:
    """Whether both sides go through the same colours."""
    other, original = strip(scene, ORIGINAL), scene.hvg3d_compare.original
    if other is None or other.type != "SCENE" or original is None:
        return other is not None
    view = original.view_settings
    plain = view.view_transform == "Standard" and view.look == "None" and not view.use_curve_mapping
    return plain and view.exposure == 0.0 and view.gamma == 1.0


def arrange(scene: bpy.types.Scene) -> None:
    """One over the other, or side by side: the size of the picture and where the strips lie in it."""
    settings = scene.hvg3d_compare
    effect, other = strip(scene, WIPE), strip(scene, ORIGINAL)
    real = strip(scene, MAP) or strip(scene, REAL)
    if effect is None or real is None:
        return
    beside = settings.layout == "SIDE"
    scene.render.resolution_x = settings.width * (2 if beside else 1)
    scene.render.resolution_y = settings.height
    effect.mute = beside
    for one, side in ((real, 1), (other, -1)):
        if one is not None:
            one.transform.offset_x = side * settings.width / 2 if beside else 0.0
            one.blend_type = "ALPHA_OVER"
    if other is not None:
        other.transform.scale_x = other.transform.scale_y = settings.original_scale
    movie = strip(scene, REAL)
    movie.transform.scale_x = movie.transform.scale_y = settings.real_scale


def original_frames(movie: Path, shot: dict[str, Any]) -> list[Path]:
    """The rendered frames of the original, one for each frame of the shot; some may not be there yet."""
    folder = original_folder(movie, str(shot.get("request", {}).get("clip", "")) or movie.stem)
    return [folder / f"{frame:05d}.png" for frame in range(int(shot["frame_start"]), int(shot["frame_end"]) + 1)]


def original_scene(original: bpy.types.Scene, shot: dict[str, Any], kind: str, movie: Path) -> bpy.types.Scene:
    """A linked copy of the shot's scene with the size, the camera and the frames of the clip: "Shown" or "Rendered"."""
    remove_copy(kind, movie)
    scene = original.copy()
    scene.name = f"{kind} {movie.stem}"
    scene.hvg3d_compare.copy_of = f"{kind} {movie}"  # names are cut off at 63 bytes
    render, settings = scene.render, shot["settings"]
    render.resolution_x, render.resolution_y = int(settings["width"]), int(settings["height"])
    render.resolution_percentage = 100
    for attribute in ("use_border", "use_multiview", "use_sequencer"):
        setattr(render, attribute, False)
    scene.frame_start, scene.frame_end, scene.frame_step = int(shot["frame_start"]), int(shot["frame_end"]), 1
    for marker in scene.timeline_markers:
        marker.camera = None
    camera = scene.objects.get(str(shot.get("camera", "")))
    if camera is not None:
        scene.camera = camera
    return scene


def remove_copy(kind: str, movie: Path) -> None:
    """Of the scenes that :func:`original_scene` has made."""
    for scene in [scene for scene in bpy.data.scenes if scene.hvg3d_compare.copy_of == f"{kind} {movie}"]:
        bpy.data.scenes.remove(scene)


def prepare_render(scene: bpy.types.Scene, frames: list[Path]) -> None:
    """Have ``scene`` render those of ``frames`` that are not there into their places."""
    frames[0].parent.mkdir(parents=True, exist_ok=True)
    render = scene.render
    for attribute, value in png_settings(render.image_settings).items():
        setattr(render.image_settings, attribute, value)
    render.filepath = str(frames[0].parent / "#####")
    render.use_file_extension = True
    render.use_overwrite = False
    render.use_placeholder = False


def _clear(scene: bpy.types.Scene) -> None:
    if scene.sequence_editor is None:
        return
    strips = sequencer_strips(scene.sequence_editor)
    for name in sorted(_LAYERS, key=lambda name: -_LAYERS[name]):
        one = strips.get(name)
        if one is not None:
            strips.remove(one)


def _time_and_size(scene: bpy.types.Scene, shot: dict[str, Any], metadata: dict[str, Any]) -> None:
    video = metadata.get("video") or {}
    settings = scene.hvg3d_compare
    clip_width, clip_height = int(shot["settings"]["width"]), int(shot["settings"]["height"])
    width, height = int(video.get("width") or clip_width), int(video.get("height") or clip_height)
    # The model sees the middle of the clip's picture, in its own aspect; the finer of both decides the size here.
    finer = max(1.0, min(clip_width / width, clip_height / height))
    settings.width, settings.height = 2 * round(width * finer / 2), 2 * round(height * finer / 2)
    settings.real_scale = settings.width / width
    settings.original_scale = max(settings.width / clip_width, settings.height / clip_height)
    render = scene.render
    render.fps, render.fps_base = int(shot.get("fps", 24)), float(shot.get("fps_base", 1.0))
    render.resolution_percentage = 100
    render.use_sequencer = True
    scene.frame_start, scene.frame_end = int(shot["frame_start"]), int(shot["frame_end"])
    scene.sync_mode = "AUDIO_SYNC"
    scene.view_settings.view_transform = "Standard"
    scene.view_settings.look = "None"
    scene.view_settings.exposure, scene.view_settings.gamma = 0.0, 1.0


def _real(editor, movie: Path, metadata: dict[str, Any], first: int, last: int):
    """The video's strip, or one that shows its frames where they belong, if that is not one after the other."""
    real = sequencer_strips(editor).new_movie(REAL, str(movie), _LAYERS[REAL], first, fit_method="ORIGINAL")
    shown = shown_frames(scene_times(metadata, real.frame_duration), first, last)
    set_strip_end(real, last + 1)
    if is_one_to_one(shown):
        return real
    speed = effect_strip(editor, MAP, "SPEED", _LAYERS[MAP], first, last + 1, real)
    speed.speed_control = "FRAME_NUMBER"
    speed.use_frame_interpolate = False
    path = speed.path_from_id("speed_frame_number")
    scene = editor.id_data
    _forget_keys(scene, path)
    for place, number in changes(shown):
        speed.speed_frame_number = number
        scene.keyframe_insert(path, frame=first + place)
    for curve in _curves(scene, path):
        for point in curve.keyframe_points:
            point.interpolation = "CONSTANT"
    return speed


def _curves(scene: bpy.types.Scene, path: str):
    return [curve for curve in action_curves(scene) if curve.data_path == path]


def _forget_keys(scene: bpy.types.Scene, path: str) -> None:
    for curve in _curves(scene, path):
        while len(curve.keyframe_points):
            curve.keyframe_points.remove(curve.keyframe_points[-1], fast=True)


def _original(editor, scene: bpy.types.Scene, movie: Path, shot: dict[str, Any], original: bpy.types.Scene | None):
    """Rendered frames where all are there, else the scene itself; and its sound. None where the scene is gone."""
    strips = sequencer_strips(editor)
    first, last = int(shot["frame_start"]), int(shot["frame_end"])
    if original is not None and original.sequence_editor and len(sequencer_strips(original.sequence_editor)):
        sound = strips.new_scene(SOUND, original, _LAYERS[SOUND], first)
        sound.scene_input = "SEQUENCER"  # a scene's picture comes without the sound of its sequencer
        _fit(sound, original, first, last)
        sound.blend_alpha = 0.0  # heard, not seen: the picture is not even rendered
        sound.blend_type = "ALPHA_OVER"
    remove_copy("Shown", movie)
    frames = original_frames(movie, shot)
    if all(path.is_file() for path in frames):
        other = strips.new_image(ORIGINAL, str(frames[0]), _LAYERS[ORIGINAL], first, fit_method="ORIGINAL")
        for path in frames[1:]:
            other.elements.append(path.name)
        set_strip_end(other, last + 1)
        return other
    if original is None:
        return None
    shown = original_scene(original, shot, "Shown", movie)
    other = strips.new_scene(ORIGINAL, shown, _LAYERS[ORIGINAL], first)
    other.volume = 0.0
    _fit(other, shown, first, last)
    return other


def _fit(one, shown: bpy.types.Scene, first: int, last: int) -> None:
    """Let a scene's strip begin with the shot: it starts with the scene's own first frame."""
    start = shown.frame_start
    one.frame_start = start
    set_strip_start(one, first)
    set_strip_end(one, last + 1)
