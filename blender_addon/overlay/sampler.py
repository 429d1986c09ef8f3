# SPDX-License-Identifier: GPL-3.0-or-later
"""The points of a shot at one frame: the same that an export sends, with visibility and distances when asked for."""

from __future__ import annotations

import bpy
import numpy as np

from ..core import ClipError, Mesh, conditions
from ..scene.cameras import extrinsics, intrinsics
from ..scene.guess import fingers_in
from ..scene.meshes import MeshReader, expand_objects
from ..scene.restore import preserved
from ..shot import marked_entities
from .bvh import bvh_finder
from .contact import FINGERS, FrameSample, Layout
from .distance import CachedDistance, SurfaceDistance, rigid_motion


class Sampler:
    """Bound to what is marked now; made anew when that changes. Raises :class:`ClipError` if nothing can be bound.

    ``bind_frame``: where the points are drawn, the first of the shot as in an export; None binds at the present frame
    without moving to it, which a handler has to.
    """

    def __init__(self, scene: bpy.types.Scene, *, go_to_first: bool) -> None:
        shot = scene.hvg3d
        self.entities = marked_entities(scene)
        if not self.entities:
            raise ClipError("Nothing is marked: there are no points to show")
        self.key = settings_key(scene)
        self.metres = scene.unit_settings.scale_length if scene.unit_settings.system != "NONE" else 1.0
        self._size = (shot.width, shot.height)
        entity_of: dict[str, int] = {}
        for index, entity in enumerate(self.entities):
            for name in expand_objects(scene, entity.objects, entity.name):
                entity_of.setdefault(name, index)
        self._all = MeshReader(entity_of)
        self._marked = MeshReader(entity_of, marked_only=True)
        self._solids: dict[int, _Solid] = {}
        if go_to_first:
            with preserved(scene):
                scene.frame_set(shot.range_of(scene)[0])
                self._bind(scene, _depsgraph(scene))
        else:
            self._bind(scene, _depsgraph(scene))

    def sample(
        self, scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph, *, visibility: bool, contact: bool
    ) -> FrameSample:
        """Raises :class:`ClipError` when the meshes are no longer those that the points were bound to."""
        meshes = (self._all if visibility else self._marked).read(depsgraph)
        own = [[mesh for mesh in meshes if mesh.entity == index] for index in range(len(self.entities))]
        vertices = [np.concatenate([m.vertices for m in part]) if part else np.zeros((0, 3)) for part in own]
        points = np.concatenate(
            [binding.evaluate(part) for binding, part in zip(self._bindings, vertices, strict=True)]
        )
        visible = self._visible(scene, depsgraph, points, meshes) if visibility else None
        distance = np.full(len(points), np.nan, np.float32)
        if contact:
            hand = np.flatnonzero(self._is_hand)
            objects = [i for i, entity in enumerate(self.entities) if entity.role == "object"]
            if len(hand) and objects:
                asked = points[hand].astype(np.float64)
                found = [self._solid(i, vertices[i], own[i])(asked) for i in objects]
                distance[hand] = np.min(found, axis=0) * self.metres
        return FrameSample(points, distance, visible)

    def _bind(self, scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
        shot = scene.hvg3d
        meshes = self._marked.read(depsgraph)
        rng = np.random.default_rng(shot.seed)
        self._bindings, finger, owner = [], [], []
        for index, entity in enumerate(self.entities):
            own = [mesh for mesh in meshes if mesh.entity == index]
            if not own:
                raise ClipError(f"{entity.name!r} shows no faces: it is hidden, or has no mesh")
            start = np.cumsum([0] + [len(mesh.vertices) for mesh in own])
            triangles = np.concatenate([mesh.triangles + s for mesh, s in zip(own, start, strict=False)])
            # In metres, as an export binds them, so that the same seed draws the same points.
            vertices = np.concatenate([mesh.vertices for mesh in own]) * np.float32(self.metres)
            binding = conditions.bind_surface(vertices, triangles, shot.points_per_entity, rng)
            self._bindings.append(binding)
            owner.append(np.full(shot.points_per_entity, index))
            corner = binding.corners[np.arange(len(binding.corners)), binding.weights.argmax(axis=1)]
            if entity.role.endswith("_hand"):
                finger.append(_fingers(scene, depsgraph, own, start, corner))
            else:
                finger.append(np.full(len(corner), -1))
        roles = tuple(entity.role for entity in self.entities)
        self.layout = Layout(np.concatenate(owner), np.concatenate(finger), roles)
        self._is_hand = np.array([role.endswith("_hand") for role in roles])[self.layout.entity]

    def _solid(self, index: int, vertices: np.ndarray, meshes: list[Mesh]) -> _Solid:
        solid = self._solids.get(index)
        if solid is None or not solid.follow(vertices):
            start = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes])
            triangles = np.concatenate([mesh.triangles + s for mesh, s in zip(meshes, start, strict=False)])
            deforms = solid is not None and solid.vertices.shape == vertices.shape
            try:
                solid = self._solids[index] = _Solid(vertices, triangles, self.metres, cached=not deforms)
            except ValueError as error:
                raise ClipError(f"{self.entities[index].name!r}: {error}") from None
        return solid

    def _visible(self, scene, depsgraph, points: np.ndarray, meshes: list[Mesh]) -> np.ndarray:
        shot = scene.hvg3d
        camera = shot.camera_of(scene)
        if camera is None or camera.type != "CAMERA" or camera.data.type != "PERSP" or not meshes:
            return np.ones(len(points), bool)
        seen_by = camera.evaluated_get(depsgraph)
        render = scene.render
        K = intrinsics(seen_by.data, *self._size, render.pixel_aspect_x, render.pixel_aspect_y)
        start = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes])
        vertices = np.concatenate([mesh.vertices for mesh in meshes]) * np.float32(self.metres)
        triangles = np.concatenate([mesh.triangles + s for mesh, s in zip(meshes, start, strict=False)])
        return conditions.point_visibility(
            points * np.float32(self.metres),
            vertices,
            triangles,
            K,
            extrinsics(seen_by.matrix_world, self.metres),
            *self._size,
        )


