# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be done with a finished video: show, compare, put behind the camera, make again, delete."""

from __future__ import annotations

import contextlib
import os
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import bpy
from bpy.props import EnumProperty, IntProperty, StringProperty

from ..client.protocol import GenerationRequest
from ..client.task import RenderTask
from ..preferences import server_address
from ..result import desk, new_area, result_path, show_result
from ..results import background, compare, following, thumbs
from ..results.files import delete_files, first_picture_path, read_metadata, shot_of
from ..results.history import Entry
from ..results.properties import LAYOUTS
from ..results.snapshot import restore_shot
from ..runtime import RUNTIME, Result
from ..translations import tr

RESULT_TEXT = "Path of the video. Empty is the one chosen in the list of results, else the last one"


def chosen_entry() -> Entry | None:
    """The result that the list's active line stands for."""
    manager = bpy.context.window_manager
    index = manager.hvg3d_result_index
    if not 0 <= index < len(manager.hvg3d_results):
        return None
    movie = manager.hvg3d_results[index].movie
    return next((entry for entry in RUNTIME.history if entry.movie == movie), None)


class _OnResult:
    """An operator on one result: the one named by ``result``, or the one chosen in the panel."""

    result: StringProperty(name="Result", description=RESULT_TEXT, subtype="FILE_PATH", options={"SKIP_SAVE"})
    needs_file = True

    @classmethod
    def poll(cls, context):
        if not RUNTIME.history and RUNTIME.result is None:
            cls.poll_message_set(tr("There is no finished video yet"))
            return False
        return True

    def movie(self) -> Path:
        """Raises ValueError where there is none."""
        if self.result:
            path = Path(bpy.path.abspath(self.result))
        else:
            entry = chosen_entry()
            if entry is None and RUNTIME.result is None:
                raise ValueError("No video is chosen")
            path = entry.path if entry is not None else RUNTIME.result.path
        if self.needs_file and not path.is_file():
            raise ValueError(f"{path} is not there: it was moved or deleted, or its disk is not connected")
        return path

    def execute(self, context):
        try:
            return self.work(context, self.movie())
        except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
            text = f"The video's metadata lacks {error}" if isinstance(error, KeyError) else str(error).strip()
            self.report({"ERROR"}, tr(text))
            return {"CANCELLED"}

    def work(self, context, movie: Path) -> set[str]:
        raise NotImplementedError


class HVG3D_OT_view_result(_OnResult, bpy.types.Operator):
    bl_idname = "hvg3d.view_result"
    bl_label = "Show Chosen Video"
    bl_description = "Show the video in an Image Editor, beginning at the shot's first frame"

    def work(self, context, movie):
        first = 1
        with contextlib.suppress(ValueError):  # a video alone can be shown too
            first = int(shot_of(read_metadata(movie))["frame_start"])
        RUNTIME.result = Result(movie, first)
        show_result(RUNTIME.result)
        return {"FINISHED"}


class HVG3D_OT_compare(_OnResult, bpy.types.Operator):
    """Python: ``bpy.ops.hvg3d.compare(result='', layout='WIPE')``; the scene's name is ``Compare`` and the video's."""

    bl_idname = "hvg3d.compare"
    bl_label = "Compare in Sequencer"
    bl_description = (
        "Show the video and the scene it was made from over each other in the sequencer, in a scene of its own, frame "
        "by frame where they belong, with the scene's sound"
    )
    bl_options = {"REGISTER", "UNDO"}

    layout: EnumProperty(name="Layout", description="How the scene and its video are shown", items=LAYOUTS)

    def work(self, context, movie):
        scene = compare.build(movie, self.layout)
        _show_comparison(context, scene)
        if scene.hvg3d_compare.original is None:
            self.report(
                {"WARNING"}, "The scene that the video was made from is not in this file: only the video is shown"
            )
        elif not compare.is_fair(scene):
            self.report({"INFO"}, "Press Render Original to see the scene with its own colours")
        return {"FINISHED"}


def _show_comparison(context, scene: bpy.types.Scene) -> None:
    """In a sequence editor that is open, else in a new one beside the viewport."""
    from ..compat import show_in_sequencer

    windows = context.window_manager.windows
    if bpy.app.background or len(windows) == 0:
        return
    window = context.window or windows[0]
    area = next((area for area in window.screen.areas if area.type == "SEQUENCE_EDITOR"), None)
    if area is None:
        area = next((area for area in window.screen.areas if _shows_result(area)), None)
        if area is None:
            area = new_area(window, "SEQUENCE_EDITOR")
        area.type = "SEQUENCE_EDITOR"
        area.spaces.active.view_type = "SEQUENCER_PREVIEW"
    show_in_sequencer(window, scene)
    pointer = area.as_pointer()

    def fit() -> None:
        for one in bpy.context.window_manager.windows:
            for place in one.screen.areas:
                if place.as_pointer() == pointer and place.type == "SEQUENCE_EDITOR":
                    region = next((r for r in place.regions if r.type == "PREVIEW"), None)
                    if region is not None and place.spaces.active.view_type != "SEQUENCER":
                        with bpy.context.temp_override(window=one, area=place, region=region):
                            bpy.ops.sequencer.view_all_preview()
                    strips = next((r for r in place.regions if r.type == "WINDOW"), None)
                    if strips is not None and place.spaces.active.view_type != "PREVIEW":
                        with bpy.context.temp_override(window=one, area=place, region=strips):
                            bpy.ops.sequencer.view_all()

    bpy.app.timers.register(fit, first_interval=0.3)


