# SPDX-License-Identifier: GPL-3.0-or-later
"""Procedural things to grasp: a clean mesh and the exact signed distance to it.

An object stands on z = 0 of its own space, its axis is z, metres. `distance` is negative inside the material (the
hollow of a mug counts as outside). Shapes are lathed profiles, rounded boxes and swept tubes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

SEGMENTS = 56
Distance = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class ObjectShape:
    """vertices V×3, triangles F×3 int, distance (…×3 -> …); grip: lowest and highest centre line of a hand."""

    family: str
    vertices: np.ndarray
    triangles: np.ndarray
    distance: Distance
    height: float
    grip: tuple[float, float]
    half_width: float
    flat: bool = False
    front: float | None = None  # azimuth of a handle, which the fingers should leave alone


# -- meshes --


def lathe(profile: np.ndarray, segments: int = SEGMENTS) -> tuple[np.ndarray, np.ndarray]:
    """Turn an open (r, z) polyline, counter-clockwise and with both ends on the axis, round the z axis."""
    angle = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    inner = profile[1:-1]
    rings = np.stack(
        [inner[:, :1] * np.cos(angle), inner[:, :1] * np.sin(angle), np.repeat(inner[:, 1:], segments, axis=1)], axis=-1
    ).reshape(-1, 3)
    vertices = np.concatenate([rings, [[0, 0, profile[0, 1]], [0, 0, profile[-1, 1]]]])
    first, last = len(rings), len(rings) + 1
    around = np.arange(segments)
    after = (around + 1) % segments
    faces = [np.stack([np.full(segments, first), after, around], axis=1)]
    for ring in range(len(inner) - 1):
        a, b, c, d = (
            ring * segments + around,
            ring * segments + after,
            (ring + 1) * segments + after,
            (ring + 1) * segments + around,
        )
        faces += [np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)]
    top = (len(inner) - 1) * segments
    faces.append(np.stack([np.full(segments, last), top + around, top + after], axis=1))
    return vertices, np.concatenate(faces)


def tube(path: np.ndarray, radius: float, side: np.ndarray, count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Sweep a circle along path P×3 that lies in the plane normal to `side`; both ends closed."""
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    normal = np.cross(side, tangent)
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    rings = path[:, None] + radius * (np.cos(angle)[:, None] * normal[:, None] + np.sin(angle)[:, None] * side)
    vertices = np.concatenate([rings.reshape(-1, 3), path[:1], path[-1:]])
    around, after = np.arange(count), (np.arange(count) + 1) % count
    faces = []
    for ring in range(len(path) - 1):
        a, b, c, d = (
            ring * count + around,
            ring * count + after,
            (ring + 1) * count + after,
            (ring + 1) * count + around,
        )
        faces += [np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)]
    start, end, last = len(path) * count, len(path) * count + 1, (len(path) - 1) * count
    faces += [
        np.stack([np.full(count, start), after, around], axis=1),
        np.stack([np.full(count, end), last + around, last + after], axis=1),
    ]
    triangles = np.concatenate(faces)
    if _volume(vertices, triangles) < 0:
        triangles = triangles[:, ::-1]
    return vertices, triangles


def rounded_box(size: np.ndarray, radius: float, flat_cells: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A box of full `size` standing on z = 0, edges rounded; a cube's grid pushed onto inner box + sphere."""
    half = np.asarray(size) / 2
    bend = radius * np.tan(np.radians([15.0, 30.0, 45.0]))
    lines = []
    for extent in half - radius:
        middle = np.linspace(-extent, extent, flat_cells + 1)
        lines.append(np.concatenate([-(extent + bend[::-1]), middle, extent + bend]))
    count = len(lines[0])
    index = np.arange(count**2).reshape(count, count)
    a, b, c, d = (part.reshape(-1) for part in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]))
    points, faces = [], []
    for axis in range(3):
        u, v = np.meshgrid(lines[(axis + 1) % 3], lines[(axis + 2) % 3], indexing="ij")
        for sign in (-1.0, 1.0):
            face = np.zeros((count, count, 3))
            face[..., axis], face[..., (axis + 1) % 3], face[..., (axis + 2) % 3] = sign * half[axis], u, v
            quads = [np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)]
            faces += [len(points) * count**2 + (q if sign > 0 else q[:, ::-1]) for q in quads]
            points.append(face.reshape(-1, 3))
    unique, inverse = np.unique(np.round(np.concatenate(points), 9), axis=0, return_inverse=True)
    core = np.clip(unique, -(half - radius), half - radius)
    offset = unique - core
    vertices = core + radius * offset / np.maximum(np.linalg.norm(offset, axis=1, keepdims=True), 1e-12)
    return vertices + [0, 0, half[2]], inverse.reshape(-1)[np.concatenate(faces)]


def _volume(vertices: np.ndarray, triangles: np.ndarray) -> float:
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)


# -- distances --


