# SPDX-License-Identifier: GPL-3.0-or-later
"""Preferences: where the server is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import bpy

from . import __package__ as base_package
from .client.http import Address

DEFAULT_ADDRESS = "http://127.0.0.1:8765"


def default_server_home() -> str:
    """Where a server on this computer keeps its files unless told otherwise."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return str(base / "hvg3d" / "server")


def _changed(self, context) -> None:
    from .pump import ask_server

    ask_server()


class HVG3D_AddonPreferences(bpy.types.AddonPreferences):
    bl_idname = base_package

    find_server: bpy.props.EnumProperty(
        name="Server",
        items=(
            ("HOME", "On this computer", "Read address and token from the files that the server writes when it starts"),
            ("ADDRESS", "By address", "A server on this computer or another one, by its address and token"),
        ),
        default="HOME",
        update=_changed,
    )
    server_home: bpy.props.StringProperty(
        name="Folder",
        description="The server's home folder, as given with --home. Empty is the usual one",
        subtype="DIR_PATH",
        update=_changed,
    )
    address: bpy.props.StringProperty(
        name="Address", description="Address of the server, with its port", default=DEFAULT_ADDRESS, update=_changed
    )
    token: bpy.props.StringProperty(
        name="Token",
        description="Content of the file 'token' in the server's home folder",
        subtype="PASSWORD",
        update=_changed,
    )

    def draw(self, context) -> None:
        from .ui.common import draw_server

        layout = self.layout
        layout.use_property_split = True
        layout.prop(self, "find_server", expand=True)
        if self.find_server == "HOME":
            layout.prop(self, "server_home", placeholder=default_server_home())
        else:
            layout.prop(self, "address")
            layout.prop(self, "token")
        draw_server(layout)


def preferences() -> HVG3D_AddonPreferences | None:
    """The add-on's preferences; None while it is not enabled, as in scripts that use its parts."""
    addon = bpy.context.preferences.addons.get(base_package)
    return addon.preferences if addon is not None else None


def server_address() -> Address:
    chosen = preferences()
    if chosen is None:
        return Address(home=default_server_home())
    if chosen.find_server == "HOME":
        home = bpy.path.abspath(chosen.server_home) if chosen.server_home else default_server_home()
        return Address(home=home)
    return Address(url=chosen.address.strip(), token=chosen.token.strip())


CLASSES = (HVG3D_AddonPreferences,)