class _Solid:
    """An object's surface. While it only moves, points are asked in the space of the first frame, where the answers of
    earlier frames are kept."""

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray, metres: float, *, cached: bool) -> None:
        self.vertices = vertices
        self._motion = np.eye(4)
        exact = SurfaceDistance(vertices, triangles, bvh_finder)
        self._distance = (
            CachedDistance(exact, spacing=0.004 / metres, band=0.006 / metres, margin=0.04 / metres)
            if cached
            else _NearOnly(exact, 0.04 / metres)
        )

    def follow(self, vertices: np.ndarray) -> bool:
        motion = rigid_motion(self.vertices, vertices)
        if motion is None:
            return False
        self._motion = motion
        return True

    def __call__(self, points: np.ndarray) -> np.ndarray:
        rotation, shift = self._motion[:3, :3], self._motion[:3, 3]
        return self._distance((points - shift) @ rotation)


class _NearOnly:
    """A surface that is another one in the next frame: exact near its box, the distance to the box elsewhere."""

    def __init__(self, exact: SurfaceDistance, margin: float) -> None:
        self._exact, self._margin = exact, margin

    def __call__(self, points: np.ndarray) -> np.ndarray:
        outside = np.maximum(np.maximum(self._exact.low - points, points - self._exact.high), 0.0)
        distance = np.linalg.norm(outside, axis=1)
        near = np.flatnonzero(distance < self._margin)
        distance[near] = self._exact(points[near])
        return distance


def settings_key(scene: bpy.types.Scene) -> tuple:
    """Equal as long as the same points are drawn."""
    shot = scene.hvg3d
    marks = tuple((e.role, tuple(obj.name for obj in e.members())) for e in shot.entities)
    return (scene.name, marks, shot.points_per_entity, shot.seed, shot.range_of(scene)[0])


def _depsgraph(scene: bpy.types.Scene) -> bpy.types.Depsgraph:
    layer = bpy.context.view_layer if bpy.context.scene == scene else scene.view_layers[0]
    return layer.depsgraph


def _fingers(scene, depsgraph, meshes: list[Mesh], start: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """The finger that each of the vertices ``corner`` belongs to, by the name of its heaviest vertex group; -1 none."""
    finger = np.full(len(corner), -1)
    for mesh, low, high in zip(meshes, start[:-1], start[1:], strict=True):
        obj = scene.objects.get(mesh.name)
        if obj is None or obj.type != "MESH":
            continue
        names = [fingers_in([group.name]) for group in obj.vertex_groups]
        of_group = [FINGERS.index(found[0]) if found else -1 for found in names]
        vertices = obj.evaluated_get(depsgraph).data.vertices
        for row in np.flatnonzero((corner >= low) & (corner < high)):
            groups = vertices[int(corner[row] - low)].groups
            if len(groups):
                heaviest = max(groups, key=lambda element: element.weight).group
                finger[row] = of_group[heaviest] if heaviest < len(of_group) else -1
    return finger
