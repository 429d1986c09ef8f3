# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything Blender is told when the extension is switched on, and forgets when it is switched off."""

from __future__ import annotations

import atexit

import bpy

from . import cli, preferences, properties, pump, translations
from .batch import properties as batch_properties
from .batch.session import SESSION
from .client.check import ServerStatus
from .client.http import ONLINE
from .ops import batch as batch_ops
from .ops import export, grasp, hand, marking, server, server_care, setup
from .ops import overlay as overlay_ops
from .ops import results as results_ops
from .overlay import display
from .results import following, thumbs
from .results import properties as result_properties
from .runtime import RUNTIME
from .server_care.care import CARE
from .ui import batch as batch_panel
from .ui import keys, marks, menus, render, shot
from .ui import overlay as overlay_panel
from .ui import results as results_panel
from .ui import server as server_panel

_CLASSES = (
    *properties.CLASSES,
    *result_properties.CLASSES,
    *marking.CLASSES,
    *setup.CLASSES,
    *hand.CLASSES,
    *grasp.CLASSES,
    *overlay_ops.CLASSES,
    *export.CLASSES,
    *results_ops.CLASSES,
    *server.CLASSES,
    *server_care.CLASSES,
    *marks.CLASSES,
    *shot.CLASSES,
    *overlay_panel.CLASSES,
    *render.CLASSES,
    *results_panel.CLASSES,
    *server_panel.CLASSES,
    *batch_properties.CLASSES,
    *batch_ops.CLASSES,
    *batch_panel.CLASSES,
    *menus.CLASSES,
    *preferences.CLASSES,
)


def register() -> None:
    ONLINE.allowed = bpy.app.online_access
    for cls in _CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.Scene.hvg3d = bpy.props.PointerProperty(type=properties.HVG3D_SceneSettings)
    translations.register()
    menus.register()
    keys.register()
    batch_properties.register()
    cli.register()
    result_properties.register()
    thumbs.register()
    bpy.app.handlers.load_post.append(display.after_load)
    bpy.app.handlers.load_post.append(following.after_load)
    atexit.register(_at_exit)
    if not bpy.app.background:
        bpy.app.timers.register(_first_look, first_interval=1.0, persistent=True)


def unregister() -> None:
    _let_go()
    RUNTIME.server = ServerStatus()  # nothing is known when it is switched on again
    ONLINE.allowed = True  # as for programs that use the client without Blender
    display.switch(False)
    bpy.app.handlers.load_post.remove(display.after_load)
    bpy.app.handlers.load_post.remove(following.after_load)
    thumbs.unregister()
    atexit.unregister(_at_exit)
    if bpy.app.timers.is_registered(_first_look):
        bpy.app.timers.unregister(_first_look)
    if bpy.app.timers.is_registered(pump.watch):
        bpy.app.timers.unregister(pump.watch)
    cli.unregister()
    keys.unregister()
    menus.unregister()
    translations.unregister()
    batch_properties.unregister()
    result_properties.unregister()
    del bpy.types.Scene.hvg3d
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)


def _first_look() -> None:
    display.after_load()
    pump.ask_server()
    following.start()
    chosen = preferences.preferences()
    if chosen is not None and chosen.start_with_blender and chosen.find_server == "HOME":
        CARE.start()
    bpy.app.timers.register(pump.watch, first_interval=1.0, persistent=True)


def _at_exit() -> None:
    if bpy.app.binary_path:
        _let_go()
    else:  # Blender as a Python module (4.5) hangs when Python ends while it still has classes of ours
        unregister()


def _let_go() -> None:
    """Threads must be told before Python ends; jobs go on on the server."""
    pump.stop()
    SESSION.let_go()
    CARE.at_exit()
    if RUNTIME.task is not None:
        RUNTIME.task.detach()
    following.stop()
