# SPDX-License-Identifier: GPL-3.0-or-later
"""Export Clip and Render to Real Video: both read the scene in short turns between redraws, so that nothing freezes."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from pathlib import Path

import bpy
from bpy.props import StringProperty

from .. import pump
from ..client.protocol import GenerationRequest
from ..client.task import RenderTask
from ..core import Clip, ClipError, save_clip
from ..preferences import server_address
from ..result import desk, result_path
from ..results import following
from ..results.snapshot import shot_snapshot
from ..runtime import RUNTIME
from ..scene.export import ExportProgress, iter_export
from ..scene.reference import RenderStopped
from ..shot import blocking, export_settings
from ..translations import tr

CLIP_SUFFIX = ".clip.safetensors"
_TURN_SECONDS = 0.02
_REST_SECONDS = 0.002  # other timers wake us too, at once: one turn between two redraws
_PHASES = {"frames": "Reading the scene", "reference": "Rendering the first picture", "finish": "Checking the clip"}


class _ExportSteps:
    """A modal operator that exports the scene's clip. Subclasses say what happens to it in :meth:`use_clip`."""

    _steps: Generator[ExportProgress, None, Clip] | None = None
    _timer = None
    _next_turn = 0.0
    _waiting = False  # for something that goes on by itself

    def use_clip(self, context, clip: Clip) -> None:
        raise NotImplementedError

    def wait(self) -> bool:
        """After :meth:`use_clip`: whether it still has to be waited for. Raises what went wrong meanwhile."""
        return False

    def execute(self, context):
        """All at once: for scripts, and where there is no window."""
        try:
            self._begin(context, in_turns=False)
            while self._step(context):
                pass
        except (ClipError, OSError) as error:
            return self._fail(context, error)
        finally:
            self._end(context)
        return {"FINISHED"}

    def _run_modal(self, context):
        if context.window is None:
            return self.execute(context)
        try:
            self._begin(context, in_turns=True)
        except (ClipError, OSError) as error:
            self._end(context)
            return self._fail(context, error)
        self._timer = context.window_manager.event_timer_add(0.001, window=context.window)
        context.window_manager.modal_handler_add(self)
        context.workspace.status_text_set(tr("HVG-3D reads the scene.  Esc: cancel"))
        return {"RUNNING_MODAL"}

    def modal(self, context, event):
        if event.type == "ESC":
            return self._stop(context)
        if event.type != "TIMER" or time.monotonic() < self._next_turn:
            return {"RUNNING_MODAL"}  # edits between two frames would end up in half of the clip
        turn_ends = time.monotonic() + _TURN_SECONDS
        try:
            while self._step(context):  # at least one frame of the scene, more if they are quick
                begun = RUNTIME.export_fraction == 0.0  # the first frame takes longest: a turn of its own
                if begun or self._waiting or time.monotonic() >= turn_ends:
                    self._next_turn = time.monotonic() + _REST_SECONDS
                    return {"RUNNING_MODAL"}
        except RenderStopped:
            return self._stop(context)
        except (ClipError, OSError) as error:
            self._end(context)
            return self._fail(context, error)
        except BaseException:
            self._end(context)
            raise
        self._end(context)
        return {"FINISHED"}

    def cancel(self, context) -> None:
        """Blender closes the window or loads another file."""
        self._end(context)

    def _stop(self, context):
        self._end(context)
        self.report({"INFO"}, tr("Export cancelled; the scene is as it was"))
        return {"CANCELLED"}

    def _begin(self, context, *, in_turns: bool) -> None:
        RUNTIME.problem = ""
        RUNTIME.exporting, RUNTIME.export_fraction = "Starting", 0.0
        self._scene_name = context.scene.name
        self._steps = iter_export(context.scene, export_settings(context.scene), in_turns=in_turns)

    def _step(self, context) -> bool:
        """One step further; False when all is done."""
        if self._steps is None:
            return self.wait()
        try:
            progress = next(self._steps)
        except StopIteration as end:
            self._steps = None
            RUNTIME.exporting, RUNTIME.export_fraction = "Writing", 1.0
            self.use_clip(context, end.value)
            return True
        if progress.waiting and self._waiting:
            return True
        self._waiting = progress.waiting
        RUNTIME.exporting = _PHASES[progress.phase]
        if progress.phase == "frames":
            RUNTIME.exporting += f", frame {progress.done + 1} of {progress.total - 2}"
        RUNTIME.export_fraction = progress.done / progress.total
        pump.redraw()
        return True

    def _end(self, context) -> None:
        if self._steps is not None:
            self._steps.close()  # puts the scene back
            self._steps = None
        if self._timer is not None:
            context.window_manager.event_timer_remove(self._timer)
            self._timer = None
            if context.workspace is not None:
                context.workspace.status_text_set(None)
        RUNTIME.exporting = ""
        pump.redraw()

    def _fail(self, context, error: Exception):
        RUNTIME.problem = str(error)
        self.report({"ERROR"}, tr(str(error)))
        return {"CANCELLED"}


