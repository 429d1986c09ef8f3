# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's own search for the nearest triangle, for :class:`.distance.SurfaceDistance`."""

from __future__ import annotations

import numpy as np
from mathutils.bvhtree import BVHTree

from .distance import Nearest


def bvh_finder(corner: np.ndarray) -> Nearest:
    """Nearest of the triangles with corners F x 3 x 3."""
    # The tree keeps float32: it is centred so that its coordinates are as exact as can be.
    middle = corner.reshape(-1, 3).mean(axis=0)
    vertices = (corner.reshape(-1, 3) - middle).tolist()
    polygons = np.arange(len(vertices)).reshape(-1, 3).tolist()
    find = BVHTree.FromPolygons(vertices, polygons, all_triangles=True).find_nearest

    def nearest(points: np.ndarray) -> np.ndarray:
        return np.array([find(point)[2] for point in (points - middle).tolist()], np.int64)

    return nearest
