# SPDX-License-Identifier: GPL-3.0-or-later
"""What the checklist's buttons do, and other settings of a shot that need more than a field."""

from __future__ import annotations

import random
from collections.abc import Generator

import bpy
import numpy as np
from bpy.props import IntProperty, StringProperty
from mathutils import Matrix, Vector

from .. import pump
from ..core import ClipError
from ..runtime import RUNTIME
from ..scene.reference import RenderStopped, iter_reference
from ..shot import marked_corners, reference_png, reference_recipe
from ..translations import tr


class HVG3D_OT_use_frame_count(bpy.types.Operator):
    bl_idname = "hvg3d.use_frame_count"
    bl_label = "Use This Many Frames"
    bl_description = (
        "The network works on 1 or 8k+1 frames. Ends the shot's own range there; the scene's stays as it is"
    )
    bl_options = {"REGISTER", "UNDO"}

    frames: IntProperty(name="Frames", description="1 or 8k+1, such as 17, 25 or 49", default=49, min=1)

    def execute(self, context):
        shot = context.scene.hvg3d
        first, last = shot.range_of(context.scene)
        if shot.every_frame or last < first:
            shot.frame_start, shot.frame_end = first, first + self.frames - 1
            shot.use_scene_range = False
        else:
            shot.num_frames = self.frames
        return {"FINISHED"}


class HVG3D_OT_use_camera(bpy.types.Operator):
    bl_idname = "hvg3d.use_camera"
    bl_label = "Use Camera"
    bl_description = "Look through this camera for the video; the scene's own camera stays as it is"
    bl_options = {"REGISTER", "UNDO"}

    name: StringProperty(name="Camera", description="Name of a camera in this scene")

    def execute(self, context):
        camera = context.scene.objects.get(self.name)
        if camera is None or camera.type != "CAMERA":
            self.report({"ERROR"}, tr(f"There is no camera {self.name!r} in this scene"))
            return {"CANCELLED"}
        context.scene.hvg3d.camera = camera
        return {"FINISHED"}


class HVG3D_OT_add_camera(bpy.types.Operator):
    bl_idname = "hvg3d.add_camera"
    bl_label = "Add Camera"
    bl_description = (
        "Add a camera that looks as the 3D viewport does now, or at what is marked where there is no viewport, "
        "and use it for the video"
    )
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context):
        scene = context.scene
        camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
        scene.collection.objects.link(camera)
        view = getattr(context.space_data, "region_3d", None)
        if view is not None:
            camera.matrix_world = view.view_matrix.inverted()
        else:
            aim(scene, camera, Vector((0.5, -1.0, 0.6)))
        if scene.camera is None:
            scene.camera = camera
        else:
            scene.hvg3d.camera = camera
        return {"FINISHED"}


class HVG3D_OT_aim_camera(bpy.types.Operator):
    bl_idname = "hvg3d.aim_camera"
    bl_label = "Aim Camera"
    bl_description = (
        "Move the shot's camera back or forth and turn it so that all that is marked fills the picture at this frame. "
        "An animated camera has to be keyed afterwards"
    )
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context):
        if context.scene.hvg3d.camera_of(context.scene) is None:
            cls.poll_message_set(tr("The shot has no camera"))
            return False
        if len(context.scene.hvg3d.entities) == 0:
            cls.poll_message_set(tr("Nothing is marked"))
            return False
        return True

    def execute(self, context):
        camera = context.scene.hvg3d.camera_of(context.scene)
        aim(context.scene, camera, camera.matrix_world.to_3x3() @ Vector((0.0, 0.0, 1.0)))
        return {"FINISHED"}