def _shows_result(area: bpy.types.Area) -> bool:
    """An Image Editor with one of our videos: the comparison shows it too, and takes its place."""
    if area.type != "IMAGE_EDITOR" or area.spaces.active.image is None:
        return False
    image = area.spaces.active.image
    return image.source == "MOVIE" and any(_same(image.filepath, entry.path) for entry in RUNTIME.history)


class HVG3D_OT_leave_comparison(bpy.types.Operator):
    bl_idname = "hvg3d.leave_comparison"
    bl_label = "Leave Comparison"
    bl_description = "Show the scene again that the video was made from"

    @classmethod
    def poll(cls, context):
        if not context.scene.hvg3d_compare.movie or context.scene.hvg3d_compare.original is None:
            cls.poll_message_set(tr("This is no comparison, or its scene is gone"))
            return False
        return True

    def execute(self, context):
        context.window.scene = context.scene.hvg3d_compare.original
        return {"FINISHED"}


class HVG3D_OT_render_original(_OnResult, bpy.types.Operator):
    """Python: ``bpy.ops.hvg3d.render_original(result='')`` renders at once and returns when it is done."""

    bl_idname = "hvg3d.render_original"
    bl_label = "Render Original"
    bl_description = (
        "Render the shot's frames with the scene's own engine and colours, to compare with. They are kept beside the "
        "video and used for all videos of the same clip; frames that are there already are not rendered again"
    )

    @classmethod
    def poll(cls, context):
        if RUNTIME.rendering_original:
            cls.poll_message_set(tr("The original is being rendered"))
            return False
        if bpy.app.is_job_running("RENDER"):
            cls.poll_message_set(tr("Blender is rendering"))
            return False
        return super().poll(context)

    def _prepare(self, movie: Path) -> bpy.types.Scene | None:
        shot = shot_of(read_metadata(movie))
        original = bpy.data.scenes.get(shot["scene"])
        if original is None:
            raise ValueError(f"Scene {shot['scene']!r} is not in this file: open {shot['blend'] or 'its file'} first")
        frames = compare.original_frames(movie, shot)
        if all(path.is_file() for path in frames):
            return None
        scene = compare.original_scene(original, shot, "Rendered", movie)
        compare.prepare_render(scene, frames)
        return scene

    def work(self, context, movie):
        scene = self._prepare(movie)
        if scene is not None:
            for frame in range(scene.frame_start, scene.frame_end + 1):
                if not Path(scene.render.frame_path(frame=frame)).is_file():
                    with context.temp_override(scene=scene):
                        scene.frame_set(frame)
                        target, scene.render.filepath = scene.render.filepath, scene.render.frame_path(frame=frame)
                        bpy.ops.render.render(write_still=True)
                        scene.render.filepath = target
        return self._done(movie)

    def _done(self, movie: Path) -> set[str]:
        made = compare.find(movie)
        if made is not None:
            compare.build(movie, made.hvg3d_compare.layout)
        compare.remove_copy("Rendered", movie)
        return {"FINISHED"}

    def invoke(self, context, event):
        try:
            movie = self.movie()
            scene = self._prepare(movie)
        except (ValueError, KeyError, OSError) as error:
            self.report({"ERROR"}, tr(str(error)))
            return {"CANCELLED"}
        if scene is None:
            return self._done(movie)
        view = context.preferences.view
        self._movie, self._scene = movie, scene.name
        self._before = context.window.scene.name
        RUNTIME.rendering_original = str(movie)
        display, view.render_display_type = view.render_display_type, "NONE"
        try:
            bpy.ops.render.render("INVOKE_DEFAULT", animation=True, scene=scene.name)
        finally:
            view.render_display_type = display
        self._timer = context.window_manager.event_timer_add(0.25, window=context.window)
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context, event):
        if event.type != "TIMER" or bpy.app.is_job_running("RENDER"):
            return {"PASS_THROUGH"}
        self._end(context)
        try:
            return self._done(self._movie)
        except (ValueError, KeyError, OSError, RuntimeError) as error:
            self.report({"ERROR"}, tr(str(error).strip()))
            return {"CANCELLED"}

    def cancel(self, context) -> None:
        self._end(context)

    def _end(self, context) -> None:
        RUNTIME.rendering_original = ""
        context.window_manager.event_timer_remove(self._timer)


