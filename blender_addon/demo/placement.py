# SPDX-License-Identifier: GPL-3.0-or-later
"""Where to put a hand round an object of any shape: tries wrists round its axes and takes the best grasp.

All in the hand's own metres. A power grasp lays the object's axis across the palm, so that every try is an axis, a
direction from which the palm comes, and a place along the axis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .grasp import Grasp, grasp, open_hand
from .hand import HandModel
from .objects import Distance

TRIES = 14
_GOOD = 6.5  # a score that is not searched beyond
_HALF_HAND = 0.045  # half the breadth of a palm


@dataclass(frozen=True)
class Try:
    """A wrist 4 x 4 to begin from, how far away along its palm's normal (metres), and what speaks against it."""

    wrist: np.ndarray
    reach: float
    burden: float


def axis_wrist(
    side: str, axis: np.ndarray, out: np.ndarray, target: np.ndarray, ahead: float, tilt: float = 0.0
) -> np.ndarray:
    """Wrist 4 x 4 of a hand whose thumb points along ``axis``, palm facing ``target`` from the direction ``out``.

    ``out`` is a unit vector normal to ``axis``; ``ahead``: how far target lies in front of the wrist along the fingers;
    tilt: a turn about the palm's normal, radians, that brings the fingers towards the axis.
    """
    thumb = 1.0 if side == "left" else -1.0
    x_axis = thumb * axis
    y_axis = np.cross(out, x_axis)
    c, s = np.cos(thumb * tilt), np.sin(thumb * tilt)
    x_axis, y_axis = c * x_axis + s * y_axis, c * y_axis - s * x_axis
    wrist = np.eye(4)
    wrist[:3, :3] = np.stack([x_axis, y_axis, out], axis=1)
    wrist[:3, 3] = target - ahead * y_axis + 0.05 * out
    return wrist


