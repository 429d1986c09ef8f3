# SPDX-License-Identifier: GPL-3.0-or-later
"""Contact between two objects as trimesh measures it on the meshes that Blender evaluates."""

from __future__ import annotations

import bpy
import numpy as np
import trimesh


def evaluated(obj: bpy.types.Object) -> trimesh.Trimesh:
    """An object in the current frame, modifiers and parents applied, in the world."""
    thing = obj.evaluated_get(bpy.context.evaluated_depsgraph_get())
    mesh = thing.to_mesh()
    mesh.calc_loop_triangles()
    vertices = np.empty(len(mesh.vertices) * 3, np.float32)
    mesh.vertices.foreach_get("co", vertices)
    triangles = np.empty(len(mesh.loop_triangles) * 3, np.int32)
    mesh.loop_triangles.foreach_get("vertices", triangles)
    matrix = np.array(thing.matrix_world)
    thing.to_mesh_clear()
    world = vertices.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3]
    return trimesh.Trimesh(world, triangles.reshape(-1, 3), process=False)


def depth_in(points: np.ndarray, solid: trimesh.Trimesh) -> np.ndarray:
    """Of each point, metres inside any closed part of ``solid``; negative outside, exact within 2 cm of it."""
    depth = np.full(len(points), -np.inf)
    for part in solid.split(only_watertight=False, repair=False):
        low, high = part.bounds
        near = ((points > low - 0.02) & (points < high + 0.02)).all(axis=1)
        if near.any():
            if part.volume < 0:
                part.invert()
            depth[near] = np.maximum(depth[near], trimesh.proximity.signed_distance(part, points[near]))
    return depth


def skin_points(skin: trimesh.Trimesh) -> np.ndarray:
    """Vertices and middles of the faces."""
    return np.concatenate([skin.vertices, skin.triangles_center])


def deepest(skin: trimesh.Trimesh, solid: trimesh.Trimesh) -> float:
    """How deep either is inside the other, metres."""
    in_skin = solid.vertices
    if len(solid.faces) < 2000:  # large faces: their insides too
        in_skin = np.concatenate([in_skin, trimesh.sample.sample_surface(solid, 3000, seed=3)[0]])
    return float(max(depth_in(skin_points(skin), solid).max(), depth_in(in_skin, skin).max()))
