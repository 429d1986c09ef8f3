# SPDX-License-Identifier: GPL-3.0-or-later
"""Batch: what is ticked, how many shots that makes, and how far they are."""

from __future__ import annotations

import bpy

from ..batch.job import Row
from ..batch.session import SESSION, chosen_scenes
from ..results.properties import made_to_compare
from ..runtime import RUNTIME
from ..translations import tr
from .common import Panel, draw_operator, draw_text
from .progress import duration

_LINES = 10  # shots that are shown one by one
_ICONS = {"done": "CHECKMARK", "failed": "ERROR", "running": "PLAY", "exporting": "OUTLINER_DATA_ARMATURE"}
_FIRST = ("running", "exporting", "sending", "failed", "queued", "ready", "waiting", "done")


class HVG3D_UL_batch_scenes(bpy.types.UIList):
    def draw_item(self, context, layout, data, item, icon, active_data, active_property):
        layout.use_property_split = False
        layout.prop(item.hvg3d_batch, "use", text=item.name, translate=False)

    def filter_items(self, context, data, property):
        wanted = self.filter_name.lower()
        shown = [
            self.bitflag_filter_item if wanted in item.name.lower() and not made_to_compare(item) else 0
            for item in getattr(data, property)
        ]
        return shown, []


class _FilteredList:
    def draw_item(self, context, layout, data, item, icon, active_data, active_property):
        layout.use_property_split = False
        layout.prop(item, "hvg3d_batch", text=item.name, translate=False)

    def names(self, context) -> set[str]:
        raise NotImplementedError

    def filter_items(self, context, data, property):
        names = self.names(context)
        wanted = self.filter_name.lower()
        shown = [
            self.bitflag_filter_item if item.name in names and wanted in item.name.lower() else 0
            for item in getattr(data, property)
        ]
        return shown, []


class HVG3D_UL_batch_cameras(_FilteredList, bpy.types.UIList):
    def names(self, context) -> set[str]:
        return {obj.name for scene in chosen_scenes(context) for obj in scene.objects if obj.type == "CAMERA"}


class HVG3D_UL_batch_actions(_FilteredList, bpy.types.UIList):
    def names(self, context) -> set[str]:
        return SESSION.actions(context)


class HVG3D_PT_batch(Panel, bpy.types.Panel):
    bl_idname = "HVG3D_PT_batch"
    bl_label = "Batch"
    bl_order = 5
    bl_options = {"DEFAULT_CLOSED"}

    def draw_shot(self, layout, context, shot):
        if SESSION.running:
            row = layout.row(align=True)
            row.operator("hvg3d.batch_stop", icon="CANCEL")
        else:
            _draw_settings(layout, context.scene.hvg3d_batch)
            draw_text(layout, SESSION.count_text(context), context.region.width, "PRESET")
            row = layout.row(align=True)
            row.operator("hvg3d.batch_start", icon="RENDER_ANIMATION")
        row.scale_y = 1.4
        row.operator("hvg3d.batch_report", text="", icon="URL")
        self._draw_progress(layout, context.region.width)

    def _draw_progress(self, layout, width: int) -> None:
        batch = SESSION.batch
        if SESSION.problem:
            draw_text(layout, SESSION.problem, width, "ERROR")
        if batch is None:
            return
        totals = batch.totals()
        layout.progress(text=tr(totals.text()), factor=totals.fraction)
        if SESSION.exporting:
            layout.progress(text=tr(RUNTIME.exporting), factor=RUNTIME.export_fraction)
            layout.label(text="Press Esc to stop", icon="BLANK1")
        if batch.courier.notice and batch.running:
            draw_text(layout, batch.courier.notice, width, "ERROR")
        rows = list(batch.rows.values())  # at once: the courier changes them meanwhile
        rows.sort(key=lambda row: _FIRST.index(row.state))
        box = layout.box().column(align=True)
        told = ""
        for row in rows[:_LINES]:
            _draw_row(box, row, width, told)
            told = row.message
        if len(rows) > _LINES:
            box.label(text=tr(f"and {len(rows) - _LINES} more"), icon="BLANK1")


def _draw_settings(layout, settings) -> None:
    _list(layout, "HVG3D_UL_batch_scenes", "scenes", settings, "scene_index", "Scenes", "SCENES")
    _list(layout, "HVG3D_UL_batch_cameras", "objects", settings, "camera_index", "Cameras", "CAMERAS")
    _list(layout, "HVG3D_UL_batch_actions", "actions", settings, "action_index", "Actions", "ACTIONS")
    layout.row().prop(settings, "seed_source", expand=True)
    layout.prop(settings, "seed_count" if settings.seed_source == "COUNT" else "seeds")
    layout.prop(settings, "folder")
    layout.prop(settings, "in_flight")
    layout.prop(settings, "retry_failed")
    row = layout.row(align=True)
    row.operator("hvg3d.batch_load", text="Load Plan", icon="IMPORT")
    row.operator("hvg3d.batch_save", text="Save Plan", icon="EXPORT")


def _list(layout, kind: str, collection: str, settings, index: str, title: str, all_of: str) -> None:
    head = layout.row(align=True)
    head.label(text=tr(title))
    draw_operator(head, "hvg3d.batch_tick", text="", icon="CHECKBOX_HLT", kind=all_of, use=True)
    draw_operator(head, "hvg3d.batch_tick", text="", icon="CHECKBOX_DEHLT", kind=all_of, use=False)
    layout.template_list(kind, "", bpy.data, collection, settings, index, rows=2, maxrows=5)


def _draw_row(layout, row: Row, width: int, told: str) -> None:
    """``told``: the message of the row above, which need not be said again."""
    name = row.shot.label.partition(", ")[2]  # without the file, which is the open one
    if row.state == "running":
        left = f", {duration(row.eta)} left" if row.eta is not None else ""
        draw_text(layout, name, width, _ICONS["running"], translate=False)
        layout.progress(text=tr(row.phase + left), factor=row.fraction)
        return
    state = f": {tr(row.phase)}" if row.state in ("sending", "queued") else ""
    draw_text(layout, f"{name}{state}", width, _ICONS.get(row.state, "TIME"), translate=False)
    if row.state == "failed" and row.message != told:
        draw_text(layout, f"{row.message}. {row.remedy}", width, "BLANK1")


CLASSES = (HVG3D_UL_batch_scenes, HVG3D_UL_batch_cameras, HVG3D_UL_batch_actions, HVG3D_PT_batch)
