# SPDX-License-Identifier: GPL-3.0-or-later
"""What all panels share."""

from __future__ import annotations

import textwrap

import bpy

from ..shot import Check
from ..translations import tr


class Panel:
    """A place in the sidebar of the 3D viewport, with labels on the left and values on the right."""

    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "HVG-3D"

    def draw(self, context):
        self.layout.use_property_split = True
        self.layout.use_property_decorate = False
        self.draw_shot(self.layout, context, context.scene.hvg3d)


def draw_text(layout, text: str, width: int, icon: str = "NONE", *, translate: bool = True) -> None:
    """Several lines of text, broken to the ``width`` in pixels of where they are drawn. What a user wrote stays."""
    column = layout.column(align=True)
    characters = max(20, int(width / (6.3 * bpy.context.preferences.system.ui_scale)) - 11)
    for number, line in enumerate(textwrap.wrap(tr(text) if translate else text, characters) or [""]):
        column.label(text=line, translate=False, icon=icon if number == 0 else ("BLANK1" if icon != "NONE" else "NONE"))


def draw_operator(layout, operator: str, **options):
    """A button with the operator's properties given as keywords besides ``text`` and ``icon``."""
    look = {name: options.pop(name) for name in ("text", "icon", "emboss", "depress") if name in options}
    if "text" in look:
        look["text"] = tr(look["text"])
    button = layout.operator(operator, **look)
    for name, value in options.items():
        setattr(button, name, value)
    return button


def draw_check(layout, check: Check, width: int) -> None:
    icon = "ERROR" if not check.ok else "INFO" if check.hint else "CHECKMARK"
    column = layout.column(align=True)
    draw_text(column, check.text, width, icon)
    if check.fixes:
        row = column.row(align=True)
        row.label(text="", icon="BLANK1")
        for fix in check.fixes:
            draw_operator(row, fix.operator, text=fix.label, **fix.properties)
