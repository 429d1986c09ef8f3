# SPDX-License-Identifier: Apache-2.0
"""A clip as the network reads it: one view, the network's frames and size, normalised, a fixed number of points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .cameras import in_view, invert_rigid, project, to_camera
from .clip import ROLES, Clip, ClipError
from .frames import check_frame_count, resample_indices
from .sampling import balanced_quota
from .tracking_video import tracking_video
from .validate import check_size


@dataclass(frozen=True)
class NetworkInputs:
    """What the network reads of one clip and one view. T frames, N points, H x W pixels."""

    points: np.ndarray  # T x N x 3 float32: axes of the first frame's camera, centred and scaled by frame 0
    point_entity: np.ndarray  # N uint8: index of the entity's role in ROLES, plus 1; 0 where a point is padding
    point_valid: np.ndarray  # T x N bool
    intrinsics: np.ndarray  # T x 3 x 3 float32: to image coordinates in [0, 1] squared
    world_to_camera: np.ndarray  # T x 4 x 4 float32: from the axes of `points` to the camera of frame t, same scale
    tracking_video: np.ndarray  # T x H x W x 3 uint8
    masks: np.ndarray  # T x H x W uint8


@dataclass(frozen=True)
class Fit:
    """An image scaled to cover another size, with what protrudes cut off evenly at both sides."""

    scale: float  # pixels of the target for one of the source
    offset_x: float  # target pixels cut off at the left
    offset_y: float
    width: int
    height: int

    def box(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of what is kept, in source pixels, as ``PIL.Image.resize(box=...)`` wants it."""
        left, top = self.offset_x / self.scale, self.offset_y / self.scale
        return left, top, left + self.width / self.scale, top + self.height / self.scale

    def intrinsics(self, K: np.ndarray) -> np.ndarray:
        """K (..., 3, 3) float64 for the fitted image."""
        fitted = np.array(K, np.float64)
        fitted[..., :2, :] *= self.scale
        fitted[..., 0, 2] -= self.offset_x
        fitted[..., 1, 2] -= self.offset_y
        return fitted

    def nearest(self, images: np.ndarray) -> np.ndarray:
        """T x height x width, each pixel taken from where its centre lies in ``images`` (T x H x W): for labels."""
        rows = ((np.arange(self.height) + 0.5 + self.offset_y) / self.scale).astype(np.int64)
        columns = ((np.arange(self.width) + 0.5 + self.offset_x) / self.scale).astype(np.int64)
        rows, columns = np.minimum(rows, images.shape[1] - 1), np.minimum(columns, images.shape[2] - 1)
        return images[:, rows[:, None], columns]


def fit_size(source_width: int, source_height: int, width: int | None, height: int | None) -> Fit:
    """How a source of one size fills another; a side that is None follows from the other and the aspect."""
    if width is None:
        width = source_width if height is None else max(1, round(source_width * height / source_height))
    if height is None:
        height = max(1, round(source_height * width / source_width))
    check_size(width, height)
    scale = max(width / source_width, height / source_height)
    offset_x, offset_y = 0.5 * (source_width * scale - width), 0.5 * (source_height * scale - height)
    return Fit(scale, max(offset_x, 0.0), max(offset_y, 0.0), width, height)


