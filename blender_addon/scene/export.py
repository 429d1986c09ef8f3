# SPDX-License-Identifier: GPL-3.0-or-later
"""A range of a scene's frames as a :class:`Clip`, one scene frame at a time."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from ..core import Clip, ClipBuilder, ClipError, Entity, Mesh, check_frame_count
from .cameras import extrinsics, intrinsics
from .meshes import MeshReader, expand_objects, matrix_array
from .reference import iter_reference
from .restore import preserved


@dataclass(frozen=True)
class EntityObjects:
    """Something marked in the scene: ``objects`` are names of meshes, or of armatures or empties that own meshes."""

    name: str
    role: str
    objects: tuple[str, ...]


@dataclass(frozen=True)
class ExportSettings:
    """All that an export depends on besides the scene. ``reference`` is a PNG; None renders ``frame_start``.

    Without ``visibility`` every point in the picture counts as visible; without ``masks`` they are empty.
    """

    entities: tuple[EntityObjects, ...]
    camera: str
    frame_start: int
    frame_end: int
    num_frames: int
    width: int
    height: int
    prompt: str = ""
    points_per_entity: int = 1024
    num_tracks: int = 1024
    seed: int = 0
    reference: bytes | None = None
    visibility: bool = True
    masks: bool = True


@dataclass(frozen=True)
class ExportProgress:
    """``done`` of ``total`` steps; ``phase`` is what the next step does: "frames", "reference" or "finish".

    ``waiting``: Blender does it by itself, and there is nothing to do but come again later.
    """

    done: int
    total: int
    phase: str
    waiting: bool = False


def frame_times(settings: ExportSettings) -> np.ndarray:
    """The scene frames (float64, subframes included) that the clip's frames show: evenly spread, both ends kept."""
    return np.linspace(settings.frame_start, settings.frame_end, settings.num_frames)


def clip_fps(scene_fps: float, settings: ExportSettings) -> float:
    """Frames per second at which the clip moves as fast as the scene."""
    span = settings.frame_end - settings.frame_start
    return scene_fps * (settings.num_frames - 1) / span if span > 0 and settings.num_frames > 1 else scene_fps


def iter_export(
    scene: bpy.types.Scene, settings: ExportSettings, *, in_turns: bool = False
) -> Generator[ExportProgress, None, Clip]:
    """Exports one frame of the scene per step; the clip is the generator's return value.

    With ``in_turns`` (in a window, by an operator that keeps the user's hands off the scene) the first picture, too, is
    rendered without blocking. However it ends (finished, an error, closed half-way) the scene is left as it was.
    """
    entity_of = _check(scene, settings)
    render = scene.render
    units = scene.unit_settings
    unit_scale = units.scale_length if units.system != "NONE" else 1.0
    view_layer = bpy.context.view_layer if bpy.context.scene == scene else scene.view_layers[0]
    camera = scene.objects[settings.camera]
    builder = ClipBuilder(
        [Entity(entity.name, entity.role) for entity in settings.entities],
        width=settings.width,
        height=settings.height,
        fps=clip_fps(render.fps / render.fps_base, settings),
        num_frames=settings.num_frames,
        points_per_entity=settings.points_per_entity,
        num_tracks=settings.num_tracks,
        seed=settings.seed,
        prompt=settings.prompt,
        compute_visibility=settings.visibility,
        compute_masks=settings.masks,
    )
    poses = _PoseReader(scene, settings.entities, unit_scale)
    # What is not marked can only hide what is.
    marked_only = not (settings.visibility or settings.masks)
    reader = MeshReader(entity_of, unit_scale, local=True, marked_only=marked_only)
    total = settings.num_frames + 2
    with preserved(scene):
        yield ExportProgress(0, total, "frames")
        for index, time in enumerate(frame_times(settings)):
            frame = math.floor(time + 1e-9)
            scene.frame_set(frame, subframe=min(max(float(time) - frame, 0.0), 0.999999))
            depsgraph = view_layer.depsgraph
            meshes = reader.read(depsgraph)
            if index == 0:
                _check_visible(settings, meshes)
            seen_by = camera.evaluated_get(depsgraph)
            builder.add_frame(
                frame,
                meshes,
                intrinsics(seen_by.data, settings.width, settings.height, render.pixel_aspect_x, render.pixel_aspect_y),
                extrinsics(seen_by.matrix_world, unit_scale),
                joints=poses.joints(depsgraph),
                object_poses=poses.objects(depsgraph),
            )
            yield ExportProgress(index + 1, total, "frames" if index + 1 < settings.num_frames else "reference")
        reference = settings.reference
        if reference is None:
            size = (settings.width, settings.height)
            rendering = iter_reference(scene, camera, settings.frame_start, *size, in_turns=in_turns)
            while True:
                try:
                    next(rendering)
                except StopIteration as end:
                    reference = end.value
                    break
                yield ExportProgress(total - 2, total, "reference", waiting=True)
        yield ExportProgress(total - 1, total, "finish")
        return builder.finish(reference, view_name=camera.name, provenance=_provenance(scene, settings, poses))