def lathe_distance(profile: np.ndarray) -> Distance:
    """Signed distance to the lathed solid: the distance to the polyline in the (r, z) half plane, sign by crossings."""
    start, end = profile[:-1], profile[1:]
    edge = end - start
    square = np.maximum((edge**2).sum(axis=1), 1e-18)

    def distance(points: np.ndarray) -> np.ndarray:
        plane = np.stack([np.hypot(points[..., 0], points[..., 1]), points[..., 2]], axis=-1)
        best = np.full(plane.shape[:-1], np.inf)
        inside = np.zeros(plane.shape[:-1], bool)
        for a, e, b, s in zip(start, edge, end, square, strict=True):
            offset = plane - a
            along = np.clip((offset @ e) / s, 0, 1)
            best = np.minimum(best, ((offset - along[..., None] * e) ** 2).sum(axis=-1))
            # Crossings of the ray towards larger r; the axis itself is never crossed.
            if a[1] != b[1]:
                spans = (a[1] > plane[..., 1]) != (b[1] > plane[..., 1])
                inside ^= spans & (plane[..., 0] < a[0] + (plane[..., 1] - a[1]) * e[0] / e[1])
        return np.where(inside, -1.0, 1.0) * np.sqrt(best)

    return distance


def box_distance(size: np.ndarray, radius: float) -> Distance:
    half = size / 2

    def distance(points: np.ndarray) -> np.ndarray:
        q = np.abs(points - [0, 0, half[2]]) - (half - radius)
        return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(axis=-1), 0) - radius

    return distance


def handle_distance(path: np.ndarray, radius: float) -> Distance:
    """Distance to a tube along path P×3 whose two flat ends lie in the plane x = path[0].x, the whole of it beyond."""

    def distance(points: np.ndarray) -> np.ndarray:
        best = np.full(points.shape[:-1], np.inf)
        for a, b in pairwise(path):
            edge = b - a
            along = np.clip(((points - a) @ edge) / (edge @ edge), 0, 1)
            best = np.minimum(best, ((points - a - along[..., None] * edge) ** 2).sum(axis=-1))
        return np.maximum(np.sqrt(best) - radius, path[0, 0] - points[..., 0])

    return distance


# -- families --


def _arc(
    centre: tuple[float, float], radius: float, start: float, stop: float, count: int = 4
) -> list[tuple[float, float]]:
    return [
        (centre[0] + radius * np.cos(a), centre[1] + radius * np.sin(a))
        for a in np.radians(np.linspace(start, stop, count))
    ]


def _cup_profile(foot: float, lip: float, height: float, wall: float) -> np.ndarray:
    """An open vessel: out along the foot, up the outside, round the lip, down the inside."""
    r = 0.006
    points = [(0.0, 0.0), *_arc((foot - r, r), r, -90, 0)]
    points += [(foot + (lip - foot) * t, height * t) for t in (0.35, 0.65)]
    points += _arc((lip - wall / 2, height - wall / 2), wall / 2, 0, 180, 5)
    points += [
        (foot - wall + (lip - foot) * 0.5, height * 0.5),
        *_arc((foot - wall - r, wall + r), r, 0, -90),
        (0.0, wall),
    ]
    return np.array(points)


def _mug(rng: np.random.Generator) -> ObjectShape:
    radius, height = rng.uniform(0.034, 0.041), rng.uniform(0.088, 0.105)
    return mug(radius, radius * rng.uniform(1.0, 1.06), height)


def mug(radius: float, lip: float, height: float) -> ObjectShape:
    """A mug with its handle towards +x."""
    wall = 0.0035
    profile = _cup_profile(radius, lip, height, wall)
    middle = (radius + lip) / 2 - wall * 0.5
    angle = np.radians(np.linspace(-90, 90, 15))
    path = np.stack(
        [middle + 0.027 * np.cos(angle) ** 0.8, np.zeros_like(angle), height * 0.5 + height * 0.31 * np.sin(angle)],
        axis=1,
    )
    body, body_faces = lathe(profile)
    handle, handle_faces = tube(path, 0.0052, np.array([0.0, 1.0, 0.0]))
    on_body, on_handle = lathe_distance(profile), handle_distance(path, 0.0052)
    return ObjectShape(
        "mug",
        np.concatenate([body, handle]),
        np.concatenate([body_faces, handle_faces + len(body)]),
        lambda p: np.minimum(on_body(p), on_handle(p)),
        height,
        (0.046, height * 0.6),
        max(radius, lip),
        front=0.0,
    )


def _lathed(
    family: str, profile: np.ndarray, grip: tuple[float, float], half_width: float, flat: bool = False
) -> ObjectShape:
    vertices, triangles = lathe(profile)
    return ObjectShape(
        family, vertices, triangles, lathe_distance(profile), float(profile[:, 1].max()), grip, half_width, flat
    )


def _tumbler(rng: np.random.Generator) -> ObjectShape:
    foot, height = rng.uniform(0.027, 0.033), rng.uniform(0.095, 0.13)
    lip = foot * rng.uniform(1.1, 1.25)
    return _lathed("cup", _cup_profile(foot, lip, height, 0.003), (0.048, height * 0.6), lip)


