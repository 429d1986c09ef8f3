# SPDX-License-Identifier: GPL-3.0-or-later
"""Start, stop and look at a batch; its plan as a file."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import bpy
from bpy.props import BoolProperty, EnumProperty, StringProperty

from .. import pump
from ..batch.job import Batch
from ..batch.plan import PlanError, load_plan, plan_toml
from ..batch.session import SESSION, batch_folder, chosen_scenes, panel_plan, report_page
from ..batch.shots import iter_batch, phase_text, selections_for, shots_of_open_file
from ..batch.state import Busy
from ..preferences import server_address
from ..results.properties import made_to_compare
from ..runtime import RUNTIME
from ..scene.reference import RenderStopped
from ..translations import tr

_TURN_SECONDS = 0.02
_REST_SECONDS = 0.002  # other timers wake us too, at once: one turn between two redraws
_TICK_SECONDS = 0.3


class HVG3D_OT_batch_start(bpy.types.Operator):
    bl_idname = "hvg3d.batch_start"
    bl_label = "Start Batch"
    bl_description = (
        "Make all the ticked shots. What was made before, from the same scene with the same settings, is kept. "
        "Reading the scenes comes first, then Blender is free while the server works"
    )

    _steps: Generator | None = None
    _timer = None
    _next_turn = 0.0
    _waiting = False  # for something that goes on by itself

    @classmethod
    def poll(cls, context):
        if SESSION.running:
            cls.poll_message_set(tr("A batch is running; wait for it or stop it"))
            return False
        if RUNTIME.exporting:
            cls.poll_message_set(tr("The scene is being read"))
            return False
        return True

    def invoke(self, context, event):
        if context.window is None:
            return self.execute(context)
        if not self._begin(context, in_turns=True):
            return {"CANCELLED"}
        self._timer = context.window_manager.event_timer_add(0.001, window=context.window)
        context.window_manager.modal_handler_add(self)
        context.workspace.status_text_set(tr("HVG-3D reads the scenes of the batch.  Esc: stop"))
        return {"RUNNING_MODAL"}

    def execute(self, context):
        """All at once, to the last video: for scripts, and where there is no window."""
        if not self._begin(context, in_turns=False):
            return {"CANCELLED"}
        try:
            while self._step():
                pass
        except BaseException:
            SESSION.batch.stop()
            raise
        finally:
            self._end(context)
        while SESSION.batch.running:
            time.sleep(0.1)
        _finish()
        return {"FINISHED"}

    def modal(self, context, event):
        if event.type == "ESC":
            return self._stop(context)
        if event.type != "TIMER" or time.monotonic() < self._next_turn:
            return {"RUNNING_MODAL"}  # edits between two frames would end up in half of the clip
        turn_ends = time.monotonic() + _TURN_SECONDS
        try:
            while self._step():  # at least one frame of a scene, more if they are quick
                begun = RUNTIME.export_fraction == 0.0  # the first frame takes longest: a turn of its own
                if begun or self._waiting or time.monotonic() >= turn_ends:
                    self._next_turn = time.monotonic() + _REST_SECONDS
                    return {"RUNNING_MODAL"}
        except RenderStopped:
            return self._stop(context)
        except BaseException as error:
            SESSION.problem = f"{type(error).__name__}: {error}"
            SESSION.batch.stop()
            self._end(context)
            raise
        self._end(context)
        return {"FINISHED"}

    def cancel(self, context) -> None:
        """Blender closes the window or loads another file."""
        if SESSION.batch is not None:
            SESSION.batch.stop()
        self._end(context)

    def _stop(self, context):
        self._end(context)
        bpy.ops.hvg3d.batch_stop()
        self.report({"INFO"}, "Batch stopped; start it again, and it goes on")
        return {"CANCELLED"}

    def _begin(self, context, *, in_turns: bool) -> bool:
        settings = context.scene.hvg3d_batch
        SESSION.problem = ""
        try:
            plan = panel_plan(context)
            batch = Batch(
                batch_folder(context),
                _current_address(),
                plan,
                title=Path(bpy.data.filepath).stem or "untitled",
                retry_failed=settings.retry_failed,
                patience=24 * 3600.0,  # the user sees that the server is away, and can bring it back or stop
            )
        except (PlanError, Busy) as error:
            return self._refuse(str(error))
        except OSError as error:
            return self._refuse(f"{batch_folder(context)}: {error.strerror or error}; choose another folder")
        SESSION.batch, SESSION.exporting, SESSION.report = batch, True, None
        self._steps = iter_batch(batch, plan.selections, in_turns=in_turns)
        RUNTIME.exporting, RUNTIME.export_fraction = "Starting the batch", 0.0
        _watch()
        return True

    def _refuse(self, text: str) -> bool:
        SESSION.problem = text
        self.report({"ERROR"}, tr(text))
        return False

    def _step(self) -> bool:
        try:
            unit, progress = next(self._steps)
        except StopIteration:
            self._steps = None
            SESSION.batch.no_more()
            return False
        if progress.waiting and self._waiting:
            return True
        self._waiting = progress.waiting
        RUNTIME.exporting = f"{unit.label}: {phase_text(progress)}"
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
        SESSION.exporting = False
        RUNTIME.exporting = ""
        pump.redraw()


def _current_address():
    """The courier asks from its own thread, where preferences must not be read: it gets what the last tick has seen."""
    seen = [server_address()]

    def address():
        return seen[0]

    address.seen = seen  # type: ignore[attr-defined]
    return address


def _watch() -> None:
    if not bpy.app.background and not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, first_interval=_TICK_SECONDS, persistent=True)


def _tick() -> float | None:
    batch = SESSION.batch
    if batch is None:
        return None
    batch.courier.address.seen[0] = server_address()  # the user may have mended it
    pump.redraw()
    if SESSION.running:
        return _TICK_SECONDS
    _finish()
    return None


def _finish() -> None:
    batch = SESSION.batch
    SESSION.report = batch.close(5)
    message, remedy = batch.courier.problem
    if message:
        SESSION.problem = f"{message}. {remedy}"
    pump.redraw()


class HVG3D_OT_batch_stop(bpy.types.Operator):
    bl_idname = "hvg3d.batch_stop"
    bl_label = "Stop Batch"
    bl_description = "Stop after what is finished, and take the rest back from the server. Started again, it goes on"

    @classmethod
    def poll(cls, context):
        if not SESSION.running:
            cls.poll_message_set(tr("No batch is running"))
            return False
        return True

    def execute(self, context):
        SESSION.batch.stop(cancel=True)
        _watch()
        return {"FINISHED"}


class HVG3D_OT_batch_report(bpy.types.Operator):
    bl_idname = "hvg3d.batch_report"
    bl_label = "Open Batch Report"
    bl_description = "Open the page with all results and failures in the web browser"

    @classmethod
    def poll(cls, context):
        if SESSION.batch is None and not report_page(context).is_file():
            cls.poll_message_set(tr("There is no batch in this folder yet"))
            return False
        return True

    def execute(self, context):
        page = report_page(context)
        if SESSION.batch is not None and SESSION.running:
            try:
                page = SESSION.batch.report()
            except OSError as error:
                self.report({"ERROR"}, tr(f"{page}: {error.strerror or error}; free some space"))
                return {"CANCELLED"}
        bpy.ops.wm.url_open(url=page.absolute().as_uri())
        return {"FINISHED"}


class HVG3D_OT_batch_tick(bpy.types.Operator):
    bl_idname = "hvg3d.batch_tick"
    bl_label = "Tick All for Batch"
    bl_description = "Tick or untick all of the scenes, cameras or actions that are listed"
    bl_options = {"REGISTER", "UNDO"}

    kind: EnumProperty(
        name="Kind",
        description="What is ticked",
        items=(
            ("SCENES", "Scenes", "All scenes of this file"),
            ("CAMERAS", "Cameras", "All cameras of the ticked scenes"),
            ("ACTIONS", "Actions", "All actions that move something marked in the ticked scenes"),
        ),
    )
    use: BoolProperty(name="Tick", description="Tick, or take all ticks away", default=True)

    def execute(self, context):
        if self.kind == "SCENES":
            for scene in bpy.data.scenes:
                scene.hvg3d_batch.use = self.use and not made_to_compare(scene)
        elif self.kind == "CAMERAS":
            for scene in chosen_scenes(context):
                for obj in scene.objects:
                    if obj.type == "CAMERA":
                        obj.hvg3d_batch = self.use
        else:
            for name in SESSION.actions(context):
                bpy.data.actions[name].hvg3d_batch = self.use
        return {"FINISHED"}


class _PlanFile:
    filepath: StringProperty(name="File", description="The plan's file (TOML)", subtype="FILE_PATH")
    filter_glob: StringProperty(default="*.toml", options={"HIDDEN"})

    def invoke(self, context, event):
        if not self.filepath:
            folder = Path(bpy.data.filepath).parent if bpy.data.filepath else Path.home()
            self.filepath = str(folder / "batch.toml")
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}


class HVG3D_OT_batch_save(_PlanFile, bpy.types.Operator):
    bl_idname = "hvg3d.batch_save"
    bl_label = "Save Batch Plan"
    bl_description = "Write what is ticked to a TOML file, for 'hvg3d batch' and for another day"

    def execute(self, context):
        path = Path(bpy.path.abspath(self.filepath))
        path = path if path.suffix == ".toml" else path.with_name(path.name + ".toml")
        try:
            plan = panel_plan(context)
            if bpy.data.filepath:
                try:
                    name = Path(os.path.relpath(bpy.data.filepath, path.parent)).as_posix()
                except ValueError:  # on another drive
                    name = bpy.data.filepath
                plan = replace(plan, selections=tuple(replace(one, files=(name,)) for one in plan.selections))
            path.write_text(plan_toml(plan), "utf-8")
        except (PlanError, OSError) as error:
            self.report({"ERROR"}, tr(str(error)))
            return {"CANCELLED"}
        self.report({"INFO"}, tr(f"Plan written to {path}"))
        return {"FINISHED"}


class HVG3D_OT_batch_load(_PlanFile, bpy.types.Operator):
    bl_idname = "hvg3d.batch_load"
    bl_label = "Load Batch Plan"
    bl_description = "Tick what a TOML file says about this file"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context):
        try:
            plan = load_plan(Path(bpy.path.abspath(self.filepath)))
            selections = selections_for(plan, bpy.data.filepath)
            if not selections:
                raise PlanError(f"files: the plan names other files than {Path(bpy.data.filepath).name!r}")
        except PlanError as error:
            self.report({"ERROR"}, tr(str(error)))
            return {"CANCELLED"}
        wanted = shots_of_open_file(selections)
        for scene in bpy.data.scenes:
            scene.hvg3d_batch.use = any(shot.unit.scene == scene.name for shot in wanted)
        cameras = {shot.unit.camera for shot in wanted} if any(one.cameras for one in selections) else set()
        for obj in bpy.data.objects:
            obj.hvg3d_batch = obj.type == "CAMERA" and obj.name in cameras
        for action in bpy.data.actions:
            action.hvg3d_batch = any(shot.unit.action == action.name for shot in wanted)
        settings = context.scene.hvg3d_batch
        settings.in_flight = plan.in_flight
        seeds = selections[0].seeds
        settings.seed_source = "LIST" if seeds is not None else "COUNT"
        settings.seeds = ", ".join(map(str, seeds)) if seeds is not None else settings.seeds
        settings.seed_count = selections[0].seed_count or 1
        ticked = {(shot.unit, shot.seed) for shot in shots_of_open_file(panel_plan(context).selections)}
        if ticked != {(shot.unit, shot.seed) for shot in wanted} or any(one.request for one in selections):
            self.report(
                {"WARNING"},
                "The plan says more than ticks can (other shots or settings): run it with "
                "'blender -b FILE --command hvg3d batch --config PLAN'",
            )
        return {"FINISHED"}


CLASSES = (
    HVG3D_OT_batch_start,
    HVG3D_OT_batch_stop,
    HVG3D_OT_batch_report,
    HVG3D_OT_batch_tick,
    HVG3D_OT_batch_save,
    HVG3D_OT_batch_load,
)
