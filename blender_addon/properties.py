# SPDX-License-Identifier: GPL-3.0-or-later
"""A shot's settings, saved with its scene as ``scene.hvg3d``."""

from __future__ import annotations

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)

from .runtime import RUNTIME
from .scene.meshes import GEOMETRY_TYPES
from .translations import tr

MARKABLE_TYPES = GEOMETRY_TYPES | {"ARMATURE", "EMPTY"}
ROLE_ITEMS = (
    ("left_hand", "Left Hand", "A left hand, with or without its arm", "VIEW_PAN", 0),
    ("right_hand", "Right Hand", "A right hand, with or without its arm", "VIEW_PAN", 1),
    ("object", "Object", "Something that hands hold or touch", "OBJECT_DATA", 2),
    ("other", "Other", "Something else that the video shall follow", "DOT", 3),
)
LEAD_IN_TEXT = "Frames that the hand takes for its way to the object and for closing, before the frame of contact"
HOLD_TEXT = "From the frame of contact on, the object follows the hand (a Child Of constraint, switched on by keys)"
PLACEMENT_ITEMS = (
    ("AUTO", "Find a Place", "Try places and directions round the object and take the best grasp near the hand"),
    ("PALM", "Move Along Palm", "Keep the hand's direction and move it along the palm's normal until it touches"),
    ("STAY", "Stay", "The hand stays where it is and only the fingers close"),
)
# (inference steps, or 0 for the model's own) of every quality
QUALITY_STEPS = {"DRAFT": 12, "STANDARD": 0, "FINE": 75}
SERVERS_CHOICE = "SERVER_DEFAULT"
_model_items_cache: list[tuple] = []  # Blender keeps no reference to the strings of dynamic enums


def _model_items(self, context) -> list[tuple]:
    items = [(SERVERS_CHOICE, "The server's default", "The model that the server was started with", 0)]
    for model in RUNTIME.server.models:
        title = model.title if model.installed else tr(f"{model.title} (not installed)")
        items.append((model.id, title, tr(f"{model.id}, licence {model.licence or 'unknown'}"), len(items)))
    if self.model and all(item[0] != self.model for item in items):
        items.append((self.model, tr(f"{self.model} (not on this server)"), "The server does not offer it", len(items)))
    if items != _model_items_cache:
        _model_items_cache[:] = items
    return _model_items_cache


def _get_model(self) -> int:
    wanted = self.model or SERVERS_CHOICE
    return next((item[3] for item in _model_items(self, None) if item[0] == wanted), 0)


def _set_model(self, value: int) -> None:
    identifier = _model_items(self, None)[value][0]
    self.model = "" if identifier == SERVERS_CHOICE else identifier


def _overlay_switched(self, context) -> None:
    from .overlay import display

    display.switch(self.show)


def _overlay_redraw(self, context) -> None:
    from .overlay import display

    display.redraw()


def _not_kept(self, context) -> None:
    """Another source of the first picture: what is shown no longer belongs to it."""
    self.reference_keep = False


class HVG3D_ObjectRef(bpy.types.PropertyGroup):
    """An object, or a collection that stands for all of its objects."""

    object: PointerProperty(type=bpy.types.Object, name="Object", description="A marked object")
    collection: PointerProperty(
        type=bpy.types.Collection, name="Collection", description="A marked collection, for all that is in it"
    )


class HVG3D_Entity(bpy.types.PropertyGroup):
    """A marked hand or object; ``name`` is what the clip calls it."""

    role: EnumProperty(
        name="Role", description="What it is; change it where a guess is wrong", items=ROLE_ITEMS, default="object"
    )
    objects: CollectionProperty(type=HVG3D_ObjectRef)
    reason: StringProperty(name="Guessed From", description="Why it was taken for this; empty if it was marked by hand")

    def members(self) -> list[bpy.types.Object]:
        """The marked objects, those of marked collections included, without what has been deleted."""
        found: dict[bpy.types.Object, None] = {}
        for ref in self.objects:
            if ref.object is not None:
                found.setdefault(ref.object)
            if ref.collection is not None:
                found.update(dict.fromkeys(obj for obj in ref.collection.all_objects if obj.type in MARKABLE_TYPES))
        return list(found)