def aim(scene: bpy.types.Scene, camera: bpy.types.Object, away: Vector) -> None:
    """Look at all that is marked from the direction ``away``, close enough to fill the picture."""
    corners = marked_corners(scene, scene.hvg3d.entities)
    if len(corners) == 0:
        corners = np.array([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    middle = Vector((corners.min(axis=0) + corners.max(axis=0)).tolist()) / 2
    radius = float(np.linalg.norm(corners - np.array(middle), axis=1).max())
    shot = scene.hvg3d
    narrow = camera.data.angle * min(1.0, shot.height / shot.width)
    away.normalize()
    distance = 1.05 * radius / max(float(np.sin(narrow / 2)), 1e-3)
    turn = away.to_track_quat("Z", "Y")
    camera.matrix_world = Matrix.Translation(middle + away * distance) @ turn.to_matrix().to_4x4()
    camera.data.clip_start = min(camera.data.clip_start, 0.05 * distance)


class HVG3D_OT_new_seed(bpy.types.Operator):
    bl_idname = "hvg3d.new_seed"
    bl_label = "New Seed"
    bl_description = "Choose another seed at random, for another video of the same shot"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context):
        context.scene.hvg3d.seed = random.randrange(2**31 - 1)
        return {"FINISHED"}


class HVG3D_OT_use_default_model(bpy.types.Operator):
    bl_idname = "hvg3d.use_default_model"
    bl_label = "Use Default Model"
    bl_description = "Use the model that the server was started with"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context):
        context.scene.hvg3d.model = ""
        return {"FINISHED"}


class HVG3D_OT_suggest_prompt(bpy.types.Operator):
    bl_idname = "hvg3d.suggest_prompt"
    bl_label = "Suggest Prompt"
    bl_description = "Begin a prompt from what is marked; add colours, material, place and light to it"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context):
        shot = context.scene.hvg3d
        hands = sorted({e.role for e in shot.entities if e.role.endswith("_hand")})
        things = [
            e.name.replace("_", " ").replace(".", " ").strip().lower() for e in shot.entities if e.role == "object"
        ]
        who = "two hands" if len(hands) == 2 else f"a {hands[0].replace('_', ' ')}" if hands else ""
        what = " and ".join(f"a {thing}" for thing in things)
        verb = "grasp" if who == "two hands" else "grasps"
        text = f"{who} {verb} {what}" if who and what else who or what
        if not text:
            self.report({"WARNING"}, "Mark a hand or an object first, so that there is something to describe")
            return {"CANCELLED"}
        shot.prompt = f"{text}, close-up, natural light"
        return {"FINISHED"}


