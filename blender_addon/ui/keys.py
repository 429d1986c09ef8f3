# SPDX-License-Identifier: GPL-3.0-or-later
"""Shortcuts. They are in Blender's keymap of add-ons, so that users can change them or switch them off, also in the
preferences of this add-on."""

from __future__ import annotations

import bpy

from ..translations import tr

# Keymap, its space, operator, key; all of them with Ctrl and Shift, which Blender leaves free on these keys.
_SHORTCUTS = (
    ("Screen", "EMPTY", "hvg3d.render_real", "F12"),
    ("Screen", "EMPTY", "hvg3d.compare", "F11"),
    ("3D View", "VIEW_3D", "hvg3d.toggle_overlay", "F10"),
    ("Screen", "EMPTY", "hvg3d.cancel", "F9"),
)
_added: list[tuple[bpy.types.KeyMap, bpy.types.KeyMapItem]] = []


def register() -> None:
    config = bpy.context.window_manager.keyconfigs.addon
    if config is None:
        return
    for keymap, space, operator, key in _SHORTCUTS:
        place = config.keymaps.new(name=keymap, space_type=space)
        _added.append((place, place.keymap_items.new(operator, key, "PRESS", ctrl=True, shift=True)))


def unregister() -> None:
    while _added:
        place, item = _added.pop()
        place.keymap_items.remove(item)


def draw_keys(layout) -> None:
    """The shortcuts as the user has set them, to be changed here."""
    import rna_keymap_ui

    config = bpy.context.window_manager.keyconfigs.user
    if config is None:
        return
    box = layout.box().column()
    box.label(text="Shortcuts", icon="KEYINGSET")
    box.use_property_split = False
    for name, space, operator, _ in _SHORTCUTS:
        keymap = config.keymaps.find(name, space_type=space)
        item = next((one for one in keymap.keymap_items if one.idname == operator), None) if keymap else None
        if item is None:
            box.label(text=tr(f"{_label(operator)}: its shortcut was removed; Restore in the keymap brings it back"))
            continue
        box.context_pointer_set("keymap", keymap)
        rna_keymap_ui.draw_kmi(["ADDON", "USER", "DEFAULT"], config, keymap, item, box, 0)


def _label(operator: str) -> str:
    return tr(getattr(bpy.ops.hvg3d, operator.partition(".")[2]).get_rna_type().name)
