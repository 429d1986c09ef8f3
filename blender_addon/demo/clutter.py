# SPDX-License-Identifier: GPL-3.0-or-later
"""Things that stand about on the table and are not touched."""

from __future__ import annotations

import numpy as np

from .build import Clutter, Look
from .families import TRAIN_FAMILIES, make_object
from .looks import OBJECT_COLORS, OBJECT_PATTERNS, linear
from .materials import Surface

CLUTTERED_SHARE = 0.45
MOST = 4
_CLEARANCE = 0.02  # metres between a thing and whatever hand and object pass through
_DRAWS = 12


def random_clutter(
    rng: np.random.Generator, camera_azimuth: float, look: Look, swept: np.ndarray
) -> tuple[Clutter, ...]:
    """None in most scenes, else up to MOST things. swept N×3: the places of hand and object through the whole clip.

    They stand beside and behind, seen from the camera, so that they hide nothing, and clear of the wall. Their families
    are those of the training scenes.
    """
    if rng.random() >= CLUTTERED_SHARE:
        return ()
    found: list[tuple[np.ndarray, float, Clutter]] = []
    for _ in range(int(rng.integers(1, MOST + 1))):
        shape = make_object(str(rng.choice(TRAIN_FAMILIES)), rng)
        radius = float(np.hypot(shape.vertices[:, 0], shape.vertices[:, 1]).max())
        for _ in range(_DRAWS):
            # 180 degrees is straight behind.
            azimuth = camera_azimuth + np.radians(rng.uniform(70, 290))
            spot = rng.uniform(0.1, 0.3) * np.array([np.cos(azimuth), np.sin(azimuth)])
            behind = -spot @ [np.cos(camera_azimuth), np.sin(camera_azimuth)]
            low = swept[swept[:, 2] < shape.height + _CLEARANCE]
            free = len(low) == 0 or np.linalg.norm(low[:, :2] - spot, axis=1).min() > radius + _CLEARANCE
            apart = all(np.linalg.norm(spot - other) > radius + size + 0.01 for other, size, _ in found)
            if free and apart and behind + radius < look.wall_distance - 0.02:
                found.append((spot, radius, Clutter(shape, _standing(spot, rng.uniform(-np.pi, np.pi)), _surface(rng))))
                break
    return tuple(clutter for _, _, clutter in found)


def _standing(spot: np.ndarray, turn: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    pose[:2, 3] = spot
    return pose


def _surface(rng: np.random.Generator) -> Surface:
    hue, saturation, value = OBJECT_COLORS[str(rng.choice(list(OBJECT_COLORS)))]
    color, second = linear(hue, saturation, value), linear(rng.random(), rng.uniform(0.1, 0.7), rng.uniform(0.2, 0.9))
    return Surface(color, second, str(rng.choice(OBJECT_PATTERNS)), float(rng.uniform(40, 90)), 0.05, 0.3)