class HVG3D_OT_make_reference(bpy.types.Operator):
    """Python: ``bpy.ops.hvg3d.make_reference()``; the picture is ``scene.hvg3d.reference_image``, packed."""

    bl_idname = "hvg3d.make_reference"
    bl_label = "Update First Picture"
    bl_description = (
        "Make the first picture as it will be sent, cropped to the video's size, and show it: renders the first frame, "
        "or reads the chosen file"
    )
    bl_options = {"REGISTER", "UNDO"}

    _steps: Generator[None, None, bytes] | None = None
    _timer = None

    def execute(self, context):
        """All at once: for scripts, and where there is no window."""
        self._begin(context.scene, in_turns=False)
        while (ended := self._step()) is None:
            pass
        return ended

    def invoke(self, context, event):
        if context.window is None or RUNTIME.exporting:
            return self.execute(context)
        self._begin(context.scene, in_turns=True)
        ended = self._step()
        if ended is not None:
            return ended
        self._timer = context.window_manager.event_timer_add(0.05, window=context.window)
        context.window_manager.modal_handler_add(self)
        RUNTIME.exporting, RUNTIME.export_fraction = "Rendering the first picture", 0.0
        pump.redraw()
        return {"RUNNING_MODAL"}

    def modal(self, context, event):
        """Blender itself listens to Esc while it renders."""
        if event.type != "TIMER":
            return {"RUNNING_MODAL"}  # edits would end up in the picture
        ended = self._step()
        if ended is None:
            return {"RUNNING_MODAL"}
        self._end(context)
        return ended

    def cancel(self, context) -> None:
        """Blender closes the window or loads another file."""
        self._steps.close()  # puts the scene back
        self._end(context)

    def _end(self, context) -> None:
        context.window_manager.event_timer_remove(self._timer)
        RUNTIME.exporting = ""
        pump.redraw()

    def _begin(self, scene: bpy.types.Scene, *, in_turns: bool) -> None:
        self._scene = scene.name
        self._steps = self._make(scene, in_turns)

    def _make(self, scene: bpy.types.Scene, in_turns: bool) -> Generator[None, None, bytes]:
        shot = scene.hvg3d
        kept, shot.reference_keep = shot.reference_keep, False
        try:
            png = reference_png(scene)
        finally:
            shot.reference_keep = kept
        if png is not None:
            return png
        camera = shot.camera_of(scene)
        if camera is None or scene.objects.get(camera.name) != camera:
            raise ClipError("reference: there is no camera to render it from; add one, or choose a file")
        first = shot.range_of(scene)[0]
        return (yield from iter_reference(scene, camera, first, shot.width, shot.height, in_turns=in_turns))

    def _step(self) -> set[str] | None:
        """None while Blender renders."""
        try:
            next(self._steps)
        except StopIteration as end:
            self._show(bpy.data.scenes[self._scene], end.value)
            return {"FINISHED"}
        except RenderStopped:
            return {"CANCELLED"}
        except (ClipError, OSError, RuntimeError) as error:
            self.report({"ERROR"}, tr(str(error)))
            return {"CANCELLED"}
        return None

    def _show(self, scene: bpy.types.Scene, png: bytes) -> None:
        shot = scene.hvg3d
        image = shot.reference_image
        if image is None:
            image = bpy.data.images.new(f"HVG-3D {scene.name} first picture", shot.width, shot.height)
            shot.reference_image = image
        image.source = "FILE"
        image.pack(data=png, data_len=len(png))
        image.reload()
        if image.preview is not None:
            image.preview.reload()
        shot.reference_made_from = reference_recipe(scene)


class HVG3D_OT_choose_reference(bpy.types.Operator):
    bl_idname = "hvg3d.choose_reference"
    bl_label = "Choose First Picture"
    bl_description = "Choose a picture or a movie that shows how hand and object shall look"
    bl_options = {"REGISTER", "UNDO"}

    filepath: StringProperty(name="File", description="Path of a picture or a movie", subtype="FILE_PATH")
    filter_image: bpy.props.BoolProperty(default=True, options={"HIDDEN"})
    filter_movie: bpy.props.BoolProperty(default=True, options={"HIDDEN"})
    filter_folder: bpy.props.BoolProperty(default=True, options={"HIDDEN"})

    def invoke(self, context, event):
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context):
        shot = context.scene.hvg3d
        movies = bpy.path.extensions_movie
        is_movie = any(self.filepath.lower().endswith(extension) for extension in movies)
        shot.reference_source = "MOVIE" if is_movie else "IMAGE"
        shot.reference_path = self.filepath
        return bpy.ops.hvg3d.make_reference()


class HVG3D_OT_render_first_picture(bpy.types.Operator):
    bl_idname = "hvg3d.render_first_picture"
    bl_label = "Render First Picture"
    bl_description = "Use a render of the first frame instead of a file"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context):
        context.scene.hvg3d.reference_source = "RENDER"
        return {"FINISHED"}


CLASSES = (
    HVG3D_OT_use_frame_count,
    HVG3D_OT_use_camera,
    HVG3D_OT_add_camera,
    HVG3D_OT_aim_camera,
    HVG3D_OT_new_seed,
    HVG3D_OT_use_default_model,
    HVG3D_OT_suggest_prompt,
    HVG3D_OT_make_reference,
    HVG3D_OT_choose_reference,
    HVG3D_OT_render_first_picture,
)