def export_clip(scene: bpy.types.Scene, settings: ExportSettings) -> Clip:
    """:func:`iter_export` in one go."""
    steps = iter_export(scene, settings)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _check(scene: bpy.types.Scene, settings: ExportSettings) -> dict[str, int]:
    """Refuses settings that cannot be exported; returns the entity index of every marked object's name."""
    check_frame_count(settings.num_frames)
    if settings.frame_end < settings.frame_start:
        raise ClipError(
            f"frame range: it ends at {settings.frame_end}, before it starts at {settings.frame_start}; "
            "set the end after the start"
        )
    if settings.width < 16 or settings.height < 16:
        raise ClipError(f"size: {settings.width} x {settings.height} is too small; use at least 16 x 16 pixels")
    camera = scene.objects.get(settings.camera) if settings.camera else None
    if camera is None:
        wanted = f"{settings.camera!r} is not in the scene" if settings.camera else "none is chosen"
        raise ClipError(f"camera: {wanted} ({scene.name!r}); add a camera, or choose one in the panel")
    if camera.type != "CAMERA":
        raise ClipError(f"camera: object {camera.name!r} is a {camera.type.lower()}; choose a camera")
    if not settings.entities:
        raise ClipError("entities: nothing is marked; select the hand or the object and mark it in the panel")
    entity_of: dict[str, int] = {}
    for index, entity in enumerate(settings.entities):
        for name in expand_objects(scene, entity.objects, entity.name):
            other = entity_of.setdefault(name, index)
            if other != index:
                raise ClipError(
                    f"object {name!r} is marked twice, as {settings.entities[other].name!r} and as {entity.name!r}; "
                    "remove one of the marks"
                )
    return entity_of


def _check_visible(settings: ExportSettings, meshes: list[Mesh]) -> None:
    present = {mesh.entity for mesh in meshes}
    for index, entity in enumerate(settings.entities):
        if index not in present:
            raise ClipError(
                f"{entity.name!r}: {', '.join(entity.objects) or 'it'} shows no faces in frame {settings.frame_start}; "
                "it is hidden in the viewport or in renders, or has no mesh: make it visible, or remove the mark"
            )


class _PoseReader:
    """Joints of the marked hands' armatures and poses of the marked objects, in metres."""

    def __init__(self, scene: bpy.types.Scene, entities: tuple[EntityObjects, ...], unit_scale: float):
        self.unit_scale = unit_scale
        self.armatures: list[bpy.types.Object] = []
        self.rigid: list[bpy.types.Object] = []
        for entity in entities:
            for name in entity.objects:
                obj = scene.objects[name]
                rig = obj if obj.type == "ARMATURE" else obj.find_armature()
                if entity.role.endswith("_hand") and rig is not None and rig not in self.armatures:
                    self.armatures.append(rig)
            if entity.role == "object" and entity.objects:
                self.rigid.append(scene.objects[entity.objects[0]])
        counts = [len(rig.pose.bones) for rig in self.armatures]
        self._heads = [(np.empty(3 * count, np.float32), np.empty((count, 3))) for count in counts]  # own space, world
        self.joint_names = [f"{rig.name}/{bone.name}" for rig in self.armatures for bone in rig.pose.bones]

    def joints(self, depsgraph: bpy.types.Depsgraph) -> np.ndarray | None:
        """Heads of the bones, J x 3, world space; None without armatures."""
        if not self.armatures:
            return None
        for armature, (local, heads) in zip(self.armatures, self._heads, strict=True):
            rig = armature.evaluated_get(depsgraph)
            rig.pose.bones.foreach_get("head", local)
            matrix = self.unit_scale * matrix_array(rig.matrix_world)
            np.matmul(local.reshape(-1, 3), matrix[:3, :3].T, out=heads)
            heads += matrix[:3, 3]
        return np.concatenate([heads for _, heads in self._heads], dtype=np.float32)

    def objects(self, depsgraph: bpy.types.Depsgraph) -> np.ndarray | None:
        """Object to world, K x 4 x 4, in the order of the entities with role "object"; None without any."""
        if not self.rigid:
            return None
        poses = np.array([matrix_array(obj.evaluated_get(depsgraph).matrix_world) for obj in self.rigid], np.float32)
        poses[:, :3, 3] *= self.unit_scale
        return poses


def _provenance(scene: bpy.types.Scene, settings: ExportSettings, poses: _PoseReader) -> dict:
    return {
        "made_by": "hvg3d extension for Blender",
        "blender": bpy.app.version_string,
        "file": Path(bpy.data.filepath).name,
        "scene": scene.name,
        "camera": settings.camera,
        "frame_step": (settings.frame_end - settings.frame_start) / max(settings.num_frames - 1, 1),
        "objects": {entity.name: list(entity.objects) for entity in settings.entities},
        "joints": poses.joint_names,
        "engine": scene.render.engine,
        "seed": settings.seed,
    }
