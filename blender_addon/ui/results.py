# SPDX-License-Identifier: GPL-3.0-or-later
"""Results: the history with thumbnails and what can be done with a video; in the sequencer, the comparison."""

from __future__ import annotations

import datetime

import bpy

from ..compat import sequencer_scene
from ..ops.results import chosen_entry
from ..results import background, compare, thumbs
from ..runtime import RUNTIME
from ..translations import tr
from .common import Panel, draw_operator, draw_text


class HVG3D_UL_results(bpy.types.UIList):
    """A line for each video."""

    def draw_item(self, context, layout, data, item, icon, active_data, active_property, index):
        entry = next((entry for entry in RUNTIME.history if entry.movie == item.movie), None)
        row = layout.row(align=True)
        if entry is None:
            row.label(text=item.name, translate=False)
            return
        row.active = not entry.missing
        number = 0 if entry.missing else thumbs.icon_of(entry.path)
        if number:
            row.label(text="", icon_value=number)
        else:
            row.label(text="", icon="ERROR" if entry.missing else "FILE_MOVIE")
        row.label(text=f"{entry.scene}, {entry.seed}", translate=False)
        made = row.row()
        made.alignment = "RIGHT"
        made.label(text="missing" if entry.missing else _when(entry.made), translate=entry.missing)


def _when(made: float) -> str:
    """The day, or for today the time."""
    then = datetime.datetime.fromtimestamp(made)
    today = then.date() == datetime.datetime.now().date()
    return then.strftime("%H:%M") if today else then.strftime("%Y-%m-%d")


class HVG3D_PT_results(Panel, bpy.types.Panel):
    bl_idname = "HVG3D_PT_results"
    bl_label = "Results"
    bl_order = 5
    bl_options = {"DEFAULT_CLOSED"}

    def draw_shot(self, layout, context, shot):
        width = context.region.width
        manager = context.window_manager
        if context.scene.hvg3d_compare.movie:
            layout.operator("hvg3d.leave_comparison", text="Back to Shot", icon="BACK")
        draw_waiting(layout, width)
        row = layout.row()
        row.template_list(
            "HVG3D_UL_results", "", manager, "hvg3d_results", manager, "hvg3d_result_index", rows=4, maxrows=8
        )
        column = row.column(align=True)
        column.operator("hvg3d.refresh_results", text="", icon="FILE_REFRESH")
        column.operator("hvg3d.open_results", text="", icon="FILE_FOLDER")
        column.separator()
        column.operator("hvg3d.delete_result", text="", icon="TRASH")
        entry = chosen_entry()
        if entry is None:
            draw_text(layout, "Finished videos are listed here", width, "INFO")
            return
        box = layout.box().column(align=True)
        number = 0 if entry.missing else thumbs.icon_of(entry.path)
        if number:
            box.template_icon(icon_value=number, scale=8.0)
        if entry.missing:
            draw_text(box, f"{entry.movie} is not there", width, "ERROR")
        if entry.prompt:
            draw_text(box, entry.prompt, width, translate=False)
        box.label(text=tr(f"{entry.model}, seed {entry.seed}, {entry.fps:.4g} fps"), translate=False)
        column = layout.column(align=True)
        row = column.row(align=True)
        row.enabled = not entry.missing
        row.operator("hvg3d.view_result", text="Show", icon="IMAGE_DATA")
        row.operator("hvg3d.compare", text="Compare", icon="SEQ_SPLITVIEW")
        row = column.row(align=True)
        row.operator("hvg3d.redo", text="Redo", icon="LOOP_BACK")
        row.operator("hvg3d.reroll", text="Re-roll", icon="FILE_REFRESH")
        row = column.row(align=True)
        if any(background.shown_in(obj) for obj in context.scene.objects if obj.type == "CAMERA"):
            row.operator("hvg3d.remove_background", text="Remove from Camera", icon="X")
        else:
            row.enabled = not entry.missing
            row.operator("hvg3d.use_as_background", text="Show in Camera", icon="CAMERA_DATA")
        made = compare.find(entry.path)
        if made is not None:
            draw_comparison(layout, made, width)


def draw_waiting(layout, width: int) -> None:
    """Videos that are finished or in the making on a server, and followed by nobody."""
    for task in RUNTIME.followed:
        layout.label(text=tr(f"{task.label}: followed too"), icon="TIME")
    for record in RUNTIME.waiting:
        box = layout.box().column(align=True)
        draw_text(box, f"{record.label}: not fetched yet", width, "IMPORT")
        if record.problem:
            draw_text(box, record.problem, width, "ERROR")
        row = box.row(align=True)
        draw_operator(row, "hvg3d.fetch_result", text="Fetch Again", job=record.id)
        draw_operator(row, "hvg3d.forget_job", text="", icon="X", job=record.id)


def draw_comparison(layout, scene: bpy.types.Scene, width: int) -> None:
    """Layout, slider, and how true the colours of the original are."""
    settings = scene.hvg3d_compare
    box = layout.box().column()
    row = box.row()
    row.use_property_split = False  # both names need the whole width
    row.prop(settings, "layout", expand=True)
    effect = compare.strip(scene, compare.WIPE)
    if effect is not None and settings.layout == "WIPE":
        box.prop(effect, "effect_fader", text="Wipe", slider=True)
        box.prop(effect, "angle", text="Line")
    if RUNTIME.rendering_original:
        box.label(text="Rendering the original; Esc stops it", icon="RENDER_ANIMATION")
    elif settings.original is not None and not compare.is_fair(scene):
        draw_text(box, "The scene is shown live, without its own colours", width, "INFO")
        draw_operator(box, "hvg3d.render_original", icon="RENDER_ANIMATION", result=settings.movie)


class HVG3D_PT_comparison(bpy.types.Panel):
    bl_idname = "HVG3D_PT_comparison"
    bl_label = "Compare"
    bl_space_type = "SEQUENCE_EDITOR"
    bl_region_type = "UI"
    bl_category = "HVG-3D"

    @classmethod
    def poll(cls, context):
        return bool(sequencer_scene(context).hvg3d_compare.movie)

    def draw(self, context):
        self.layout.use_property_split = True
        scene = sequencer_scene(context)
        draw_comparison(self.layout, scene, context.region.width)
        if context.scene == scene:
            self.layout.operator("hvg3d.leave_comparison", icon="BACK")


CLASSES = (HVG3D_UL_results, HVG3D_PT_results, HVG3D_PT_comparison)
