# SPDX-License-Identifier: GPL-3.0-or-later
"""Going through a shot's frames to see all of its contacts before anything is rendered."""

from __future__ import annotations

import time

import bpy
import numpy as np

from ..overlay import display
from ..overlay.display import OVERLAY
from ..runtime import RUNTIME
from ..scene.restore import preserved
from ..translations import tr

_TURN_SECONDS = 0.04


class HVG3D_OT_check_contact(bpy.types.Operator):
    """Python: ``bpy.ops.hvg3d.check_contact()``; the outcome is in the report and, per frame, in the timeline."""

    bl_idname = "hvg3d.check_contact"
    bl_label = "Check All Frames"
    bl_description = (
        "Go through the shot's frames and measure distance and penetration between hand and object in each of them. "
        "Esc stops; the scene stays as it is"
    )

    _timer = None

    @classmethod
    def poll(cls, context):
        if len(context.scene.hvg3d.entities) == 0:
            cls.poll_message_set(tr("Nothing is marked"))
            return False
        if RUNTIME.exporting:
            cls.poll_message_set(tr("The scene is being read"))
            return False
        return True

    def execute(self, context):
        """All at once: for scripts, and where there is no window."""
        if not self._begin(context):
            return {"CANCELLED"}
        try:
            for _ in self._steps:
                pass
        finally:
            self._end(context)
        return self._tell(context)

    def invoke(self, context, event):
        if context.window is None:
            return self.execute(context)
        if not self._begin(context):
            return {"CANCELLED"}
        self._timer = context.window_manager.event_timer_add(0.001, window=context.window)
        context.window_manager.modal_handler_add(self)
        context.window_manager.progress_begin(0, 100)
        context.workspace.status_text_set(tr("HVG-3D goes through the frames.  Esc: stop"))
        return {"RUNNING_MODAL"}

    def modal(self, context, event):
        if event.type == "ESC":
            self._end(context)
            self.report({"INFO"}, "Stopped; the frames that were looked at are kept")
            return {"CANCELLED"}
        if event.type != "TIMER":
            return {"RUNNING_MODAL"}
        turn_ends = time.monotonic() + _TURN_SECONDS
        try:
            for fraction in self._steps:
                context.window_manager.progress_update(int(100 * fraction))
                if time.monotonic() >= turn_ends:
                    display.redraw()
                    return {"RUNNING_MODAL"}
        except BaseException:
            self._end(context)
            raise
        self._end(context)
        return self._tell(context)

    def cancel(self, context) -> None:
        self._end(context)

    def _begin(self, context) -> bool:
        scene = context.scene
        scene.hvg3d.overlay.show = True
        display.forget()
        display.refresh(scene)
        if OVERLAY.sampler is None:
            self.report({"ERROR"}, tr(OVERLAY.problem))
            return False
        self._scene = scene.name
        self._steps = self._go_through(scene)
        return True

    def _go_through(self, scene: bpy.types.Scene):
        first, last = scene.hvg3d.range_of(scene)
        frames = np.arange(first, last + 1)
        OVERLAY.busy = True
        try:
            with preserved(scene):
                for done, frame in enumerate(frames):
                    scene.frame_set(int(frame))
                    display.take(scene, bpy.context.view_layer.depsgraph)
                    if OVERLAY.sampler is None:
                        return
                    yield (done + 1) / len(frames)
        finally:
            OVERLAY.busy = False

    def _end(self, context) -> None:
        if self._steps is not None:
            self._steps.close()
            self._steps = None
        if self._timer is not None:
            context.window_manager.event_timer_remove(self._timer)
            self._timer = None
            context.window_manager.progress_end()
            if context.workspace is not None:
                context.workspace.status_text_set(None)
        scene = bpy.data.scenes.get(self._scene)
        if scene is not None and OVERLAY.sampler is not None:
            OVERLAY.frame = float(scene.frame_current)
        display.redraw()

    def _tell(self, context):
        if OVERLAY.problem:
            self.report({"ERROR"}, tr(OVERLAY.problem))
            return {"CANCELLED"}
        if not OVERLAY.contacts:
            self.report({"INFO"}, "Points are shown; mark a hand and an object to measure their contact")
            return {"FINISHED"}
        tolerance = context.scene.hvg3d.overlay.tolerance
        worst = max(OVERLAY.contacts, key=lambda frame: OVERLAY.contacts[frame].depth)
        deep = [frame for frame, contact in OVERLAY.contacts.items() if contact.depth > tolerance]
        held = [frame for frame, contact in OVERLAY.contacts.items() if len(contact.touching) >= 3]
        depth = 1000 * OVERLAY.contacts[worst].depth
        if deep:
            frames = f"{len(deep)} frame{'s' * (len(deep) != 1)}"
            text = f"{frames} with skin inside the object, the worst is {worst:g} with {depth:.1f} mm"
            self.report({"WARNING"}, tr(text))
        elif held:
            self.report(
                {"INFO"}, tr(f"No fault: three fingers or more touch from frame {min(held):g}, {depth:.1f} mm deep")
            )
        else:
            self.report({"INFO"}, "The hand never holds the object in these frames")
        return {"FINISHED"}


class HVG3D_OT_toggle_overlay(bpy.types.Operator):
    """Python: ``scene.hvg3d.overlay.show = True`` says which of the two."""

    bl_idname = "hvg3d.toggle_overlay"
    bl_label = "Show or Hide Sent Points"
    bl_description = "Draw the points that will be sent over the scene, or stop drawing them"

    def execute(self, context):
        settings = context.scene.hvg3d.overlay
        settings.show = not settings.show
        return {"FINISHED"}


CLASSES = (HVG3D_OT_check_contact, HVG3D_OT_toggle_overlay)
