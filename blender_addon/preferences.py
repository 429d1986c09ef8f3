# SPDX-License-Identifier: GPL-3.0-or-later
"""Preferences: where the server is, how it is started, what it is installed from."""

from __future__ import annotations

import os
import shlex
import sys
import tomllib
from functools import cache
from pathlib import Path

import bpy

from . import __package__ as base_package
from .client.http import Address
from .server_care.care import CareSettings
from .server_care.environment import Managed
from .server_care.failures import CareError
from .server_care.text import Unusable, bare, is_loopback, tidy_address, tidy_path

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
        description="Where the server is that makes the videos",
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

    server_program: bpy.props.StringProperty(
        name="Program",
        description="What to start: a Python that has the server, the command hvg3d, an environment or a checkout of "
        "HVG-3D. Empty is the installed server, else one that is found",
        subtype="FILE_PATH",
        update=_changed,
    )
    server_port: bpy.props.IntProperty(
        name="Port",
        description="Port of a server that is started from here. 0 is any free one, which is found by itself",
        min=0,
        max=65535,
        update=_changed,
    )
    server_options: bpy.props.StringProperty(
        name="Options",
        description="More options for the server, as on its command line: see python -m server --help",
        update=_changed,
    )
    keep_running: bpy.props.BoolProperty(
        name="Keep Running",
        description="The server goes on when Blender ends, and is found again. Otherwise it ends with Blender, "
        "also when Blender crashes",
        update=_changed,
    )
    start_with_blender: bpy.props.BoolProperty(
        name="Start with Blender",
        description="Start the server on this computer whenever Blender is opened, unless one runs",
    )
    install_wheel: bpy.props.StringProperty(
        name="Wheel",
        description="The file hvg3d-*.whl of a release, or the folder it is in. Empty is the one that belongs to the "
        "add-on, else the package index is asked",
        subtype="FILE_PATH",
    )
    install_torch: bpy.props.EnumProperty(
        name="PyTorch",
        description="Which build of PyTorch is installed with the server",
        items=(
            ("AUTO", "What Fits", "The build for NVIDIA graphics cards where there is one, else the one for the CPU"),
            ("CPU", "CPU", "Small, and works everywhere; only the nano model is quick with it"),
            ("GPU", "NVIDIA GPU", "For graphics cards of NVIDIA; several gigabytes"),
        ),
    )
    install_python: bpy.props.StringProperty(
        name="Python",
        description="A Python 3.11 to 3.13 to make the environment with. It is not changed",
        subtype="FILE_PATH",
    )
    install_index: bpy.props.StringProperty(
        name="Another Index", description="Address of another package index, such as one with builds of PyTorch"
    )
    install_packages: bpy.props.StringProperty(
        name="Package Folder",
        description="A folder with all packages as wheels, for a computer that is not online",
        subtype="DIR_PATH",
    )

    def draw(self, context) -> None:
        from .ui.keys import draw_keys
        from .ui.server import draw_preferences

        draw_preferences(self.layout)
        draw_keys(self.layout)


def preferences() -> HVG3D_AddonPreferences | None:
    """The add-on's preferences; None while it is not enabled, as in scripts that use its parts."""
    addon = bpy.context.preferences.addons.get(base_package)
    return addon.preferences if addon is not None else None


def server_address() -> Address:
    return care_settings().address


def care_settings() -> CareSettings:
    """The preferences as the rest of the add-on can use them, with what is wrong with them."""
    chosen = preferences()
    managed = Managed(managed_folder())
    package = Path(__file__).resolve().parent
    if chosen is None:
        home = default_server_home()
        return CareSettings(Address(home=home), True, Path(home), managed, version=addon_version(), package=package)
    beside = os.path.dirname(bpy.data.filepath)
    online, problem, near = bpy.app.online_access, None, True
    if chosen.find_server == "ADDRESS":
        try:
            url = tidy_address(chosen.address)
            near = is_loopback(url)
        except Unusable as error:
            url, problem = bare(chosen.address), _unusable("address", error)
        address = Address(url=url, token=bare(chosen.token))
        return CareSettings(
            address, False, None, managed, near=near, online=online, version=addon_version(), problem=problem
        )
    home, program, options = Path(default_server_home()), None, ()
    try:
        home = tidy_path(chosen.server_home, beside) or home
        program = tidy_path(chosen.server_program, beside)
        options = split_options(chosen.server_options)
    except Unusable as error:
        problem = _unusable("path", error)
    return CareSettings(
        Address(home=str(home)),
        True,
        home,
        managed,
        program=program,
        port=chosen.server_port,
        keep=chosen.keep_running,
        options=options,
        online=online,
        version=addon_version(),
        package=package,
        problem=problem,
    )


def _unusable(code: str, error: Unusable) -> CareError:
    message, _, remedy = str(error).partition(": ")
    return CareError(code, message, remedy[:1].upper() + remedy[1:])


def split_options(text: str) -> tuple[str, ...]:
    """As a shell would; on Windows backslashes are part of paths. Raises Unusable."""
    try:
        parts = shlex.split(text, posix=sys.platform != "win32")
    except ValueError as error:
        raise Unusable(f"The server's options {text!r} cannot be read ({error}): close the quotes") from None
    return tuple(bare(part) for part in parts)


@cache
def addon_version() -> str:
    manifest = Path(__file__).with_name("blender_manifest.toml")
    return str(tomllib.loads(manifest.read_text("utf-8"))["version"])


def managed_folder() -> Path:
    """The folder of a server that the add-on installs: its own, which Blender removes with the add-on."""
    try:
        return Path(bpy.utils.extension_path_user(base_package, path="server"))
    except ValueError:  # not installed as an extension, as in a checkout
        return Path(bpy.utils.user_resource("DATAFILES", path=os.path.join("hvg3d", "server")))


CLASSES = (HVG3D_AddonPreferences,)
