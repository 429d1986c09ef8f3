# SPDX-License-Identifier: GPL-3.0-or-later
"""Adding a hand to script grasps with."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty
from mathutils import Matrix

from ..compat import with_nodes
from ..demo.hand import HandShape, load_hand
from ..demo.rig import add_hand
from ..translations import tr
from .marking import mark_objects

_SKIN = ("HVG-3D Skin", (0.62, 0.34, 0.23, 1.0), 0.45)
_SLEEVE = ("HVG-3D Sleeve", (0.06, 0.10, 0.22, 1.0), 0.85)


def _material(name: str, color: tuple[float, float, float, float], roughness: float) -> bpy.types.Material:
    """One for all hands: changed once, changed everywhere."""
    material = bpy.data.materials.get(name)
    if material is None:
        material = bpy.data.materials.new(name)
        material.diffuse_color = color
        shader = next(node for node in with_nodes(material).nodes if node.type == "BSDF_PRINCIPLED")
        shader.inputs["Base Color"].default_value = color
        shader.inputs["Roughness"].default_value = roughness
    return material


class HVG3D_OT_add_hand(bpy.types.Operator):
    """Python: ``bpy.ops.hvg3d.add_hand(side='LEFT')``; the new armature is the active object afterwards."""

    bl_idname = "hvg3d.add_hand"
    bl_label = "Add Hand"
    bl_description = "Add a hand with an armature whose finger bones bend about their X axis, at the 3D cursor"
    bl_options = {"REGISTER", "UNDO"}

    side: EnumProperty(
        name="Side",
        description="Which hand",
        items=(("LEFT", "Left", "A left hand"), ("RIGHT", "Right", "A right hand")),
        default="RIGHT",
    )
    scale: FloatProperty(
        name="Size", description="Size of the hand; 1 is 19 cm from wrist to fingertip", default=1.0, min=0.2, max=5.0
    )
    forearm: FloatProperty(
        name="Forearm",
        description="Length of the sleeve behind the wrist",
        default=0.24,
        min=0.05,
        max=1.0,
        unit="LENGTH",
    )
    mark: BoolProperty(name="Mark", description="Mark it as the shot's left or right hand", default=True)

    @classmethod
    def poll(cls, context):
        if context.mode != "OBJECT":
            cls.poll_message_set(tr("Switch to Object Mode first"))
            return False
        return True

    def execute(self, context):
        scene = context.scene
        units = scene.unit_settings
        metre = 1.0 / units.scale_length if units.system != "NONE" else 1.0
        side = self.side.lower()
        model = load_hand(side, HandShape(scale=self.scale), forearm=self.forearm)
        collection = bpy.data.collections.new(f"{side.capitalize()} Hand")
        scene.collection.children.link(collection)
        armature, skin = add_hand(model, f"{side.capitalize()} hand", _material(*_SKIN), _material(*_SLEEVE))
        for obj in (armature, skin):
            for other in obj.users_collection:
                other.objects.unlink(obj)
            collection.objects.link(obj)
        armature.matrix_world = Matrix.Translation(scene.cursor.location) @ Matrix.Scale(metre, 4)
        for obj in context.selected_objects:
            obj.select_set(False)
        armature.select_set(True)
        context.view_layer.objects.active = armature
        if self.mark:
            mark_objects(scene.hvg3d, [armature], f"{side}_hand")
        self.report({"INFO"}, tr(f"Added a {side} hand; place its armature, then press Grasp"))
        return {"FINISHED"}


CLASSES = (HVG3D_OT_add_hand,)
