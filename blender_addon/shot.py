# SPDX-License-Identifier: GPL-3.0-or-later
"""From a scene's settings to an export, and what is still missing for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import bpy

from .core import ClipError, nearest_valid_frame_counts, valid_frame_count
from .runtime import RUNTIME
from .scene.export import EntityObjects, ExportSettings
from .scene.reference import reference_from_image, reference_from_movie


@dataclass(frozen=True)
class Fix:
    """A button: an operator with its properties."""

    label: str
    operator: str
    properties: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One line of the checklist. What is not ``ok`` stops an export, or only the video if ``only_video``."""

    ok: bool
    text: str
    fixes: tuple[Fix, ...] = ()
    only_video: bool = False


def export_settings(scene: bpy.types.Scene) -> ExportSettings:
    """Raises :class:`ClipError` where the settings point at nothing (the export itself checks the rest)."""
    shot = scene.hvg3d
    first, last = shot.range_of(scene)
    camera = shot.camera_of(scene)
    entities = tuple(
        EntityObjects(
            entity.name, entity.role, tuple(ref.object.name for ref in entity.objects if ref.object is not None)
        )
        for entity in shot.entities
    )
    for entity in entities:
        if not entity.objects:
            raise ClipError(f"{entity.name!r}: its objects have been deleted; mark others, or remove it from the list")
    reference = None
    if shot.reference_source == "IMAGE":
        reference = reference_from_image(shot.reference_path, shot.width, shot.height)
    elif shot.reference_source == "MOVIE":
        reference = reference_from_movie(shot.reference_path, shot.reference_frame, shot.width, shot.height)
    return ExportSettings(
        entities=entities,
        camera=camera.name if camera is not None else "",
        frame_start=first,
        frame_end=last,
        num_frames=shot.frame_count(scene),
        width=shot.width,
        height=shot.height,
        prompt=shot.prompt,
        points_per_entity=shot.points_per_entity,
        num_tracks=min(shot.num_tracks, shot.points_per_entity * max(len(entities), 1)),
        seed=shot.seed,
        reference=reference,
    )


def checklist(scene: bpy.types.Scene) -> list[Check]:
    """Cheap enough for drawing: looks at settings only, not at meshes."""
    checks = [*_marks(scene), _camera(scene), _frames(scene), _server()]
    if scene.hvg3d.reference_source != "RENDER" and not scene.hvg3d.reference_path:
        checks.append(Check(False, "No file is chosen for the first picture"))
    return checks


def blocking(scene: bpy.types.Scene, *, video: bool) -> str:
    """The first reason why the shot cannot be exported (or rendered, with ``video``); empty if there is none."""
    return next((check.text for check in checklist(scene) if not check.ok and (video or not check.only_video)), "")


def _marks(scene: bpy.types.Scene) -> list[Check]:
    entities = scene.hvg3d.entities
    if len(entities) == 0:
        return [Check(False, "Nothing is marked: select a hand or an object, then mark it above")]
    checks = []
    for index, entity in enumerate(entities):
        present = [ref.object for ref in entity.objects if ref.object is not None]
        missing = [obj.name for obj in present if scene.objects.get(obj.name) != obj]
        remove = (Fix("Remove", "hvg3d.unmark", {"index": index}),)
        if not present:
            checks.append(Check(False, f"{entity.name}: its objects have been deleted", remove))
        elif missing:
            checks.append(Check(False, f"{entity.name}: {missing[0]} is not in this scene", remove))
    roles = [entity.role for entity in entities]
    hands = sum(role.endswith("_hand") for role in roles)
    things = len(roles) - hands
    if hands == 0 or things == 0:
        missing_kind = "hand" if hands == 0 else "object"
        checks.append(Check(True, f"No {missing_kind} is marked: the video follows only what is"))
    elif not checks:
        checks.append(Check(True, f"{_count(hands, 'hand')} and {_count(things, 'object')} marked"))
    return checks


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _camera(scene: bpy.types.Scene) -> Check:
    camera = scene.hvg3d.camera_of(scene)
    if camera is None:
        return Check(False, "No camera", (Fix("Add Camera", "hvg3d.add_camera"),))
    if scene.objects.get(camera.name) != camera:
        return Check(False, f"Camera {camera.name} is not in this scene")
    if camera.type != "CAMERA" or camera.data.type != "PERSP":
        return Check(False, f"Camera {camera.name} is not a perspective camera")
    return Check(True, f"Camera {camera.name}")


def _frames(scene: bpy.types.Scene) -> Check:
    shot = scene.hvg3d
    first, last = shot.range_of(scene)
    if last < first:
        return Check(False, f"The range ends ({last}) before it starts ({first})")
    count = shot.frame_count(scene)
    if valid_frame_count(count):
        return Check(True, f"Frames {first} to {last}: {count} in the clip")
    counts = sorted({number for number in nearest_valid_frame_counts(count) if number is not None})
    fixes = tuple(Fix(f"Use {number}", "hvg3d.use_frame_count", {"frames": number}) for number in counts)
    return Check(False, f"{count} frames: {' or '.join(map(str, counts))} can be used", fixes)


def _server() -> Check:
    server = RUNTIME.server
    again = (Fix("Try Again", "hvg3d.check_server"), Fix("Preferences", "hvg3d.show_preferences"))
    if server.state == "problem":
        return Check(False, server.message, again, only_video=True)
    return Check(True, server.message, () if server.state == "ready" else again[:1], only_video=True)
