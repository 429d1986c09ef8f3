# SPDX-License-Identifier: GPL-3.0-or-later
"""The overlay itself: keeps the samples of the frames that were looked at, and draws them. Draws nothing in background.

Frames are sampled in ``frame_change_post``, where Blender has just evaluated them, so that points never lag behind the
scene; edits are gathered for a moment first. Whatever was known of other frames is forgotten when the scene is edited.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import bpy
import numpy as np

from ..core import ClipError
from ..runtime import RUNTIME
from ..translations import tr
from .contact import Contact, FrameSample, contact_of, describe, graph_bars, point_colors, trails
from .sampler import Sampler, settings_key

_EDIT_PAUSE = 0.08  # seconds
_KEEP_BYTES = 256e6


@dataclass
class Overlay:
    """Plain Python rather than properties, so that undo and autosave cannot touch it."""

    sampler: Sampler | None = None
    samples: dict[float, FrameSample] = field(default_factory=dict)
    contacts: dict[float, Contact] = field(default_factory=dict)
    frame: float = 0.0
    problem: str = ""
    seconds: float = 0.0  # that the last sample took
    busy: bool = False  # the points are being bound, or all frames gone through: handlers stand back
    batches: dict = field(default_factory=dict)


OVERLAY = Overlay()
_draw_handles: list[tuple[type, object]] = []


def switch(on: bool) -> None:
    """Shows or hides the overlay in all 3D viewports and timelines."""
    handlers = (
        (bpy.app.handlers.frame_change_post, _frame_changed),
        (bpy.app.handlers.depsgraph_update_post, _edited),
        (bpy.app.handlers.load_pre, _file_changes),
        (bpy.app.handlers.undo_post, _forget_after_undo),
        (bpy.app.handlers.redo_post, _forget_after_undo),
    )
    for place, handler in handlers:
        if on and handler not in place:
            place.append(handler)
        elif not on and handler in place:
            place.remove(handler)
    if not bpy.app.background:
        if on and not _draw_handles:
            view = bpy.types.SpaceView3D
            _add(view, _draw_points, "POST_VIEW")
            _add(view, _draw_text, "POST_PIXEL")
            _add(bpy.types.SpaceDopeSheetEditor, _draw_graph, "POST_PIXEL")
        elif not on:
            while _draw_handles:
                space, handle = _draw_handles.pop()
                space.draw_handler_remove(handle, "WINDOW")
    if on:
        soon()
    else:
        forget()
        redraw()


def _add(space: type, function, when: str) -> None:
    _draw_handles.append((space, space.draw_handler_add(function, (), "WINDOW", when)))


def forget() -> None:
    OVERLAY.sampler = None
    OVERLAY.problem = ""
    _forget_frames()


def _forget_frames() -> None:
    OVERLAY.samples.clear()
    OVERLAY.contacts.clear()
    OVERLAY.batches.clear()


def redraw() -> None:
    """After other colours or sizes: what is drawn is made anew from the samples."""
    OVERLAY.batches.clear()
    manager = bpy.context.window_manager
    for window in manager.windows if manager is not None else ():
        for area in window.screen.areas:
            if area.type in ("VIEW_3D", "DOPESHEET_EDITOR"):
                area.tag_redraw()


def soon() -> None:
    """Sample in a moment, when Blender is at rest. (In background there are no timers: call :func:`refresh`.)"""
    if not bpy.app.background and not bpy.app.timers.is_registered(_on_timer):
        bpy.app.timers.register(_on_timer, first_interval=_EDIT_PAUSE)


def _on_timer() -> float | None:
    if OVERLAY.busy or RUNTIME.exporting:
        return 4 * _EDIT_PAUSE  # later
    refresh(bpy.context.scene)
    return None


def refresh(scene: bpy.types.Scene) -> None:
    """Samples the current frame, binding the points first where that is due."""
    if not scene.hvg3d.overlay.show:
        switch(False)
        return
    sampler = OVERLAY.sampler
    if sampler is None or sampler.key != settings_key(scene):
        _forget_frames()
        OVERLAY.busy = True
        try:
            OVERLAY.sampler = Sampler(scene, go_to_first=True)
            OVERLAY.problem = ""
        except ClipError as error:
            OVERLAY.sampler, OVERLAY.problem = None, str(error)
        finally:
            OVERLAY.busy = False
    if OVERLAY.sampler is not None:
        layer = bpy.context.view_layer if bpy.context.scene == scene else scene.view_layers[0]
        take(scene, layer.depsgraph)
    redraw()


def take(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    """Samples the frame that ``depsgraph`` shows."""
    settings = scene.hvg3d.overlay
    started = time.perf_counter()
    frame = _frame(scene)
    try:
        sample = OVERLAY.sampler.sample(scene, depsgraph, visibility=settings.color == "VISIBILITY", contact=True)
    except ClipError as error:
        OVERLAY.problem = str(error)
        OVERLAY.sampler = None
        _forget_frames()
        return
    OVERLAY.problem = ""
    OVERLAY.frame = frame
    if frame not in OVERLAY.samples and len(OVERLAY.samples) * max(sample.points.nbytes, 1) * 1.5 > _KEEP_BYTES:
        del OVERLAY.samples[max(OVERLAY.samples, key=lambda other: abs(other - frame))]
    OVERLAY.samples[frame] = sample
    contact = contact_of(sample, OVERLAY.sampler.layout, settings.tolerance)
    if contact is not None:
        OVERLAY.contacts[frame] = contact
    OVERLAY.batches.clear()
    OVERLAY.seconds = time.perf_counter() - started


def current() -> FrameSample | None:
    return OVERLAY.samples.get(OVERLAY.frame)


def text(scene: bpy.types.Scene) -> str:
    """What the overlay has to say about the current frame."""
    if OVERLAY.problem or OVERLAY.sampler is None:
        return OVERLAY.problem or "Looking at the scene"
    return describe(OVERLAY.contacts.get(OVERLAY.frame), scene.hvg3d.overlay.tolerance)


def _frame(scene: bpy.types.Scene) -> float:
    return round(scene.frame_current + scene.frame_subframe, 3)


# -- handlers --


def _idle(scene: bpy.types.Scene) -> bool:
    """Whether a handler may do something: not during exports and renders, nor for another scene."""
    return not (
        OVERLAY.busy
        or RUNTIME.exporting
        or bpy.app.is_job_running("RENDER")
        or scene.name != getattr(bpy.context.scene, "name", "")
        or not scene.hvg3d.overlay.show
    )


@bpy.app.handlers.persistent
def _frame_changed(scene, depsgraph=None) -> None:
    if not _idle(scene):
        return
    if OVERLAY.sampler is None or OVERLAY.sampler.key != settings_key(scene):
        soon()
        return
    known = OVERLAY.samples.get(_frame(scene))
    if known is not None and (known.visible is not None or scene.hvg3d.overlay.color != "VISIBILITY"):
        OVERLAY.frame = _frame(scene)
        OVERLAY.batches.clear()
        return
    take(scene, depsgraph if depsgraph is not None else bpy.context.view_layer.depsgraph)


@bpy.app.handlers.persistent
def _edited(scene, depsgraph) -> None:
    if not _idle(scene):
        return
    moved = any(
        (update.is_updated_geometry or update.is_updated_transform)
        and isinstance(update.id, (bpy.types.Object, bpy.types.Mesh, bpy.types.Armature, bpy.types.Curve))
        for update in depsgraph.updates
    )
    marks_changed = OVERLAY.sampler is not None and OVERLAY.sampler.key != settings_key(scene)
    if moved:
        _forget_frames()
    if moved or marks_changed:
        soon()


@bpy.app.handlers.persistent
def _file_changes(*_arguments) -> None:
    forget()


@bpy.app.handlers.persistent
def _forget_after_undo(*_arguments) -> None:
    forget()
    soon()


@bpy.app.handlers.persistent
def after_load(*_arguments) -> None:
    """A file that was saved with the overlay on shows it again."""
    switch(any(scene.hvg3d.overlay.show for scene in bpy.data.scenes))


# -- drawing --


def _draw_points() -> None:
    from . import drawing

    scene = bpy.context.scene
    sample = current()
    if OVERLAY.sampler is None or sample is None or not scene.hvg3d.overlay.show:
        return
    settings = scene.hvg3d.overlay
    if "points" not in OVERLAY.batches:
        layout = OVERLAY.sampler.layout
        colors = point_colors(sample, layout, settings.color, settings.tolerance)
        OVERLAY.batches["points"] = drawing.points_batch(sample.points, colors)
        if settings.show_trails:
            lines = trails(OVERLAY.samples, layout, OVERLAY.frame, settings.trail_frames, settings.trail_count)
            OVERLAY.batches["trails"] = drawing.lines_batch(*lines) if len(lines[0]) else None
    drawing.draw_points(OVERLAY.batches["points"], settings.point_size, in_front=settings.in_front)
    if OVERLAY.batches.get("trails") is not None:
        drawing.draw_lines(OVERLAY.batches["trails"], in_front=settings.in_front)


def _draw_text() -> None:
    from . import drawing

    scene = bpy.context.scene
    if not scene.hvg3d.overlay.show:
        return
    line = tr(text(scene))
    if OVERLAY.sampler is not None and not OVERLAY.problem:
        line = f"Frame {scene.frame_current}   {line}"
    drawing.draw_label(line, bpy.context.area, bpy.context.region)


def _draw_graph() -> None:
    from . import drawing

    scene = bpy.context.scene
    settings = scene.hvg3d.overlay
    if not settings.show or not settings.show_graph or not OVERLAY.contacts:
        return
    frames = sorted(OVERLAY.contacts)
    drawing.draw_graph(bpy.context.region, np.array(frames), *graph_bars(OVERLAY.contacts, frames, settings.tolerance))
