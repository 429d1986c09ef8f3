# SPDX-License-Identifier: GPL-3.0-or-later
"""From a scene's settings to an export, and what is still missing for it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from .core import ClipError, nearest_valid_frame_counts, valid_frame_count
from .runtime import RUNTIME
from .scene.cameras import extrinsics, intrinsics
from .scene.export import EntityObjects, ExportSettings, clip_fps
from .scene.reference import reference_from_image, reference_from_movie
from .scene.surfaces import surfaces_of
from .server_care.buttons import buttons as server_buttons
from .server_care.care import CARE


@dataclass(frozen=True)
class Fix:
    """A button: an operator with its properties."""

    label: str
    operator: str
    properties: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One line of the checklist. What is not ``ok`` stops an export, or only the video if ``only_video``.

    A ``hint`` stops nothing, but is worth a look.
    """

    ok: bool
    text: str
    fixes: tuple[Fix, ...] = ()
    only_video: bool = False
    hint: bool = False


def export_settings(scene: bpy.types.Scene) -> ExportSettings:
    """Raises :class:`ClipError` where the settings point at nothing (the export itself checks the rest)."""
    shot = scene.hvg3d
    first, last = shot.range_of(scene)
    camera = shot.camera_of(scene)
    entities = marked_entities(scene)
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
        reference=reference_png(scene),
    )


def marked_entities(scene: bpy.types.Scene) -> tuple[EntityObjects, ...]:
    """What is marked, by names; raises :class:`ClipError` for a mark whose objects are gone."""
    entities = tuple(
        EntityObjects(entity.name, entity.role, tuple(obj.name for obj in entity.members()))
        for entity in scene.hvg3d.entities
    )
    for entity in entities:
        if not entity.objects:
            raise ClipError(f"{entity.name!r}: its objects have been deleted; mark others, or remove it from the list")
    return entities


def reference_png(scene: bpy.types.Scene) -> bytes | None:
    """The first picture at the clip's size; None where it is to be rendered with the export."""
    shot = scene.hvg3d
    if shot.reference_keep and reference_is_current(scene):
        return bytes(shot.reference_image.packed_file.data)
    if shot.reference_source == "IMAGE":
        return reference_from_image(shot.reference_path, shot.width, shot.height)
    if shot.reference_source == "MOVIE":
        return reference_from_movie(shot.reference_path, shot.reference_frame, shot.width, shot.height)
    return None


def reference_recipe(scene: bpy.types.Scene) -> str:
    """The settings that the first picture follows from, to see later whether they are still the same."""
    shot = scene.hvg3d
    recipe: dict[str, Any] = {"source": shot.reference_source, "size": [shot.width, shot.height]}
    if shot.reference_source == "RENDER":
        camera = shot.camera_of(scene)
        recipe |= {"camera": camera.name if camera else "", "frame": shot.range_of(scene)[0]}
    else:
        path = Path(bpy.path.abspath(shot.reference_path))
        recipe |= {"path": str(path), "changed": path.stat().st_mtime if path.is_file() else None}
        if shot.reference_source == "MOVIE":
            recipe["frame"] = shot.reference_frame
    return json.dumps(recipe)


def reference_is_current(scene: bpy.types.Scene) -> bool:
    """Whether the picture shown in the panel was made from the settings of now."""
    image = scene.hvg3d.reference_image
    made = image is not None and image.packed_file is not None
    return made and scene.hvg3d.reference_made_from == reference_recipe(scene)


def frames_text(scene: bpy.types.Scene) -> str:
    """The exact frames of the clip, such as "1, 2, 3 ... 49", and how long it plays."""
    shot = scene.hvg3d
    first, last = shot.range_of(scene)
    count = shot.frame_count(scene)
    if count < 1 or last < first:
        return ""
    step = (last - first) / (count - 1) if count > 1 else 0.0
    shown = [f"{first + step * i:.4g}" if step % 1 else str(round(first + step * i)) for i in range(min(count, 3))]
    listed = ", ".join(shown) + (f" ... {last}" if count > 3 else "")
    return f"{listed}: {count} frames, {count / fps_of(scene):.2f} s at {fps_of(scene):.4g} fps"


def fps_of(scene: bpy.types.Scene) -> float:
    """Frames a second of the clip, at which it moves as fast as the scene."""
    shot = scene.hvg3d
    first, last = shot.range_of(scene)
    spread = ExportSettings((), "", first, last, shot.frame_count(scene), shot.width, shot.height)
    return clip_fps(scene.render.fps / scene.render.fps_base, spread)