def _can(rng: np.random.Generator) -> ObjectShape:
    r, h = rng.uniform(0.03, 0.037), rng.uniform(0.1, 0.13)
    profile = [(0, 0), *_arc((r - 0.006, 0.004), 0.004, -90, 0), (r, 0.009), (r, h - 0.012), (r - 0.005, h - 0.004)]
    profile += [*_arc((r - 0.007, h - 0.002), 0.002, 0, 180), (r - 0.009, h - 0.006), (0, h - 0.006)]
    return _lathed("can", np.array(profile), (0.05, h * 0.55), r)


def _jar(rng: np.random.Generator) -> ObjectShape:
    r, h = rng.uniform(0.034, 0.041), rng.uniform(0.085, 0.11)
    body = h * 0.78
    profile = [
        (0, 0),
        *_arc((r - 0.008, 0.008), 0.008, -90, 0),
        *_arc((r - 0.010, body - 0.010), 0.010, 0, 80),
        (r * 0.78, body),
    ]
    profile += [
        (r * 0.78, body + 0.002),
        (r * 0.88, body + 0.002),
        *_arc((r * 0.88 - 0.003, h - 0.003), 0.003, 0, 90),
        (0, h),
    ]
    return _lathed("jar", np.array(profile), (0.044, h * 0.5), r)


def _bottle(rng: np.random.Generator) -> ObjectShape:
    r, h = rng.uniform(0.028, 0.036), rng.uniform(0.16, 0.2)
    neck, shoulder = rng.uniform(0.011, 0.014), h * rng.uniform(0.55, 0.65)
    profile = [(0, 0), *_arc((r - 0.006, 0.006), 0.006, -90, 0), (r, shoulder)]
    for t in (0.25, 0.5, 0.75, 1.0):
        blend = (1 - np.cos(np.pi * t)) / 2
        profile.append((r + (neck - r) * blend, shoulder + (h * 0.82 - shoulder) * t))
    profile += [(neck, h * 0.9), (neck + 0.003, h * 0.905), *_arc((neck + 0.001, h - 0.002), 0.002, 0, 90), (0, h)]
    return _lathed("bottle", np.array(profile), (0.05, shoulder * 0.75), r)


def _bowl(rng: np.random.Generator) -> ObjectShape:
    lip, h = rng.uniform(0.052, 0.064), rng.uniform(0.045, 0.058)
    foot, wall = lip * 0.45, 0.004
    angle = np.radians(np.linspace(8, 90, 7))
    outer = [(foot + (lip - foot) * np.sin(a), 0.006 + (h - 0.006) * (1 - np.cos(a))) for a in angle]
    inner = [(max(r - wall, 0.004), z + (wall if i else wall * 1.4)) for i, (r, z) in enumerate(outer)][:-1][::-1]
    profile = [
        (0, 0),
        (foot - 0.002, 0),
        (foot, 0.002),
        *outer[:-1],
        *_arc((lip - wall / 2, h), wall / 2, 0, 180, 5),
        *inner,
        (0, inner[-1][1] - 0.001),
    ]
    return _lathed("bowl", np.array(profile), (0.035, 0.04), lip)


def _ball(rng: np.random.Generator) -> ObjectShape:
    r = rng.uniform(0.031, 0.041)
    profile = np.array(_arc((0.0, r), r, -90, 90, 25))
    profile[[0, -1], 0] = 0
    return _lathed("ball", profile, (r, r), r)


def _boxed(family: str, size: np.ndarray, radius: float, grip: tuple[float, float]) -> ObjectShape:
    vertices, triangles = rounded_box(size, radius)
    return ObjectShape(
        family, vertices, triangles, box_distance(size, radius), float(size[2]), grip, float(size[0] / 2), flat=True
    )


def _box(rng: np.random.Generator) -> ObjectShape:
    size = np.array([rng.uniform(0.042, 0.06), rng.uniform(0.05, 0.075), rng.uniform(0.09, 0.14)])
    return _boxed("box", size, 0.004, (0.048, size[2] * 0.55))


def _book(rng: np.random.Generator) -> ObjectShape:
    size = np.array([rng.uniform(0.022, 0.035), rng.uniform(0.1, 0.125), rng.uniform(0.13, 0.16)])
    return _boxed("book", size, 0.002, (0.06, size[2] * 0.6))


_FAMILIES: dict[str, Callable[[np.random.Generator], ObjectShape]] = {
    "mug": _mug,
    "cup": _tumbler,
    "can": _can,
    "jar": _jar,
    "bottle": _bottle,
    "bowl": _bowl,
    "ball": _ball,
    "box": _box,
    "book": _book,
}
FAMILIES = tuple(_FAMILIES)


def make_object(family: str, rng: np.random.Generator) -> ObjectShape:
    """A random member of a family."""
    if family not in _FAMILIES:
        raise ValueError(f"object family {family!r} is unknown; use one of {', '.join(FAMILIES)}")
    return _FAMILIES[family](rng)
