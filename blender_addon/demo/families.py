# SPDX-License-Identifier: GPL-3.0-or-later
"""Families of things to grasp, each a generator of random members; three of them are never trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .objects import (
    Distance,
    ObjectShape,
    box_distance,
    handle_distance,
    lathe,
    lathe_distance,
    rounded_box,
    tube,
)


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


def _goblet(rng: np.random.Generator) -> ObjectShape:
    """A foot, a thin stem and a bowl round which the fingers close."""
    foot, lip = rng.uniform(0.028, 0.033), rng.uniform(0.034, 0.040)
    stem, height = rng.uniform(0.055, 0.07), rng.uniform(0.135, 0.155)
    deep, wall, thin = height - stem, 0.003, 0.0055
    angle = np.radians(np.linspace(12, 90, 7))
    outer = [(lip * np.sin(a) ** 0.8, stem + deep * 0.55 * (1 - np.cos(a))) for a in angle] + [(lip, height - 0.002)]
    inner = [(max(r - wall, 0.003), z + wall * 0.5) for r, z in outer[:-1]][::-1]
    profile = [(0, 0), (foot - 0.002, 0), (foot, 0.002), (foot, 0.004), (thin + 0.003, 0.008), (thin, 0.014)]
    profile += [(thin, stem - 0.006), *outer, (lip - wall / 2, height), (lip - wall, height - 0.002), *inner]
    profile += [(0, stem + wall)]
    return _lathed("goblet", np.array(profile), (stem + deep * 0.42, stem + deep * 0.6), lip)


def _raised(distance: Distance, z: float) -> Distance:
    return lambda points: distance(points - [0.0, 0.0, z])


def _assembled(
    family: str, parts: list[tuple[np.ndarray, np.ndarray, Distance, float]], grip: tuple[float, float], width: float
) -> ObjectShape:
    """One thing of (vertices, triangles, distance, raised by z) that overlap or touch."""
    vertices, triangles, distances = [], [], []
    for points, faces, distance, z in parts:
        triangles.append(faces + sum(len(v) for v in vertices))
        vertices.append(points + [0.0, 0.0, z])
        distances.append(_raised(distance, z))
    whole = np.concatenate(vertices)
    return ObjectShape(
        family,
        whole,
        np.concatenate(triangles),
        lambda p: np.min([d(p) for d in distances], axis=0),
        float(whole[:, 2].max()),
        grip,
        width,
        flat=True,
    )


def _box_part(size: np.ndarray, radius: float, z: float) -> tuple[np.ndarray, np.ndarray, Distance, float]:
    return (*rounded_box(size, radius), box_distance(size, radius), z)


def _lathe_part(profile: np.ndarray, z: float) -> tuple[np.ndarray, np.ndarray, Distance, float]:
    return (*lathe(profile), lathe_distance(profile), z)


def _chest(rng: np.random.Generator) -> ObjectShape:
    """A box with a lid that juts out on all sides and has a knob."""
    size = np.array([rng.uniform(0.044, 0.054), rng.uniform(0.06, 0.085), rng.uniform(0.075, 0.095)])
    lid = np.array([size[0] + 0.008, size[1] + 0.010, rng.uniform(0.016, 0.022)])
    knob = rng.uniform(0.008, 0.011)
    ball = np.array(_arc((0.0, 0.0), knob, -90, 90, 13))
    ball[[0, -1], 0] = 0
    parts = [
        _box_part(size, 0.003, 0.0),
        _box_part(lid, 0.004, size[2] - 0.001),
        _lathe_part(ball, size[2] + lid[2] + knob * 0.6),
    ]
    return _assembled("chest", parts, (0.046, size[2] * 0.6), float(size[0] / 2))


def _mallet(rng: np.random.Generator) -> ObjectShape:
    """A tool that stands on its head, handle upwards."""
    head = np.array([rng.uniform(0.038, 0.046), rng.uniform(0.075, 0.1), rng.uniform(0.036, 0.046)])
    r, length = rng.uniform(0.0135, 0.0165), rng.uniform(0.13, 0.15)
    handle = [(0, 0), (r * 0.85, 0), (r, length * 0.5), (r * 1.12, length - 0.02)]
    handle += [*_arc((r * 1.12 - 0.006, length - 0.006), 0.006, 0, 90), (0, length)]
    parts = [_box_part(head, 0.005, 0.0), _lathe_part(np.array(handle), head[2] - 0.002)]
    shape = _assembled("mallet", parts, (head[2] + 0.052, head[2] + length - 0.045), r)
    return replace(shape, flat=False)


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
    "goblet": _goblet,
    "chest": _chest,
    "mallet": _mallet,
}
FAMILIES = tuple(_FAMILIES)
HELDOUT_FAMILIES = ("goblet", "chest", "mallet")
TRAIN_FAMILIES = tuple(family for family in FAMILIES if family not in HELDOUT_FAMILIES)


def make_object(family: str, rng: np.random.Generator) -> ObjectShape:
    """A random member of a family."""
    if family not in _FAMILIES:
        raise ValueError(f"object family {family!r} is unknown; use one of {', '.join(FAMILIES)}")
    return _FAMILIES[family](rng)