class HVG3D_OT_export_clip(_ExportSteps, bpy.types.Operator):
    bl_idname = "hvg3d.export_clip"
    bl_label = "Export Clip"
    bl_description = "Write points, tracks, masks, camera and first picture of the shot to a file, without a server"

    filepath: StringProperty(
        name="File", description="Where the clip is written", subtype="FILE_PATH", options={"SKIP_SAVE"}
    )
    filter_glob: StringProperty(default="*.safetensors", options={"HIDDEN"})

    _writer: threading.Thread | None = None

    @classmethod
    def poll(cls, context):
        return _poll(cls, context, video=False)

    def invoke(self, context, event):
        if not self.filepath:
            stem = Path(bpy.data.filepath).stem or "untitled"
            self.filepath = bpy.path.clean_name(f"{stem}_{context.scene.name}") + CLIP_SUFFIX
            context.window_manager.fileselect_add(self)
            self._choosing = True
            return {"RUNNING_MODAL"}
        return self._run_modal(context)

    def execute(self, context):
        if getattr(self, "_choosing", False):  # the file browser calls this
            self._choosing = False
            return self._run_modal(context)
        return super().execute(context)

    def use_clip(self, context, clip: Clip) -> None:
        path = Path(bpy.path.abspath(self.filepath))
        if path.suffix != ".safetensors":
            path = path.with_name(path.name + CLIP_SUFFIX)
        self._path = path
        self._write_error: Exception | None = None

        def write() -> None:
            try:
                save_clip(clip, path)
            except (ClipError, OSError) as error:
                self._write_error = error

        self._writer = threading.Thread(target=write, name="hvg3d write")
        self._writer.start()

    def wait(self) -> bool:
        self._writer.join(0.01)
        if self._writer.is_alive():
            return True
        if self._write_error is not None:
            error = self._write_error
            raise ClipError(f"file: {self._path} cannot be written ({error}); choose another folder") from error
        self.report({"INFO"}, tr(f"Clip written to {self._path}"))
        return False


class HVG3D_OT_render_real(_ExportSteps, bpy.types.Operator):
    bl_idname = "hvg3d.render_real"
    bl_label = "Render to Real Video"
    bl_description = "Send the shot to the server, which makes a video of it. Blender stays usable meanwhile"

    @classmethod
    def poll(cls, context):
        if RUNTIME.rendering:
            cls.poll_message_set(tr("A video is being made; wait for it or cancel it"))
            return False
        return _poll(cls, context, video=True)

    def invoke(self, context, event):
        return self._run_modal(context)

    def use_clip(self, context, clip: Clip) -> None:
        scene = bpy.data.scenes[self._scene_name]
        shot = scene.hvg3d
        label = f"{Path(bpy.data.filepath).stem or 'untitled'}, {scene.name}"
        task = RenderTask(
            server_address(),
            clip,
            generation_request(shot),
            Path(),
            label,
            desk=desk(),
            shot=shot_snapshot(scene),
            first_picture=clip.views[0].reference if shot.reference_keep else None,
        )
        task.output = result_path(scene, shot.seed, task.id)
        following.begin(task, shot.range_of(scene)[0])


def generation_request(shot) -> GenerationRequest:
    """The scene's settings as they are sent."""
    return GenerationRequest(
        shot.model,
        shot.prompt,
        shot.seed,
        negative_prompt=shot.negative_prompt,
        num_inference_steps=shot.inference_steps(),
        guidance_scale=shot.guidance if shot.use_guidance else None,
        control_scale=shot.control_scale,
        use_points=shot.use_points,
        use_tracking=shot.use_tracking,
    )


def _poll(cls, context, *, video: bool) -> bool:
    if RUNTIME.exporting:
        cls.poll_message_set(tr("The scene is being read"))
        return False
    reason = blocking(context.scene, video=video)
    if reason:
        cls.poll_message_set(tr(reason))
        return False
    return True


CLASSES = (HVG3D_OT_export_clip, HVG3D_OT_render_real)