class HVG3D_OT_use_as_background(_OnResult, bpy.types.Operator):
    """Python: ``bpy.ops.hvg3d.use_as_background(result='', depth='FRONT')``; takes the place of one that is there."""

    bl_idname = "hvg3d.use_as_background"
    bl_label = "Show Video in Camera"
    bl_description = "Show the video as a background image of the shot's camera, each frame where it belongs"
    bl_options = {"REGISTER", "UNDO"}

    depth: EnumProperty(
        name="Depth",
        description="Whether the scene hides the video",
        items=(
            ("FRONT", "Over the Scene", "Half transparent over the scene"),
            ("BACK", "Behind the Scene", "Behind everything in the scene"),
        ),
    )

    def work(self, context, movie):
        camera = background.show(context.scene, movie, self.depth)
        self.report({"INFO"}, tr(f"Shown in {camera.name}: look through it to see it"))
        return {"FINISHED"}


class HVG3D_OT_remove_background(bpy.types.Operator):
    bl_idname = "hvg3d.remove_background"
    bl_label = "Remove Video from Camera"
    bl_description = "Take the video away from the shot's camera"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context):
        if not any(background.shown_in(obj) for obj in context.scene.objects if obj.type == "CAMERA"):
            cls.poll_message_set(tr("No camera of this scene shows a video"))
            return False
        return True

    def execute(self, context):
        for obj in context.scene.objects:
            if obj.type == "CAMERA":
                background.remove(obj)
        return {"FINISHED"}


class HVG3D_OT_redo(_OnResult, bpy.types.Operator):
    """Python: ``bpy.ops.hvg3d.redo(result='')``; works also where only the metadata is left of a result."""

    bl_idname = "hvg3d.redo"
    bl_label = "Redo Settings of Video"
    bl_description = (
        "Bring back all settings that the video was made with: marks, frames, camera, first picture, prompt, model and "
        "seed. It says which objects are gone"
    )
    bl_options = {"REGISTER", "UNDO"}
    needs_file = False

    def work(self, context, movie):
        shot = shot_of(read_metadata(movie))
        scene = bpy.data.scenes.get(shot["scene"]) or context.scene
        picture = first_picture_path(movie)
        problems = restore_shot(scene, shot, picture.read_bytes() if picture.is_file() else None)
        if scene.name != shot["scene"]:
            problems.insert(0, f"scene {shot['scene']!r} is not in this file, {scene.name!r} was used")
        if problems:
            self.report({"WARNING"}, tr(f"Settings are back, but {'; '.join(problems)}"))
        else:
            self.report({"INFO"}, "All settings of the video are back")
        return {"FINISHED"}


class HVG3D_OT_reroll(_OnResult, bpy.types.Operator):
    """Python: ``bpy.ops.hvg3d.reroll(result='', seed=-1)``; the scene is not looked at."""

    bl_idname = "hvg3d.reroll"
    bl_label = "Re-roll Video"
    bl_description = (
        "Make the video once more with another seed and nothing else changed. The scene is not read again: the server "
        "has its clip"
    )
    needs_file = False

    seed: IntProperty(name="Seed", description="The new seed; -1 chooses one at random", default=-1, min=-1)

    @classmethod
    def poll(cls, context):
        if RUNTIME.rendering or RUNTIME.exporting:
            cls.poll_message_set(tr("A video is being made; wait for it or cancel it"))
            return False
        return super().poll(context)

    def work(self, context, movie):
        metadata = read_metadata(movie)
        shot = shot_of(metadata)
        body: dict[str, Any] = dict(shot["request"])
        clip = str(body.pop("clip"))
        old = int(body["seed"])
        seed = self.seed
        while seed < 0 or (self.seed < 0 and seed == old):
            seed = random.randrange(2**31 - 1)
        known = {field: value for field, value in body.items() if field in GenerationRequest.__dataclass_fields__}
        request = GenerationRequest(**{**known, "model": known.get("model") or "", "seed": seed})
        told = {
            **shot,
            "made": time.time(),
            "settings": {**shot["settings"], "seed": seed},
            "rerolled_from": movie.name,
        }
        picture = first_picture_path(movie)
        task = RenderTask(
            server_address(),
            clip,
            request,
            Path(),
            f"{Path(shot['blend']).stem or 'untitled'}, {shot['scene']}",
            desk=desk(),
            shot=told,
            first_picture=picture.read_bytes() if picture.is_file() else None,
        )
        stem = f"{Path(shot['blend']).stem or 'untitled'}_{shot['scene']}"
        task.output = result_path(context.scene, seed, task.id, stem=stem, folder=movie.parent)
        following.begin(task, int(shot["frame_start"]))
        return {"FINISHED"}


