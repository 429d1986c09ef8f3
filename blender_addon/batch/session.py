# SPDX-License-Identifier: GPL-3.0-or-later
"""The one batch of a running Blender, and the plan that the ticks in its panel make."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import bpy

from ..result import results_folder
from ..results.properties import made_to_compare
from .actions import scene_actions
from .job import Batch
from .plan import Plan, PlanError, Selection, read_seeds
from .report import PAGE
from .shots import shots_of_open_file

_REMEMBERED_SECONDS = 1.0  # looking through all actions takes too long for every redraw


@dataclass
class Session:
    """Plain Python, so that undo and a new file cannot touch it."""

    batch: Batch | None = None
    exporting: bool = False
    problem: str = ""
    report: Path | None = None
    _actions: tuple[float, object, set[str]] = (-1.0, None, set())
    _count: tuple[float, object, str] = (-1.0, None, "")

    @property
    def running(self) -> bool:
        return self.exporting or (self.batch is not None and self.batch.running)

    def actions(self, context) -> set[str]:
        """Names of the actions that move something marked in the chosen scenes, at most a second old."""
        scenes = chosen_scenes(context)
        key = tuple(scene.as_pointer() for scene in scenes), len(bpy.data.actions)
        if self._actions[1] != key or time.monotonic() - self._actions[0] > _REMEMBERED_SECONDS:
            found = {name for scene in scenes for name in scene_actions(scene)}
            self._actions = (time.monotonic(), key, found)
        return self._actions[2]

    def count_text(self, context) -> str:
        """Such as "24 shots", or what is wrong with the ticks, at most a second old."""
        scene = context.scene
        settings = scene.hvg3d_batch
        key = (scene.as_pointer(), settings.seed_source, settings.seeds, settings.seed_count, _ticks())
        if self._count[1] != key or time.monotonic() - self._count[0] > _REMEMBERED_SECONDS:
            try:
                number = len({shot.id for shot in shots_of_open_file(panel_plan(context).selections)})
                text = f"{number} shots" if number != 1 else "1 shot"
            except PlanError as error:
                text = str(error)
            self._count = (time.monotonic(), key, text)
        return self._count[2]

    def let_go(self) -> None:
        """Blender ends, or the add-on is switched off. What is on the server goes on there."""
        if self.batch is not None:
            self.batch.stop()
            self.batch.close(2)
            self.batch = None


SESSION = Session()


def _ticks() -> tuple:
    return tuple(
        item.name
        for item in (*bpy.data.scenes, *bpy.data.objects, *bpy.data.actions)
        if (item.hvg3d_batch.use if isinstance(item, bpy.types.Scene) else item.hvg3d_batch)
    )


def chosen_scenes(context) -> list[bpy.types.Scene]:
    """The ticked scenes; the active one where none is ticked."""
    return [one for one in bpy.data.scenes if one.hvg3d_batch.use and not made_to_compare(one)] or [context.scene]


def panel_plan(context) -> Plan:
    """Each chosen scene with its ticked cameras and actions; its own where none of them is ticked.

    Raises :class:`PlanError`.
    """
    settings = context.scene.hvg3d_batch
    listed = settings.seed_source == "LIST"
    seeds = read_seeds(settings.seeds, "seeds") if listed else None
    selections = []
    for scene in chosen_scenes(context):
        cameras = tuple(obj.name for obj in scene.objects if obj.type == "CAMERA" and obj.hvg3d_batch)
        here = set(scene_actions(scene))
        actions = tuple(action.name for action in bpy.data.actions if action.hvg3d_batch and action.name in here)
        selections.append(
            Selection(
                scenes=(scene.name,),
                cameras=cameras or None,
                actions=actions or None,
                seeds=seeds,
                seed_count=None if listed else settings.seed_count,
            )
        )
    return Plan(tuple(selections), in_flight=settings.in_flight)


def batch_folder(context) -> Path:
    folder = context.scene.hvg3d_batch.folder
    return Path(bpy.path.abspath(folder)) if folder else results_folder() / "batch"


def report_page(context) -> Path:
    """Where the report of the batch that the panel shows is, if there is one."""
    return SESSION.report or batch_folder(context) / PAGE
