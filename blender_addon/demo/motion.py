# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the wrist is and how far the hand is closed, frame by frame: approach, close, then one of several actions.

World space, metres, z up. The hand stands still while it closes, so that the grasp solver's path stays free of
penetration.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

MOTIONS = (
    "lift",
    "tilt",
    "turn",
    "push",
    "towards_camera",
    "hand_passes_in_front",
    "pour",
    "turn_over",
    "push_in_depth",
)
HELDOUT_MOTIONS = ("pour", "turn_over", "push_in_depth")
TRAIN_MOTIONS = tuple(motion for motion in MOTIONS if motion not in HELDOUT_MOTIONS)


@dataclass(frozen=True)
class MotionPlan:
    """kind of MOTIONS; frames are counted from 0.

    approach_end, close_end, action_start: fractions of the clip; all 0 if the hand holds the object from the start.
    back: where the hand starts relative to the grasp, metres along (palm's normal, away from the fingertips, up).
    turn: radians the hand starts turned about the fingers' direction; travel: the action's whole translation in
    world space; angle, axis: its rotation, radians about a unit vector; begin: 0..1, how far into it the clip starts.
    """

    kind: str
    approach_end: float
    close_end: float
    action_start: float
    back: tuple[float, float, float]
    turn: float
    travel: tuple[float, float, float]
    angle: float = 0.0
    axis: tuple[float, float, float] = (0.0, 0.0, 1.0)
    begin: float = 0.0
    closing: float = 1.0


@dataclass(frozen=True)
class Motion:
    """wrist T×4×4 (hand space -> world), closing T (0 open .. 1 closed), attach: frame when the object follows."""

    wrist: np.ndarray
    closing: np.ndarray
    attach: int | None


def ease(value: np.ndarray) -> np.ndarray:
    """Smooth start and stop, 0..1 -> 0..1."""
    value = np.clip(value, 0.0, 1.0)
    return value * value * (3 - 2 * value)


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """3×3 turn about a unit axis (Rodrigues)."""
    x, y, z = np.asarray(axis, dtype=float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def plan_motion(plan: MotionPlan, grasp_wrist: np.ndarray, pivot: np.ndarray, frames: int) -> Motion:
    """grasp_wrist 4×4: the wrist when it holds the object; pivot: the point about which an action turns."""
    time = np.linspace(0.0, 1.0, frames)
    # Phases begin and end on frames: there is one in which the hand is closed and has not moved yet.
    plan = replace(
        plan,
        **{
            k: round(getattr(plan, k) * (frames - 1)) / (frames - 1)
            for k in ("approach_end", "close_end", "action_start")
        },
    )
    wrist = np.tile(grasp_wrist, (frames, 1, 1))
    if plan.kind == "hand_passes_in_front":
        sway = ease(time) - plan.begin
        wrist[:, :3, 3] += sway[:, None] * np.array(plan.travel)
        for index, value in enumerate(sway):
            wrist[index, :3, :3] = rotation(np.array([0, 0, 1.0]), plan.turn * value) @ grasp_wrist[:3, :3]
        return Motion(wrist, np.full(frames, plan.closing) * (0.3 + 0.7 * ease(time)), None)

    normal, forward = grasp_wrist[:3, 2], grasp_wrist[:3, 1]
    if plan.approach_end > 0:
        left = 1.0 - ease(time / plan.approach_end)
        # What is not along the palm's normal fades twice as fast: the hand arrives along the normal.
        offset = left[:, None] * plan.back[0] * normal - (left**2)[:, None] * plan.back[1] * forward
        offset = offset + (left**2)[:, None] * plan.back[2] * np.array([0, 0, 1.0])
        wrist[:, :3, 3] += offset
        for index, value in enumerate(left**2):
            wrist[index, :3, :3] = rotation(forward, plan.turn * value) @ grasp_wrist[:3, :3]
    if plan.close_end > plan.approach_end:
        closing = ease((time - plan.approach_end) / (plan.close_end - plan.approach_end))
    else:
        closing = np.ones(frames)
    span = max(1.0 - plan.action_start, 1e-6)
    progress = (
        ease((time - plan.action_start) / span) if plan.begin == 0 else plan.begin + (1 - plan.begin) * ease(time)
    )
    for index in np.flatnonzero(progress > 0):
        move = np.eye(4)
        move[:3, :3] = rotation(np.array(plan.axis), plan.angle * progress[index])
        move[:3, 3] = pivot - move[:3, :3] @ pivot + progress[index] * np.array(plan.travel)
        wrist[index] = move @ wrist[index]
    # The object may follow from the last frame in which the closed hand still stands at the grasp.
    still = np.flatnonzero((time >= plan.close_end - 1e-9) & (progress <= 0))
    attach = 0 if plan.begin > 0 else (int(still[0]) if len(still) else None)
    return Motion(wrist, closing * plan.closing, attach)
