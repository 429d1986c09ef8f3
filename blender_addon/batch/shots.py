# SPDX-License-Identifier: GPL-3.0-or-later
"""The shots of the open file: which there are, and the export of each."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import bpy

from ..core import Clip, ClipError
from ..results.properties import made_to_compare
from ..scene.export import ExportProgress, iter_export
from ..shot import export_settings
from .actions import acting, scene_actions
from .job import Batch
from .plan import Plan, Selection, Shot, Unit, shots_of_scenes

PHASES = {"frames": "Reading the scene", "reference": "Rendering the first picture", "finish": "Checking the clip"}


def file_index() -> dict[str, Any]:
    """What :func:`plan.shots_of_scenes` has to know of the open file."""
    return {"scenes": [_scene_index(scene) for scene in bpy.data.scenes if not made_to_compare(scene)]}


def _scene_index(scene: bpy.types.Scene) -> dict[str, Any]:
    shot = scene.hvg3d
    camera = shot.camera_of(scene)
    return {
        "name": scene.name,
        "marked": len(shot.entities) > 0,
        "camera": camera.name if camera is not None else "",
        "cameras": [obj.name for obj in scene.objects if obj.type == "CAMERA"],
        "actions": scene_actions(scene),
        "seed": shot.seed,
    }


def file_paths() -> list[str]:
    """The open file and all that it refers to on disk, as absolute paths."""
    paths = {str(path) for path in bpy.utils.blend_paths(absolute=True, packed=True)}
    for scene in bpy.data.scenes:  # Blender does not know that this text is a path
        if scene.hvg3d.reference_source != "RENDER" and scene.hvg3d.reference_path:
            paths.add(bpy.path.abspath(scene.hvg3d.reference_path))
    return [bpy.data.filepath, *sorted(paths - {bpy.data.filepath})]


def shots_of_open_file(selections: Iterable[Selection], file: str = "") -> list[Shot]:
    index = file_index()
    return [shot for selection in selections for shot in shots_of_scenes(selection, file, index)]


def iter_unit(unit: Unit, *, in_turns: bool = False) -> Generator[ExportProgress, None, tuple[Clip, dict[str, Any]]]:
    """Exports a unit of the open file, a scene frame per step; returns the clip and the scene's generation settings.

    However it ends, scene, action, camera and frame are as they were. Points are always sampled with the same seed:
    the seeds of a batch vary the video and not what it is made from, so that one export does for all of them.
    """
    scene = bpy.data.scenes.get(unit.scene)
    if scene is None:
        raise ClipError(f"scene: {unit.scene!r} is not in this file any more; start the batch again")
    from ..ops.export import generation_request

    shot = scene.hvg3d
    own = shot.camera_of(scene)
    same_picture = not unit.action and own is not None and own.name == unit.camera
    with acting(scene, unit.action) if unit.action else nullcontext():
        settings = replace(export_settings(scene), camera=unit.camera, seed=0)
        if shot.reference_source == "RENDER" and not same_picture:
            settings = replace(settings, reference=None)  # a picture that was kept shows another view
        clip = yield from iter_export(scene, settings, in_turns=in_turns)
    request = generation_request(shot).to_json("")
    return clip, {name: value for name, value in request.items() if name not in ("clip", "seed")}


def phase_text(progress: ExportProgress) -> str:
    text = PHASES[progress.phase]
    return f"{text}, frame {progress.done + 1} of {progress.total - 2}" if progress.phase == "frames" else text


def iter_batch(
    batch: Batch, selections: Iterable[Selection], *, in_turns: bool = False
) -> Generator[tuple[Unit, ExportProgress], None, None]:
    """Puts the shots of the open file into ``batch`` and exports what it needs, a scene frame per step.

    One that fails is noted, and the next one comes. Ends early where the batch has ended. Everything is exported anew,
    whatever an earlier run has left: Blender does not know for certain whether a scene has been changed since (scripts
    leave no trace). What comes out the same still counts as done.
    """
    file = Path(bpy.data.filepath).name
    units = batch.add(shots_of_open_file(selections, file))
    for unit in units:
        if not batch.running:
            return
        try:
            steps = iter_unit(unit, in_turns=in_turns)
            while True:
                try:
                    progress = next(steps)
                except StopIteration as end:
                    clip, request = end.value
                    break
                if not progress.waiting:
                    batch.exporting(unit, phase_text(progress))
                try:
                    yield unit, progress
                except GeneratorExit:
                    steps.close()
                    raise
        except (ClipError, OSError, RuntimeError) as error:
            batch.export_failed(unit, str(error).strip())
        else:
            batch.exported(unit, clip, request)


def selections_for(plan: Plan, path: str) -> tuple[Selection, ...]:
    """Those of a plan that are about the open file: without files of their own, or with this one among them."""
    name = Path(path)
    return tuple(
        selection
        for selection in plan.selections
        if selection.files is None or any(name.match(pattern) or name == Path(pattern) for pattern in selection.files)
    )