class HVG3D_OverlaySettings(bpy.types.PropertyGroup):
    """What the viewport shows of the points that will be sent."""

    show: BoolProperty(
        name="Show Points",
        description="Draw the points that will be sent over the scene in every 3D viewport",
        default=False,
        options=set(),
        update=_overlay_switched,
    )
    color: EnumProperty(
        name="Colour",
        description="What the colour of a point tells",
        items=(
            ("CONTACT", "Contact", "How near the hand's points are to the object: yellow touches, red is inside it"),
            ("ENTITY", "Hand or Object", "One colour for every marked hand and object"),
            ("VISIBILITY", "Visibility", "Bright where the camera sees the point, dark where something hides it"),
        ),
        default="CONTACT",
        options=set(),
        update=_overlay_redraw,
    )
    point_size: IntProperty(
        name="Point Size",
        description="Size of a point on the screen",
        default=4,
        min=1,
        max=20,
        subtype="PIXEL",
        options=set(),
        update=_overlay_redraw,
    )
    in_front: BoolProperty(
        name="In Front",
        description="Draw the points over everything, also where the scene hides them from this viewport",
        default=True,
        options=set(),
        update=_overlay_redraw,
    )
    show_trails: BoolProperty(
        name="Track Trails",
        description="Draw where tracks have been and will be, in the frames that were looked at already",
        default=True,
        options=set(),
        update=_overlay_redraw,
    )
    trail_frames: IntProperty(
        name="Frames",
        description="Length of the trails before and after the current frame",
        default=12,
        min=1,
        max=250,
        options=set(),
        update=_overlay_redraw,
    )
    trail_count: IntProperty(
        name="Trails", description="Tracks drawn for each hand and object", default=48, min=1, max=4096, options=set()
    )
    show_graph: BoolProperty(
        name="Timeline Graph",
        description="Draw distance and penetration between hand and object over the frames of the timeline",
        default=True,
        options=set(),
        update=_overlay_redraw,
    )
    tolerance: FloatProperty(
        name="Tolerance",
        description="Skin deeper than this inside the object counts as a fault; skin nearer than this touches it",
        default=0.003,
        min=0.0,
        soft_max=0.02,
        precision=4,
        step=0.1,
        unit="LENGTH",
        options=set(),
        update=_overlay_redraw,
    )


class HVG3D_GraspSettings(bpy.types.PropertyGroup):
    """How the Grasp button works; the operator itself takes the same as arguments."""

    lead_in: IntProperty(name="Lead-In", description=LEAD_IN_TEXT, default=16, min=2, max=500, options=set())
    placement: EnumProperty(
        name="Wrist", description="What the wrist does", items=PLACEMENT_ITEMS, default="AUTO", options=set()
    )
    hold: BoolProperty(name="Hold", description=HOLD_TEXT, default=False, options=set())


