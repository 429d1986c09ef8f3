# SPDX-License-Identifier: GPL-3.0-or-later
"""Evaluated meshes of a scene as arrays, in world space and metres.

What is read is what the view layer shows and a render would contain: modifiers, shape keys, armatures and geometry
nodes applied, instances included, objects that are hidden or excluded from renders left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np

from ..core import ClipError, Mesh

GEOMETRY_TYPES = frozenset({"MESH", "CURVE", "SURFACE", "META", "FONT"})


def expand_objects(scene: bpy.types.Scene, names: tuple[str, ...], owner: str) -> set[str]:
    """Names of the objects that carry the geometry of an entity.

    A mesh stands for itself. An armature stands for the meshes it deforms and its children; an empty for its children
    and for the collection it instances.
    """
    found: set[str] = set()
    for name in names:
        obj = scene.objects.get(name)
        if obj is None:
            raise ClipError(
                f"{owner!r}: object {name!r} is not in scene {scene.name!r}; was it renamed or deleted? "
                "Mark it again or remove it from the list"
            )
        if obj.type in GEOMETRY_TYPES:
            found.add(obj.name)
            continue
        found.add(obj.name)  # an instancer's instances name it as their parent
        found.update(child.name for child in obj.children_recursive if child.type in GEOMETRY_TYPES)
        if obj.type == "ARMATURE":
            found.update(other.name for other in scene.objects if _is_deformed_by(other, obj))
    return found


def _is_deformed_by(obj: bpy.types.Object, armature: bpy.types.Object) -> bool:
    return any(m.type == "ARMATURE" and m.object == armature for m in obj.modifiers)


def matrix_array(matrix) -> np.ndarray:
    """A ``mathutils.Matrix`` as float64: a third of the time that ``numpy.array`` takes over it."""
    return np.array([row[:] for row in matrix], np.float64)


@dataclass
class _Topology:
    counts: tuple[int, int, int]  # vertices, face corners, faces
    corners: np.ndarray  # vertex of every face corner: equal corners and face sizes mean equal topology
    triangles: np.ndarray  # F x 3 int32


class MeshReader:
    """Reads the meshes of a view layer, frame after frame.

    Triangulation is Blender's and the slowest part by far, so that it is kept for as long as the corners of a mesh
    stay as they were. ``entity_of`` maps object names to entity indices.

    ``local`` leaves vertices in each mesh's own space, with a matrix beside them, and writes every frame into the same
    arrays: what was read is then overwritten by the next :meth:`read`. Triangles are then those that were read first,
    for as long as the counts of vertices, corners and faces stay: who follows points on them must keep to them anyway,
    and looking at all corners of a dense mesh takes a tenth of the time that evaluating it does.
    ``marked_only`` passes over whatever ``entity_of`` does not name.
    """

    def __init__(
        self, entity_of: dict[str, int], unit_scale: float = 1.0, *, local: bool = False, marked_only: bool = False
    ):
        self.entity_of = entity_of
        self.unit_scale = unit_scale
        self.local = local
        self.marked_only = marked_only
        self._topologies: dict[tuple, _Topology] = {}
        self._buffers: dict[tuple, np.ndarray] = {}

    def read(self, depsgraph: bpy.types.Depsgraph) -> list[Mesh]:
        """One :class:`Mesh` per visible object or instance, in the stable order of the depsgraph."""
        meshes = []
        seen: dict[tuple[str, str], int] = {}
        for instance in depsgraph.object_instances:
            obj = instance.object
            # Curves, text, surfaces and metaballs come a second time as instances of their own, of type MESH.
            if obj.type != "MESH":
                continue
            original = obj.original
            name = owner = original.name
            parent = instance.parent if instance.is_instance else None
            if parent is not None:
                parent = parent.original
                owner = parent.name
            entity = self.entity_of.get(owner)
            if entity is None:
                entity = self.entity_of.get(name)
                if entity is None and self.marked_only:
                    continue
            if not instance.show_self or original.hide_render or (owner != name and parent.hide_render):
                continue
            data = obj.data
            if data is None or len(data.polygons) == 0:
                continue
            count = seen.get((owner, name), 0)
            seen[owner, name] = count + 1
            key = (owner, name, count)
            label = name if owner == name else f"{name} (instanced by {owner})"
            vertices, triangles = self._vertices(key, data), self._triangles(key, data)
            mesh = Mesh(label, entity, vertices, triangles, self._matrix(instance.matrix_world))
            meshes.append(mesh if self.local else Mesh(label, entity, mesh.world_vertices(), mesh.triangles))
        return meshes

    def _vertices(self, key: tuple, data: bpy.types.Mesh) -> np.ndarray:
        count = len(data.vertices)
        local = self._buffers.get(key) if self.local else None
        if local is None or len(local) != count:
            local = self._buffers[key] = np.empty((count, 3), np.float32)
        # The attribute is copied as a block; ``vertices.foreach_get`` asks every vertex and takes 90 times as long.
        data.attributes["position"].data.foreach_get("vector", local.ravel())
        return local

    def _matrix(self, matrix_world) -> np.ndarray:
        matrix = matrix_array(matrix_world)
        if self.unit_scale != 1.0:
            matrix[:3] *= self.unit_scale
        return matrix

    def _triangles(self, key: tuple, data: bpy.types.Mesh) -> np.ndarray:
        counts = (len(data.vertices), len(data.loops), len(data.polygons))
        known = self._topologies.get(key)
        same = known is not None and known.counts == counts
        if same and (self.local or np.array_equal(known.corners, _corners(data))):
            return known.triangles
        corners = _corners(data)
        if counts[1] == 3 * counts[2]:
            triangles = corners
        else:
            data.calc_loop_triangles()
            triangles = np.empty(len(data.loop_triangles) * 3, np.int32)
            data.loop_triangles.foreach_get("vertices", triangles)
        self._topologies[key] = _Topology(counts, corners, triangles.reshape(-1, 3))
        return self._topologies[key].triangles


def _corners(data: bpy.types.Mesh) -> np.ndarray:
    corners = np.empty(len(data.loops), np.int32)
    data.attributes[".corner_vert"].data.foreach_get("value", corners)
    return corners