def network_inputs(
    clip: Clip,
    *,
    view: int = 0,
    num_frames: int | None = None,
    width: int | None = None,
    height: int | None = None,
    num_points: int | None = None,
    visible_only: bool = False,
    seed: int = 0,
    frames: np.ndarray | None = None,
) -> NetworkInputs:
    """Prepare ``clip`` as seen by its ``view``-th camera.

    ``num_frames`` picks frames evenly (the count must be one the video VAE takes), or ``frames`` (T indices) says which
    they are; ``width`` and ``height`` scale the image to cover that size and crop its centre, and :func:`fit_size`
    tells the same for the reference image.
    ``num_points`` draws (seeded, evenly over the entities) or pads; None keeps them all. ``visible_only`` makes
    ``point_valid`` what this camera sees, as a depth camera would, and draws tracked points among those that it sees
    at some time; otherwise all points count.

    Points are normalised by one centre and one scale for the clip: the mean of the points of frame 0, in the
    axes of the view's first camera, and their largest distance from it.
    """
    if not 0 <= view < len(clip.views):
        raise ClipError(f"view: {view}; the clip has views 0 to {len(clip.views) - 1}")
    if num_points is not None and num_points < 1:
        raise ClipError(f"num_points: {num_points}; at least 1 is needed")
    if frames is None:
        target = clip.num_frames if num_frames is None else num_frames
        check_frame_count(target)
        time = resample_indices(clip.num_frames, target)
    else:
        time = np.asarray(frames)
        check_frame_count(len(time))
        if time.min() < 0 or time.max() >= clip.num_frames:
            raise ClipError(f"frames: {time.min()} to {time.max()}; the clip has frames 0 to {clip.num_frames - 1}")
    fit = fit_size(clip.width, clip.height, width, height)
    camera = clip.views[view]
    K, w2c = fit.intrinsics(camera.K[time]), camera.world_to_camera[time].astype(np.float64)

    # A place given to a point that is never seen would be wasted.
    useful = camera.point_visible[time].any(axis=0) if visible_only and num_points is not None else None
    index, exists, entity = _choose_points(clip, time, num_points, np.random.default_rng(seed), useful)
    world = clip.points[time[:, None], index]
    valid = exists
    if visible_only:
        in_image = in_view(*project(world, K, w2c), fit.width, fit.height)
        valid = exists & in_image & camera.point_visible[time[:, None], index]
    # All of these points fix centre and scale, whether seen or not: what is hidden must not move what is seen.
    local = to_camera(world, w2c[0])
    first = local[0, exists[0]]
    center = first.mean(0) if len(first) else np.zeros(3)
    scale = max(float(np.linalg.norm(first - center, axis=1).max(initial=0.0)), 1e-6)
    points = np.where(exists[..., None], (local - center) / scale, 0.0)

    relative = w2c @ invert_rigid(w2c[0])
    relative[:, :3, 3] = (relative[:, :3, :3] @ center + relative[:, :3, 3]) / scale
    unit = K / np.array([[fit.width], [fit.height], [1.0]])
    seen = _tracks_seen(clip, view)[time]
    return NetworkInputs(
        points=points.astype(np.float32),
        point_entity=entity,
        point_valid=valid,
        intrinsics=unit.astype(np.float32),
        world_to_camera=relative.astype(np.float32),
        tracking_video=tracking_video(clip.tracks[time], seen, K, w2c, fit.width, fit.height),
        masks=fit.nearest(camera.masks[time]),
    )


def _tracks_seen(clip: Clip, view: int) -> np.ndarray:
    """T x M bool for this view. The clip stores it for the first; other views know it of the points the tracks are.

    Tracks that are no points (a tracker's, in a real video) count as seen wherever they are in another view's image.
    """
    if view == 0:
        return clip.track_visible
    if clip.track_points is not None:
        return clip.views[view].point_visible[:, clip.track_points]
    return np.ones_like(clip.track_visible)


def _choose_points(
    clip: Clip, time: np.ndarray, num_points: int | None, rng: np.random.Generator, useful: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices T x N into the points, whether they hold one (T x N bool), and role + 1 of each slot (N uint8).

    A slot belongs to one entity for the whole clip. Tracked points keep their slot; untracked ones are drawn anew for
    each frame, and slots that a frame cannot fill are empty in it. ``useful`` (N bool) limits which tracked points
    may be drawn.
    """
    code = np.array([ROLES.index(entity.role) + 1 for entity in clip.entities], np.uint8)
    groups = range(len(clip.entities))
    if clip.tracked:
        allowed = np.ones(clip.num_points, bool) if useful is None else useful
        members = [np.flatnonzero((clip.point_entity == e) & allowed) for e in groups]
        quota = balanced_quota([len(m) for m in members], clip.num_points if num_points is None else num_points)
        chosen = np.sort(np.concatenate([rng.choice(m, q, replace=False) for m, q in zip(members, quota, strict=True)]))
        index = np.broadcast_to(chosen, (len(time), len(chosen)))
        exists = np.ones(index.shape, bool)
        entity = code[clip.point_entity[chosen]]
    else:
        owner = clip.point_entity[time]
        most = [int((owner == e).sum(1).max()) for e in groups]
        quota = balanced_quota(most, sum(most) if num_points is None else num_points)
        index = np.zeros((len(time), sum(quota)), np.int64)
        exists = np.zeros(index.shape, bool)
        start = 0
        for e, size in zip(groups, quota, strict=True):
            for t in range(len(time)):
                here = np.flatnonzero(owner[t] == e)
                if len(here) > size:
                    here = np.sort(rng.choice(here, size, replace=False))
                index[t, start : start + len(here)] = here
                exists[t, start : start + len(here)] = True
            start += size
        entity = np.repeat(code, quota)
    missing = 0 if num_points is None else num_points - index.shape[1]
    if missing > 0:
        index = np.pad(index, ((0, 0), (0, missing)))
        exists = np.pad(exists, ((0, 0), (0, missing)))
        entity = np.pad(entity, (0, missing))
    return index, exists, entity
