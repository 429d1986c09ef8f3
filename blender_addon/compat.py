# SPDX-License-Identifier: GPL-3.0-or-later
"""Every difference between the versions of Blender that the add-on runs in (4.5 LTS to 5.2 LTS)."""

from __future__ import annotations

import bpy


def sequencer_strips(editor):
    """The strips of a sequence editor, called sequences up to 4.4. (No `or` here: an empty collection is falsy.)"""
    return editor.strips if hasattr(editor, "strips") else editor.sequences


def supports_multiline(layout) -> bool:
    """Whether text fields of several lines exist (5.2)."""
    return hasattr(layout, "textbox")


def on_exit_handlers():
    """Blender's own list of functions to call before it quits (5.1), or None: use ``atexit`` then."""
    return getattr(bpy.app.handlers, "exit_pre", None)
