# SPDX-License-Identifier: Apache-2.0
"""What a clip was made from, drawn again as a video, to be laid beside the result.

A clip keeps one picture, the first frame, and of the others only geometry and masks. So everything that moves is
repainted: each tracked point tells where in the first frame its surroundings are to be looked up, and the mask says how
far its entity reaches. What lies behind is the first frame with the entities taken out. It shows position, shape and
timing, not light; a camera that moves is followed by the entities only, which is why the background is dimmed then.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from .conditions import Clip, Fit, fit_size, in_view, project, resample_indices

# Okabe and Ito's palette, for what was nowhere to be seen in the first frame.
PALETTE = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178)],
    np.float32,
)
_DIMMED = 0.35
_STILL = 1e-4  # largest change of a camera matrix's entry in a camera that stands still
_AT_ONCE = 2**21  # pixels painted at once, which bounds the memory
_HIDDEN = 0.02  # weight of a point that something hid in the first frame, beside 1 of one that was seen


def scene_video(clip: Clip, num_frames: int, width: int, height: int, view: int = 0) -> np.ndarray:
    """``num_frames`` x ``height`` x ``width`` x 3 uint8 over the clip's whole duration.

    Scaled and cropped like the network's inputs, so that every pixel lies on the result's.
    """
    camera = clip.views[view]
    fit = fit_size(clip.width, clip.height, width, height)
    time = resample_indices(clip.num_frames, num_frames)
    K, w2c = fit.intrinsics(camera.K), camera.world_to_camera
    masks = fit.nearest(camera.masks[time])
    reference = _picture(camera.reference, fit)
    first = fit.nearest(camera.masks[:1])[0]
    backdrop = _only(reference, ~_widened(first > 0, max(2, width // 100)))
    moves = np.abs(w2c - w2c[:1]).max() > _STILL or np.abs(camera.K - camera.K[:1]).max() > _STILL
    if moves:
        backdrop *= _DIMMED
    textures = {
        label: _only(reference, first == label)
        for label in range(1, len(clip.entities) + 1)
        if clip.tracked and (first == label).any()
    }
    source, z = project(clip.points[0], K[0], w2c[0])
    seen = camera.point_visible[0] & in_view(source, z, width, height)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    some = max(1, _AT_ONCE // (height * width))
    for start in range(0, num_frames, some):
        part = slice(start, start + some)
        canvas = np.repeat(backdrop[None], len(time[part]), 0)
        for label in range(1, len(clip.entities) + 1):
            cover = masks[part] == label
            frame, point, uv = _shown(clip, view, time[part], K, w2c, (width, height), label)
            if label in textures:
                weight = np.where(seen[point], 1, _HIDDEN).astype(np.float32)
                _paint(canvas, cover, frame, uv, source[point], weight, textures[label])
            else:
                canvas[cover] = PALETTE[(label - 1) % len(PALETTE)]
            if not camera.masks.any():  # nothing says how far things reach: their points at least
                x, y = np.floor(uv).astype(np.int64).T
                canvas[frame, y, x] = PALETTE[(label - 1) % len(PALETTE)]
        frames[part] = canvas.round().clip(0, 255).astype(np.uint8)
    if not moves:
        frames[time == 0] = reference.round().clip(0, 255).astype(np.uint8)
    return frames


def _shown(
    clip: Clip, view: int, time: np.ndarray, K: np.ndarray, w2c: np.ndarray, size: tuple[int, int], label: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An entity's visible points: which of ``time``, which point, and where in the image (n, n, n x 2).

    Within a frame the nearest comes last, so that it is what is written.
    """
    camera = clip.views[view]
    own = np.broadcast_to(clip.point_entity, clip.points.shape[:2])[time] == label - 1
    uv, z = project(clip.points[time], K[time], w2c[time])
    frame, point = np.nonzero(own & camera.point_visible[time] & in_view(uv, z, *size))
    order = np.argsort(-z[frame, point], kind="stable")
    frame, point = frame[order], point[order]
    return frame, point, uv[frame, point]


