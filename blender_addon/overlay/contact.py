# SPDX-License-Identifier: GPL-3.0-or-later
"""What the overlay shows, as arrays: a frame's points and distances, colours, trails, the graph. numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

FAR = 0.03  # metres: beyond this a distance is not shown
FINGERS = ("thumb", "index", "middle", "ring", "pinky")
ENTITY_COLORS = np.array(
    [[0.30, 0.69, 1.00], [1.00, 0.62, 0.26], [0.55, 0.87, 0.42], [0.86, 0.50, 0.90], [0.95, 0.85, 0.35]], np.float32
)
# Colour-blind safe: dark blue far, over cyan, to yellow at contact; magenta red inside.
_HEAT_AT = np.array([0.0, 0.35, 0.7, 1.0])
_HEAT = np.array([[1.00, 0.90, 0.20], [0.35, 0.80, 0.65], [0.15, 0.45, 0.80], [0.14, 0.18, 0.45]])
_INSIDE = np.array([[1.0, 0.60, 0.10], [0.95, 0.10, 0.25]])


@dataclass(frozen=True)
class FrameSample:
    """One frame. points N x 3 float32, world, Blender units; distance N float32, metres, negative inside, NaN where
    nothing is measured (objects, and hands without an object); visible N bool or None if it was not asked for."""

    points: np.ndarray
    distance: np.ndarray
    visible: np.ndarray | None = None


@dataclass(frozen=True)
class Layout:
    """What the points of all frames are. entity N int; finger N int (index into FINGERS, -1 none); roles per entity."""

    entity: np.ndarray
    finger: np.ndarray
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Contact:
    """One frame in numbers, metres. gap: from the hand to the object (0 when they touch or more); depth: of the deepest
    point inside; touching: fingers within the tolerance of the surface."""

    gap: float
    depth: float
    touching: tuple[str, ...]


def contact_of(sample: FrameSample, layout: Layout, tolerance: float) -> Contact | None:
    """None where there is no hand or no object."""
    measured = np.isfinite(sample.distance)
    if not measured.any():
        return None
    least = float(sample.distance[measured].min())
    near = measured & (sample.distance < tolerance) & (layout.finger >= 0)
    fingers = np.unique(layout.finger[near])
    return Contact(max(0.0, least), max(0.0, -least), tuple(FINGERS[f] for f in fingers))


def heat(distance: np.ndarray, tolerance: float) -> np.ndarray:
    """N x 3 colours of signed distances in metres: yellow within the tolerance, bluer with distance, red if deeper."""
    away = np.clip((distance - tolerance) / (FAR - tolerance), 0.0, 1.0)
    colors = np.stack([np.interp(away, _HEAT_AT, channel) for channel in _HEAT.T], axis=1)
    deep = distance < -tolerance
    if deep.any():
        share = np.clip((-distance[deep] - tolerance) / max(2 * tolerance, 1e-6), 0.0, 1.0)[:, None]
        colors[deep] = _INSIDE[0] * (1 - share) + _INSIDE[1] * share
    return colors


def point_colors(sample: FrameSample, layout: Layout, mode: str, tolerance: float) -> np.ndarray:
    """N x 4 float32 for mode CONTACT, ENTITY or VISIBILITY."""
    colors = np.ones((len(sample.points), 4), np.float32)
    colors[:, :3] = ENTITY_COLORS[layout.entity % len(ENTITY_COLORS)]
    if mode == "VISIBILITY" and sample.visible is not None:
        colors[~sample.visible] *= np.array([0.22, 0.22, 0.22, 0.55], np.float32)
    if mode == "CONTACT":
        measured = np.isfinite(sample.distance)
        colors[measured, :3] = heat(sample.distance[measured], tolerance)
        colors[~measured] = (0.75, 0.75, 0.75, 0.4)  # so that only contact has a colour
    return colors


def trail_points(layout: Layout, count: int) -> np.ndarray:
    """Indices of about ``count`` points of every entity, spread evenly over its own."""
    chosen = []
    for entity in range(len(layout.roles)):
        own = np.flatnonzero(layout.entity == entity)
        chosen.append(own[np.linspace(0, len(own) - 1, min(count, len(own))).round().astype(int)])
    return np.concatenate(chosen) if chosen else np.zeros(0, int)


def trails(
    samples: Mapping[float, FrameSample], layout: Layout, frame: float, before_after: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Line segments of the tracks through the frames that are known: positions 2S x 3 and colours 2S x 4, float32.

    Fades out with the distance in time; what lies ahead is whiter than what is past.
    """
    frames = sorted(f for f in samples if abs(f - frame) <= before_after)
    pairs = [(a, b) for a, b in pairwise(frames) if b - a <= 1.001]
    index = trail_points(layout, count)
    if not pairs or len(index) == 0:
        return np.zeros((0, 3), np.float32), np.zeros((0, 4), np.float32)
    places = np.stack([samples[frame].points[index] for frame in frames])
    step = [frames.index(a) for a, _ in pairs]
    positions = np.stack([places[step], places[[s + 1 for s in step]]], axis=2)  # S x K x 2 x 3
    ends = np.array(pairs, np.float32)
    ahead = (ends.mean(axis=1) > frame)[:, None, None]
    base = ENTITY_COLORS[layout.entity[index] % len(ENTITY_COLORS)]
    colors = np.empty((*positions.shape[:3], 4), np.float32)
    colors[..., :3] = np.where(ahead, 0.45 * base + 0.55, 0.9 * base)[:, :, None]
    colors[..., 3] = (0.85 * (1.0 - np.abs(ends - frame) / (before_after + 1)))[:, None]
    return positions.reshape(-1, 3).astype(np.float32), colors.reshape(-1, 4)


def graph_bars(
    contacts: Mapping[float, Contact], frames: Sequence[float], tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bars for ``frames``: heights -1 .. 1 (up: distance, FAR is 1; down: penetration, four tolerances are -1), colours
    F x 4 and how many fingers touch; NaN heights where a frame is not known."""
    heights = np.full(len(frames), np.nan)
    colors = np.zeros((len(frames), 4), np.float32)
    touching = np.zeros(len(frames), int)
    for row, frame in enumerate(frames):
        contact = contacts.get(frame)
        if contact is None:
            continue
        signed = -contact.depth if contact.depth > 0 else contact.gap
        heights[row] = (
            np.clip(signed / FAR, 0.03, 1.0) if signed > 0 else np.clip(signed / (4 * tolerance), -1.0, -0.03)
        )
        colors[row] = (*heat(np.array([signed]), tolerance)[0], 0.9)
        touching[row] = len(contact.touching)
    return heights, colors, touching


def describe(contact: Contact | None, tolerance: float) -> str:
    """One line for a person."""
    if contact is None:
        return "Mark a hand and an object to see their contact"
    if contact.depth > tolerance:
        return f"{1000 * contact.depth:.1f} mm inside the object" + _who(contact)
    if contact.touching or contact.gap <= tolerance:
        inside = f", {1000 * contact.depth:.1f} mm deep" if contact.depth > 0 else ""
        return f"Touching{inside}" + _who(contact)
    if contact.gap > FAR:
        return f"More than {100 * FAR:.0f} cm away"
    return f"{1000 * contact.gap:.0f} mm away"


def _who(contact: Contact) -> str:
    return f": {', '.join(contact.touching)}" if contact.touching else ""