def checklist(scene: bpy.types.Scene) -> list[Check]:
    """Cheap enough for drawing: looks at settings only, not at meshes."""
    return [
        *_marks(scene),
        _camera(scene),
        *_view(scene),
        _frames(scene),
        _reference(scene),
        *_prompt(scene),
        *_model(scene),
        _server(),
    ]


def blocking(scene: bpy.types.Scene, *, video: bool) -> str:
    """The first reason why the shot cannot be exported (or rendered, with ``video``); empty if there is none."""
    return next((check.text for check in checklist(scene) if not check.ok and (video or not check.only_video)), "")


def entity_problem(scene: bpy.types.Scene, entity) -> str:
    """What is wrong with a mark; empty if nothing is."""
    present = entity.members()
    missing = [obj.name for obj in present if scene.objects.get(obj.name) != obj]
    if not present:
        return f"{entity.name}: its objects have been deleted"
    if missing:
        return f"{entity.name}: {missing[0]} is not in this scene"
    surfaces = [part for obj in present for part in surfaces_of(scene, obj)]
    if surfaces and all(part.hide_render for part in surfaces):
        return f"{entity.name}: {surfaces[0].name} is hidden in renders"
    if surfaces and all(part.hide_viewport for part in surfaces):
        return f"{entity.name}: {surfaces[0].name} is disabled in viewports"
    return ""


def _marks(scene: bpy.types.Scene) -> list[Check]:
    entities = scene.hvg3d.entities
    if len(entities) == 0:
        guess = (Fix("Guess", "hvg3d.guess_marks"),)
        return [Check(False, "Nothing is marked: select a hand or an object, then mark it above", guess)]
    checks = []
    owner: dict[bpy.types.Object, str] = {}
    for index, entity in enumerate(entities):
        problem = entity_problem(scene, entity)
        twice = next((obj for obj in entity.members() if obj in owner), None)
        remove = Fix("Remove", "hvg3d.unmark", {"index": index})
        if problem:
            show = Fix("Make Visible", "hvg3d.show_marked", {"index": index})
            checks.append(Check(False, problem, (show, remove) if "deleted" not in problem else (remove,)))
        elif twice is not None:
            checks.append(Check(False, f"{twice.name} is marked twice: {owner[twice]} and {entity.name}", (remove,)))
        owner.update((obj, entity.name) for obj in entity.members())
    roles = [entity.role for entity in entities]
    hands = sum(role.endswith("_hand") for role in roles)
    things = len(roles) - hands
    if hands == 0 or things == 0:
        missing_kind = "hand" if hands == 0 else "object"
        guess = (Fix("Guess", "hvg3d.guess_marks"),)
        checks.append(Check(True, f"No {missing_kind} is marked: the video follows only what is", guess, hint=True))
    elif not checks:
        counted = "1 hand" if hands == 1 else f"{hands} hands", "1 object" if things == 1 else f"{things} objects"
        checks.append(Check(True, f"{counted[0]} and {counted[1]} marked"))
    return checks


def _camera(scene: bpy.types.Scene) -> Check:
    camera = scene.hvg3d.camera_of(scene)
    good = [obj for obj in scene.objects if obj.type == "CAMERA" and obj.data.type == "PERSP"]
    fixes = (
        *(Fix(f"Use {obj.name}", "hvg3d.use_camera", {"name": obj.name}) for obj in good[:2] if obj != camera),
        Fix("Add Camera", "hvg3d.add_camera"),
    )
    if camera is None:
        return Check(False, "No camera", fixes)
    if scene.objects.get(camera.name) != camera:
        return Check(False, f"Camera {camera.name} is not in this scene", fixes)
    if camera.type != "CAMERA" or camera.data.type != "PERSP":
        return Check(False, f"Camera {camera.name} is not a perspective camera", fixes)
    return Check(True, f"Camera: {camera.name}")


def _view(scene: bpy.types.Scene) -> list[Check]:
    """Whether the camera sees the marked things at the current frame."""
    if not _camera(scene).ok:
        return []
    unseen = [entity.name for entity in scene.hvg3d.entities if entity.members() and not in_camera(scene, entity)]
    if not unseen:
        return []
    text = f"{', '.join(unseen)}: out of the camera's view at frame {scene.frame_current}"
    return [Check(True, text, (Fix("Aim Camera", "hvg3d.aim_camera"),), hint=True)]


def _frames(scene: bpy.types.Scene) -> Check:
    shot = scene.hvg3d
    first, last = shot.range_of(scene)
    if last < first:
        return Check(False, f"The range ends ({last}) before it starts ({first})", (_use_frames(49),))
    count = shot.frame_count(scene)
    if valid_frame_count(count):
        return Check(True, f"Frames {first} to {last}: {count} in the clip")
    counts = sorted({number for number in nearest_valid_frame_counts(count) if number is not None})
    text = f"{count} frames: {counts[0]} can be used"
    if len(counts) > 1:
        text = f"{count} frames: {counts[0]} or {counts[1]} can be used"
    return Check(False, text, tuple(_use_frames(n) for n in counts))


