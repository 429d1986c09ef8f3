# SPDX-License-Identifier: GPL-3.0-or-later
"""Where results are kept, and how they are shown."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

import bpy

from . import __package__ as base_package
from .client.journal import Journal
from .client.kept import KeptClips
from .client.task import Desk
from .results.history import History
from .runtime import Result

_desk: list[Desk] = []


def user_folder(name: str) -> Path:
    """A folder of the extension's own that survives its upgrades."""
    try:
        return Path(bpy.utils.extension_path_user(base_package, path=name, create=True))
    except ValueError:  # not installed as an extension: a checkout
        return Path(bpy.utils.user_resource("DATAFILES", path=os.path.join("hvg3d", name), create=True))


def desk() -> Desk:
    """What is kept of jobs, clips and results: one for this Blender, on disk for all of them."""
    if not _desk:
        folder = user_folder("desk")
        _desk.append(Desk(Journal(folder / "jobs"), KeptClips(folder / "clips"), History(folder / "history.json")))
    return _desk[0]


def blend_name() -> str:
    """Name of the open file; empty while it is not saved."""
    return Path(bpy.data.filepath).name


def results_folder() -> Path:
    """``hvg3d`` beside the .blend file; the extension's own folder while that is not saved or cannot be written to."""
    if bpy.data.filepath:
        project = Path(bpy.data.filepath).parent
        if os.access(project, os.W_OK):
            return project / "hvg3d"
    return user_folder("results")


def result_path(scene: bpy.types.Scene, seed: int, job_id: str, *, stem: str = "", folder: Path | None = None) -> Path:
    """Where a video will be; ``stem`` and ``folder`` take the place of what follows from the open file."""
    stem = stem or f"{Path(bpy.data.filepath).stem or 'untitled'}_{scene.name}"
    name = re.sub(r'[\\/:*?"<>|\x00-\x1f]+', "_", f"{stem}_{seed}_{job_id[:8]}")
    return (folder or results_folder()) / f"{name}.mp4"


def show_result(result: Result) -> bpy.types.Image:
    """Loads the video as a movie image and shows it in an Image Editor, beside the largest area if there is none.

    Raises RuntimeError where Blender cannot read it.
    """
    image = bpy.data.images.load(str(result.path), check_existing=True)
    windows = bpy.context.window_manager.windows
    if len(windows) == 0:  # background
        return image
    area = next((a for w in windows for a in w.screen.areas if a.type == "IMAGE_EDITOR"), None)
    if area is None:
        area = new_area(windows[0], "IMAGE_EDITOR")
    space = area.spaces.active
    space.image = image
    user = space.image_user
    user.frame_start = result.frame_start
    user.frame_duration = image.frame_duration
    user.use_auto_refresh = True
    user.use_cyclic = False
    area.tag_redraw()
    bpy.app.timers.register(
        functools.partial(_fit, area.as_pointer()), first_interval=0.3
    )  # once the editor has its size
    return image


def _fit(pointer: int) -> None:
    """Zoom to the whole picture, in the Image Editor that was at ``pointer`` (it may be gone by now)."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.as_pointer() == pointer and area.type == "IMAGE_EDITOR":
                region = next(region for region in area.regions if region.type == "WINDOW")
                with bpy.context.temp_override(window=window, area=area, region=region):
                    bpy.ops.image.view_all(fit_view=True)


def new_area(window: bpy.types.Window, kind: str) -> bpy.types.Area:
    """The right-hand half of the window's largest 3D viewport, or of its largest area, as an editor of ``kind``."""
    areas = list(window.screen.areas)
    largest = max(areas, key=lambda area: (area.type == "VIEW_3D", area.width * area.height))
    before = {area.as_pointer() for area in areas}
    region = next(region for region in largest.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=window, area=largest, region=region):
        bpy.ops.screen.area_split(direction="VERTICAL", factor=0.55)
    new = [area for area in window.screen.areas if area.as_pointer() not in before]
    area = new[0] if new else largest
    area.type = kind
    return area