class HVG3D_OT_delete_result(_OnResult, bpy.types.Operator):
    bl_idname = "hvg3d.delete_result"
    bl_label = "Delete Video"
    bl_description = "Delete the video, its metadata and its thumbnail from the disk"
    needs_file = False

    def invoke(self, context, event):
        try:
            name = self.movie().name
        except ValueError as error:
            self.report({"ERROR"}, tr(str(error)))
            return {"CANCELLED"}
        return context.window_manager.invoke_confirm(
            self,
            event,
            title=tr("Delete Video?"),
            message=tr(f"{name} is deleted from the disk"),
            confirm_text=tr("Delete"),
        )

    def work(self, context, movie):
        entry = next((entry for entry in RUNTIME.history if entry.movie == str(movie)), None)
        clip = entry.clip if entry is not None else ""
        shared = any(one.clip == clip and one.movie != str(movie) for one in RUNTIME.history)
        for image in [i for i in bpy.data.images if i.source == "MOVIE" and _same(i.filepath, movie) and i.users == 0]:
            bpy.data.images.remove(image)
        delete_files(movie, "" if shared else clip)
        thumbs.forget(movie)
        desk().history.forget(str(movie))
        RUNTIME.history = [entry for entry in RUNTIME.history if entry.movie != str(movie)]
        if RUNTIME.result is not None and RUNTIME.result.path == movie:
            RUNTIME.result = None
        following.show_history()
        return {"FINISHED"}


def _same(filepath: str, movie: Path) -> bool:
    return Path(bpy.path.abspath(filepath)) == movie


class HVG3D_OT_open_results(_OnResult, bpy.types.Operator):
    bl_idname = "hvg3d.open_results"
    bl_label = "Open Folder of Video"
    bl_description = "Open the folder that the video is in, in the system's file browser"
    needs_file = False

    def work(self, context, movie):
        if not movie.parent.is_dir():
            raise ValueError(f"{movie.parent} is not there")
        if not bpy.app.background:
            bpy.ops.wm.path_open(filepath=str(movie.parent))
        return {"FINISHED"}


class HVG3D_OT_refresh_results(bpy.types.Operator):
    bl_idname = "hvg3d.refresh_results"
    bl_label = "Look for Videos Again"
    bl_description = "List the videos anew, with those in the folder of this file, and the jobs that wait to be fetched"

    def execute(self, context):
        from .. import pump

        following.refresh()
        following.look()
        pump.ensure_running()
        return {"FINISHED"}


class HVG3D_OT_fetch_result(bpy.types.Operator):
    """Python: ``bpy.ops.hvg3d.fetch_result(job=ID)``; without a job the newest that waits."""

    bl_idname = "hvg3d.fetch_result"
    bl_label = "Fetch Video Again"
    bl_description = "Ask the server once more for a video that could not be saved or whose Blender has ended"

    job: StringProperty(name="Job", description="Id of the job; empty is the newest that waits", options={"SKIP_SAVE"})

    @classmethod
    def poll(cls, context):
        if not RUNTIME.waiting:
            cls.poll_message_set(tr("No video waits to be fetched"))
            return False
        return True

    def execute(self, context):
        record = next((r for r in RUNTIME.waiting if r.id == self.job or not self.job), None)
        if record is None:
            self.report({"ERROR"}, "This video does not wait any more")
            return {"CANCELLED"}
        folder = Path(record.output).parent
        if record.problem and not _can_write(folder):
            from ..result import results_folder

            record = replace(record, output=str(results_folder() / Path(record.output).name))
        following.take_up(record)
        return {"FINISHED"}


class HVG3D_OT_forget_job(bpy.types.Operator):
    bl_idname = "hvg3d.forget_job"
    bl_label = "Do Not Fetch Video"
    bl_description = "Forget a video that waits to be fetched. It stays on the server until the server removes it"

    job: StringProperty(name="Job", description="Id of the job", options={"SKIP_SAVE"})

    def execute(self, context):
        desk().journal.forget(self.job)
        RUNTIME.waiting = [record for record in RUNTIME.waiting if record.id != self.job]
        return {"FINISHED"}


def _can_write(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


CLASSES = (
    HVG3D_OT_view_result,
    HVG3D_OT_compare,
    HVG3D_OT_leave_comparison,
    HVG3D_OT_render_original,
    HVG3D_OT_use_as_background,
    HVG3D_OT_remove_background,
    HVG3D_OT_redo,
    HVG3D_OT_reroll,
    HVG3D_OT_delete_result,
    HVG3D_OT_open_results,
    HVG3D_OT_refresh_results,
    HVG3D_OT_fetch_result,
    HVG3D_OT_forget_job,
)