def _use_frames(count: int) -> Fix:
    return Fix(f"Use {count}", "hvg3d.use_frame_count", {"frames": count})


def _reference(scene: bpy.types.Scene) -> Check:
    shot = scene.hvg3d
    current = reference_is_current(scene)
    look = Fix("Update" if shot.reference_image is not None else "Look at It", "hvg3d.make_reference")
    rendered = Fix("Render Instead", "hvg3d.render_first_picture")
    if shot.reference_keep and shot.reference_image is not None:
        if current:
            return Check(True, "First picture: the one shown is kept")
        return Check(True, "First picture: made for other settings, it is made anew", (look,), hint=True)
    if shot.reference_source == "RENDER":
        first = shot.range_of(scene)[0]
        return Check(True, f"First picture: frame {first}, rendered with {_engine(scene)}", () if current else (look,))
    choose = Fix("Choose File", "hvg3d.choose_reference")
    if not shot.reference_path:
        return Check(False, "No file is chosen for the first picture", (choose, rendered))
    if not Path(bpy.path.abspath(shot.reference_path)).is_file():
        name = Path(shot.reference_path).name
        return Check(False, f"First picture: there is no file {name!r}", (choose, rendered))
    return Check(True, f"First picture: {Path(shot.reference_path).name}", () if current else (look,))


def _engine(scene: bpy.types.Scene) -> str:
    name = scene.render.engine
    return {"BLENDER_EEVEE_NEXT": "EEVEE", "BLENDER_EEVEE": "EEVEE", "BLENDER_WORKBENCH": "Workbench"}.get(
        name, name.replace("_", " ").title()
    )


def _prompt(scene: bpy.types.Scene) -> list[Check]:
    if scene.hvg3d.prompt.strip():
        return []
    return [Check(True, "No prompt: say what the video shows", (Fix("Suggest", "hvg3d.suggest_prompt"),), hint=True)]


def _model(scene: bpy.types.Scene) -> list[Check]:
    """Only what the server's own answer contradicts: before it has answered nothing is known."""
    wanted = scene.hvg3d.model
    models = RUNTIME.server.models
    if not wanted or not models:
        return []
    known = next((model for model in models if model.id == wanted), None)
    default = (Fix("Use Default", "hvg3d.use_default_model"),)
    if known is None:
        return [Check(False, f"Model {wanted}: this server does not have it", default, only_video=True)]
    if not known.installed:
        return [Check(False, f"Model {known.title}: not installed on the server", default, only_video=True)]
    return []


def _server() -> Check:
    server = RUNTIME.server
    fixes = tuple(Fix(*button) for button in server_buttons(CARE, server))
    ok = server.state not in ("problem", "starting")
    return Check(ok, server.message, fixes, only_video=True)


def in_camera(scene: bpy.types.Scene, entity) -> bool:
    """Whether some corner or the middle of a marked thing's boxes is in the picture at the current frame."""
    shot = scene.hvg3d
    camera = shot.camera_of(scene)
    render = scene.render
    K = intrinsics(camera.data, shot.width, shot.height, render.pixel_aspect_x, render.pixel_aspect_y)
    points = marked_corners(scene, [entity])
    if len(points) == 0:
        return True
    points = np.concatenate([points, points.reshape(-1, 8, 3).mean(axis=1)])
    to_camera = extrinsics(camera.matrix_world)
    seen = points @ to_camera[:3, :3].T + to_camera[:3, 3]
    depth = np.where(np.abs(seen[:, 2]) < 1e-9, 1e-9, seen[:, 2])
    x, y = K[0, 0] * seen[:, 0] / depth + K[0, 2], K[1, 1] * seen[:, 1] / depth + K[1, 2]
    return bool(((seen[:, 2] > 0) & (x > 0) & (x < shot.width) & (y > 0) & (y < shot.height)).any())


def marked_corners(scene: bpy.types.Scene, entities) -> np.ndarray:
    """Corners of the boxes of what is marked, 8 for each object with a surface, N x 3 in the world."""
    corners = [np.zeros((0, 3))]
    for entity in entities:
        for obj in entity.members():
            for part in surfaces_of(scene, obj):
                matrix = np.array(part.matrix_world)
                corners.append(np.array(part.bound_box) @ matrix[:3, :3].T + matrix[:3, 3])
    return np.concatenate(corners)