def _picture(png: bytes, fit: Fit) -> np.ndarray:
    """H x W x 3 float32, 0 to 255: a clip's reference image at the size and crop of ``fit``."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    left, top, right, bottom = fit.box()
    box = (left, top, min(right, image.width), min(bottom, image.height))
    return np.asarray(image.resize((fit.width, fit.height), Image.Resampling.LANCZOS, box=box), np.float32)


def _paint(
    canvas: np.ndarray,
    cover: np.ndarray,
    frame: np.ndarray,
    uv: np.ndarray,
    source: np.ndarray,
    weight: np.ndarray,
    texture: np.ndarray,
) -> None:
    """Cover one entity's masks (T x H x W bool) on the canvas with its texture (H x W x 3), in place.

    The points at ``uv`` (n x 2, of ``frame``) were at ``source`` in the first frame; between them, what is looked up
    lies between.
    """
    rows, columns = np.flatnonzero(cover.any((0, 2))), np.flatnonzero(cover.any((0, 1)))
    if len(rows) == 0:
        return
    top, left = rows[0], columns[0]
    part = np.s_[:, top : rows[-1] + 1, left : columns[-1] + 1]  # masks are small beside the picture
    cover = cover[part]
    x, y = np.floor(uv).astype(np.int64).T - np.array([[left], [top]])
    inside = (x >= 0) & (y >= 0) & (x < cover.shape[2]) & (y < cover.shape[1])
    inside[inside] = cover[frame[inside], y[inside], x[inside]]
    at = frame[inside], y[inside], x[inside]
    known = np.zeros((*cover.shape, 3), np.float32)  # x, y, weight
    known[at] = np.concatenate((source - uv, np.ones((len(uv), 1))), 1)[inside] * weight[inside, None]
    shift = _fill(known)
    which, down, right = np.nonzero(cover)
    looked_up = np.stack((right + left, down + top), 1) + 0.5 + shift[which, down, right]
    canvas[part][cover] = _sample(texture, looked_up.astype(np.float32))


def _sample(picture: np.ndarray, at: np.ndarray) -> np.ndarray:
    """n x 3: ``picture`` (H x W x 3) between its pixels, at ``at`` (n x 2, x and y, pixel centres at one half)."""
    height, width = picture.shape[:2]
    at = np.clip(at - 0.5, 0, [width - 1, height - 1])
    low = np.minimum(np.floor(at).astype(np.int64), [max(0, width - 2), max(0, height - 2)])
    (x, y), (a, b) = low.T, (at - low).T[..., None]
    right, below = np.minimum(x + 1, width - 1), np.minimum(y + 1, height - 1)
    upper = (1 - a) * picture[y, x] + a * picture[y, right]
    lower = (1 - a) * picture[below, x] + a * picture[below, right]
    return (1 - b) * upper + b * lower


def _fill(known: np.ndarray) -> np.ndarray:
    """T x H x W x C float32 without gaps, from T x H x W x (C + 1): values times their weight, and the weight, 0 to 1.

    Where the weight is low, the value is that of what is known around it, nearer before farther: push-pull (Gortler
    et al., The Lumigraph, 1996, section 3.4), halved until one pixel is left, then back.
    """
    height, width = known.shape[1:3]
    if height == 1 and width == 1:
        return known[..., :-1] / np.maximum(known[..., -1:], 1e-6)
    fine = known
    if height % 2 or width % 2:
        fine = np.pad(fine, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    half = fine[:, ::2] + fine[:, 1::2]
    half = half[:, :, ::2] + half[:, :, 1::2]
    half /= np.maximum(half[..., -1:], 1)  # a weight never exceeds 1
    coarse = _doubled(_doubled(_fill(half), 1), 2)
    return known[..., :-1] + (1 - known[..., -1:]) * coarse[:, :height, :width]


def _doubled(image: np.ndarray, axis: int) -> np.ndarray:
    """Twice as long along ``axis``, linearly interpolated at pixel centres."""
    image = np.moveaxis(image, axis, 0)
    twice = np.empty((2 * len(image), *image.shape[1:]), image.dtype)
    near, far = 0.75 * image, 0.25 * image
    twice[::2], twice[1::2] = near, near
    twice[2::2] += far[:-1]
    twice[0] += far[0]
    twice[1:-1:2] += far[1:]
    twice[-1] += far[-1]
    return np.moveaxis(twice, 0, axis)


def _only(picture: np.ndarray, known: np.ndarray) -> np.ndarray:
    """H x W x 3: ``picture`` where ``known`` (H x W bool), and what lies around it elsewhere."""
    weight = known[..., None].astype(np.float32)
    return _fill(np.concatenate((picture * weight, weight), 2)[None])[0]


def _widened(mask: np.ndarray, by: int) -> np.ndarray:
    wide = mask.copy()
    for _ in range(by):
        grown = wide.copy()
        grown[1:] |= wide[:-1]
        grown[:-1] |= wide[1:]
        grown[:, 1:] |= wide[:, :-1]
        grown[:, :-1] |= wide[:, 1:]
        wide = grown
    return wide