class HVG3D_SceneSettings(bpy.types.PropertyGroup):
    entities: CollectionProperty(type=HVG3D_Entity)
    entity_index: IntProperty(
        name="Marked hand or object", description="The line of the list that is shown below it", options=set()
    )

    camera: PointerProperty(
        type=bpy.types.Object,
        name="Camera",
        description="Camera to look through. Empty is the scene's own",
        poll=lambda self, obj: obj.type == "CAMERA",
    )
    use_scene_range: BoolProperty(
        name="Scene Range", description="Use the frame range of the scene", default=True, options=set()
    )
    frame_start: IntProperty(name="Start", description="First frame of the shot", default=1, options=set())
    frame_end: IntProperty(name="End", description="Last frame of the shot", default=49, options=set())
    every_frame: BoolProperty(
        name="Every Frame",
        description="Take every frame of the range; switched off, a chosen number of frames is spread over it",
        default=True,
        options=set(),
    )
    num_frames: IntProperty(
        name="Frames",
        description="Spread this many frames over the range: 8k+1, such as 17, 25 or 49",
        default=49,
        min=1,
        max=1001,
        options=set(),
    )
    width: IntProperty(
        name="Width",
        description="Width of the clip and of the first picture; the model's own is 720",
        default=720,
        min=16,
        max=4096,
        step=1600,
        subtype="PIXEL",
        options=set(),
    )
    height: IntProperty(
        name="Height",
        description="Height of the clip and of the first picture; the model's own is 480",
        default=480,
        min=16,
        max=4096,
        step=1600,
        subtype="PIXEL",
        options=set(),
    )

    reference_source: EnumProperty(
        name="First Picture",
        description="What shows how hand and object look in the first frame",
        items=(
            ("RENDER", "Render", "Render the first frame with the scene's own engine"),
            ("IMAGE", "Picture", "A picture file, cropped to the aspect of the video"),
            ("MOVIE", "Movie", "One frame of a movie file, cropped to the aspect of the video"),
        ),
        update=_not_kept,
    )
    reference_path: StringProperty(
        name="File", description="Picture or movie to take the first picture from", subtype="FILE_PATH", options=set()
    )
    reference_frame: IntProperty(
        name="Movie Frame", description="Frame of the movie; the first is 1", default=1, min=1, options=set()
    )
    reference_image: PointerProperty(
        type=bpy.types.Image, name="First Picture", description="The first picture as it was last looked at"
    )
    reference_made_from: StringProperty(description="Settings that the kept picture was made from", options={"HIDDEN"})
    reference_keep: BoolProperty(
        name="Keep This Picture",
        description="Send the picture shown here; switched off, the first frame is rendered anew for every video",
        default=False,
        options=set(),
    )

    prompt: StringProperty(
        name="Prompt", description="What the video shows: the person's hand, the object, the place, the light"
    )
    seed: IntProperty(name="Seed", description="Another seed gives another video", default=0, min=0, options=set())
    model: StringProperty(name="Model", options={"HIDDEN"})
    model_choice: EnumProperty(
        name="Model", description="Network that makes the video", items=_model_items, get=_get_model, set=_set_model
    )

    quality: EnumProperty(
        name="Quality",
        description="How many steps the network takes: more steps cost more time",
        items=(
            ("DRAFT", "Draft", f"{QUALITY_STEPS['DRAFT']} steps: quick, to see the motion"),
            ("STANDARD", "Standard", "As many steps as the model's makers advise"),
            ("FINE", "Fine", f"{QUALITY_STEPS['FINE']} steps: slow, for the last render"),
            ("CUSTOM", "Custom", "The number of steps set under Advanced"),
        ),
        default="STANDARD",
        options=set(),
    )
    steps: IntProperty(
        name="Steps", description="Steps of the network for Custom quality", default=50, min=1, max=1000, options=set()
    )
    use_guidance: BoolProperty(
        name="Own Guidance", description="Set the guidance here; switched off, the model's own is used", options=set()
    )
    guidance: FloatProperty(
        name="Guidance",
        description="How closely the video follows the prompt; too high looks harsh",
        default=6.0,
        min=0.0,
        max=50.0,
        options=set(),
    )
    negative_prompt: StringProperty(name="Avoid", description="What the video shall not show", options=set())
    control_scale: FloatProperty(
        name="Follow Scene",
        description="How strongly the video is tied to the scene's points and tracks; 1 is as trained",
        default=1.0,
        min=0.0,
        max=10.0,
        soft_max=2.0,
        options=set(),
    )
    use_points: BoolProperty(
        name="Points", description="Let the network see the point cloud", default=True, options=set()
    )
    use_tracking: BoolProperty(
        name="Tracks", description="Let the network see the motion tracks", default=True, options=set()
    )

    overlay: PointerProperty(
        type=HVG3D_OverlaySettings, name="Overlay", description="How the points that will be sent are shown"
    )
    grasp: PointerProperty(type=HVG3D_GraspSettings, name="Grasp", description="How the Grasp button works")

    points_per_entity: IntProperty(
        name="Points",
        description="Points sampled on each hand and object",
        default=1024,
        min=16,
        max=65536,
        options=set(),
    )
    num_tracks: IntProperty(
        name="Tracks",
        description="How many of the points are drawn as motion tracks",
        default=1024,
        min=0,
        max=65536,
        options=set(),
    )

    def range_of(self, scene: bpy.types.Scene) -> tuple[int, int]:
        """First and last frame, inclusive."""
        if self.use_scene_range:
            return scene.frame_start, scene.frame_end
        return self.frame_start, self.frame_end

    def frame_count(self, scene: bpy.types.Scene) -> int:
        """Frames that the clip will have."""
        first, last = self.range_of(scene)
        return last - first + 1 if self.every_frame else self.num_frames

    def camera_of(self, scene: bpy.types.Scene) -> bpy.types.Object | None:
        return self.camera or scene.camera

    def inference_steps(self) -> int | None:
        """Steps to ask the server for; None is the model's own number."""
        return (self.steps if self.quality == "CUSTOM" else QUALITY_STEPS[self.quality]) or None


CLASSES = (HVG3D_ObjectRef, HVG3D_Entity, HVG3D_OverlaySettings, HVG3D_GraspSettings, HVG3D_SceneSettings)