def principal_axes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middle (3), axes (rows of 3 x 3, the longest first) and half extents (3) of the box round points N x 3."""
    middle = points.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov((points - middle).T))
    along = (points - middle) @ axes
    low, high = along.min(axis=0), along.max(axis=0)
    half = (high - low) / 2
    order = np.argsort(-half)
    return middle + axes @ ((low + high) / 2), axes.T[order], half[order]


def tries(side: str, surface: np.ndarray, present: np.ndarray) -> list[Try]:
    """Wrists worth trying for an object with points ``surface`` N x 3, the least burdened first.

    present: the wrist 4 x 4 as it is; grasps from its side and with its turn are preferred.
    """
    middle, axes, half = principal_axes(surface)
    bottom = float(surface[:, 2].min())
    up = np.array([0.0, 0.0, 1.0])
    directions = [up, *(axis for axis in axes if abs(axis @ up) < np.cos(np.radians(12.0)))]
    longest = float(half[0])
    found = []
    for axis in directions:
        centred = (surface - middle) @ axis
        length = float(np.ptp(centred)) / 2
        first = np.cross(axis, up if abs(axis @ up) < 0.9 else np.array([1.0, 0.0, 0.0]))
        first /= np.linalg.norm(first)
        second = np.cross(axis, first)
        for turn in np.radians(np.arange(0.0, 360.0, 30.0)):
            out = np.cos(turn) * first + np.sin(turn) * second
            across = np.cross(axis, out)
            for along in _places(length, float(centred.min()), axis, middle, bottom):
                slab = surface[np.abs(centred - along) < _HALF_HAND]
                if len(slab) == 0:
                    continue
                width, depth = (float(np.ptp(slab @ d)) / 2 for d in (across, out))
                target = middle + along * axis
                target = target + ((slab @ across).max() + (slab @ across).min() - 2 * target @ across) / 2 * across
                front = float((slab @ out).max() - target @ out)
                # What fits between thumb and fingers is wrapped; what is wider than a hand's span cannot be.
                burden = 30.0 * max(0.0, width - 0.042) + 6.0 * max(0.0, front - 0.06)
                burden += 0.6 * (1.0 - length / longest)
                burden += 1.5 * max(0.0, -float(out @ up)) + 0.4 * max(0.0, -float(out @ up) - 0.3)
                for sense in (1.0, -1.0):
                    wrist = axis_wrist(side, sense * axis, out, target, 0.088 + 0.25 * max(0.0, 0.035 - width), 0.12)
                    elbow = wrist[:3, 3] - 0.2 * wrist[:3, 1]
                    below = max(0.0, bottom - float(elbow[2])) + max(0.0, bottom + 0.03 - float(wrist[2, 3]))
                    found.append(
                        Try(
                            wrist,
                            depth + front + 0.12,
                            burden + 12.0 * below + _turned(present, wrist) + 1.5 * _aside(present, wrist, middle),
                        )
                    )
    return sorted(found, key=lambda item: item.burden)


def _places(length: float, low: float, axis: np.ndarray, middle: np.ndarray, bottom: float) -> list[float]:
    """Places along an axis for the palm's middle: the object's, and to both sides of it if it is long."""
    places = [0.0]
    if length > 0.07:
        places += [-0.4 * length, 0.4 * length]
    upright = float(axis[2])
    if abs(upright) > 0.8:  # a hand does not fit under the lowest part of what stands
        places = [max(place, low + _HALF_HAND) if upright > 0 else place for place in places]
    return sorted(set(places))


def _turned(present: np.ndarray, wrist: np.ndarray) -> float:
    """0 for the same orientation to 1 for the opposite one."""
    cosine = (np.trace(present[:3, :3].T @ wrist[:3, :3]) - 1) / 2
    return float(np.arccos(np.clip(cosine, -1.0, 1.0)) / np.pi)


def _aside(present: np.ndarray, wrist: np.ndarray, middle: np.ndarray) -> float:
    """0 if the hand is on this side of the object already, to 1 on the other one."""
    now, then = present[:3, 3] - middle, wrist[:3, 3] - middle
    length = np.linalg.norm(now) * np.linalg.norm(then)
    return 0.0 if length < 1e-9 else float(1 - now @ then / length) / 2


def thinned(model: HandModel, step: int) -> HandModel:
    """Every ``step``-th vertex only, without faces: for rough questions."""
    return replace(
        model,
        vertices=model.vertices[::step],
        triangles=np.zeros((0, 3), int),
        sleeve=np.zeros(0, bool),
        weights=model.weights[::step],
        forearm=model.forearm[::step],
        _derived={},
    )


def refined(model: HandModel) -> HandModel:
    """With points in the middle of the hand's edges and faces, so that no edge of the object slips in between."""
    faces = model.triangles[~model.forearm[model.triangles].any(axis=1)]
    edges = np.unique(np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0)
    more = [*(part.mean(axis=1) for part in (model.vertices[edges], model.vertices[faces]))]
    weights = [*(part.mean(axis=1) for part in (model.weights[edges], model.weights[faces]))]
    return replace(
        model,
        vertices=np.concatenate([model.vertices, *more]),
        weights=np.concatenate([model.weights, *weights]),
        forearm=np.concatenate([model.forearm, np.zeros(len(edges) + len(faces), bool)]),
        _derived={},
    )


def score(held: Grasp, lowest: float) -> float:
    """Higher is better. lowest: how far the hand reaches below what the object stands on, metres."""
    fingers = len(held.touching) + (1.0 if "thumb" in held.touching else 0.0)
    return fingers + 1.5 * held.opposition - 400.0 * max(0.0, held.penetration - 0.0015) - 40.0 * max(0.0, lowest)


def find_grasp(
    model: HandModel, surface: np.ndarray, rough: Distance, exact: Distance, present: np.ndarray
) -> Grasp | None:
    """The best grasp that a limited search finds, solved exactly; None if the hand reaches nothing.

    surface N x 3: points on the object; rough and exact: its signed distance, quick and right; present: wrist 4 x 4.
    """
    few, start = thinned(model, 3), open_hand(model.side)
    bottom = float(surface[:, 2].min())
    found: list[tuple[float, Try]] = []
    seen: list[np.ndarray] = []
    for item in tries(model.side, surface, present):
        if any(np.abs(item.wrist - other).max() < 0.02 for other in seen):
            continue
        seen.append(item.wrist)
        held = grasp(few, item.wrist, start, rough, reach=item.reach)
        if held is not None:
            low = bottom - float(few.pose(held.path[-1], held.wrist)[:, 2].min())
            found.append((score(held, low) - item.burden, item))
        if len(seen) >= TRIES or (found and found[-1][0] >= _GOOD):
            break
    best = None
    for _, item in sorted(found, key=lambda pair: -pair[0])[:4]:
        held = grasp(refined(model), item.wrist, start, exact, reach=item.reach)
        if held is None:
            continue
        if best is None or score(held, 0.0) > score(best, 0.0):
            best = held
        if len(best.touching) >= 4 and "thumb" in best.touching and best.penetration < 0.002:
            break
    return best
