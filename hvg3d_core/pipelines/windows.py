# SPDX-License-Identifier: Apache-2.0
"""Clips longer than the model's window: which latent frames each window sees, and how the windows agree.

Two ways, by where a later window takes its reference image from:

``clip``: every window sees the clip's own first frame and then a stretch of the clip. All windows take each denoising
step together, and where they overlap their predictions are averaged, weighted by how far inside its window a frame
lies (MultiDiffusion, Bar-Tal et al. 2023, along time). There is one noise and one scheduler step for the whole clip.
Nothing is passed from window to window, so nothing drifts; between the reference and the rest a window jumps in time,
which the 3D conditions explain (points carry their looks from frame 0 to wherever they are by then).

``generated``: windows are made one after the other; the reference of a later one is the decoded frame at its start,
and the latent frames it shares with what exists are held to it at every step (as in RePaint, Lugmayr et al. 2022).
No jump in time, but what a window gets wrong the next one starts from.

Latent frame 0 is frame 0; latent frame f > 0 is frames r(f-1)+1 .. rf, r = 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..conditions.frames import nearest_valid_frame_counts, resample_indices

LENGTHS = ("resample", "windows")
REFERENCES = ("clip", "generated")
# The axis of frames of each condition that has one, counted from the end: there may be a batch axis before it.
FRAME_AXES = {"points": -3, "point_valid": -2, "intrinsics": -3, "world_to_camera": -3, "tracking_video": -4}


@dataclass(frozen=True)
class Window:
    """``index``: the latent frames that the network sees, the clip's first always first. ``weight``: what each one's
    prediction counts where windows overlap."""

    index: tuple[int, ...]
    weight: tuple[float, ...]

    def frames(self, ratio: int = 4) -> list[int]:
        """The frames of the clip behind ``index``."""
        return [0] + [frame for f in self.index[1:] for frame in range(ratio * (f - 1) + 1, ratio * f + 1)]


def window_starts(latent_frames: int, window: int, overlap: int) -> list[int]:
    """First latent frame (beside the reference, so from 1) of each window; the last window ends with the clip."""
    own = window - 1
    if own < 1:
        raise ValueError(f"window: {window} latent frames, at least 2 are needed (9 frames of video)")
    if not 0 <= overlap < own:
        raise ValueError(f"window_overlap: {overlap} latent frames, must be 0 to {own - 1} for windows of {own}")
    last = max(latent_frames - own, 1)
    return [*range(1, last, own - overlap), last]


def default_overlap(window: int) -> int:
    """Half of what a window has beside the reference."""
    return (window - 1) // 2


def count_windows(num_frames: int, window_frames: int, overlap: int | None = None, ratio: int = 4) -> int:
    latent_frames, window = (num_frames - 1) // ratio + 1, (window_frames - 1) // ratio + 1
    return len(window_starts(latent_frames, window, default_overlap(window) if overlap is None else overlap))


def plan_windows(latent_frames: int, window: int, overlap: int) -> list[Window]:
    """Windows of ``window`` latent frames (the reference and window - 1 more) that cover ``latent_frames``.

    In an overlap the weights rise and fall linearly towards the window's end, so that no frame's prediction changes
    hands abruptly. The reference frame is predicted by the first window alone, whose context it is the real past of.
    """
    if latent_frames <= window:
        return [Window(tuple(range(latent_frames)), (1.0,) * latent_frames)]
    starts = window_starts(latent_frames, window, overlap)
    own = window - 1
    windows = []
    for start in starts:
        inside = [1.0 if start == 1 else 0.0]
        for j in range(own):
            left = own if start == 1 else j + 1
            right = own if start == starts[-1] else own - j
            inside.append(float(min(left, right)))
        windows.append(Window((0, *range(start, start + own)), tuple(inside)))
    return windows


class Blend:
    """Predictions of windows (B, F_window, C, h, w) averaged into one for the clip (B, F, C, h, w)."""

    def __init__(self, windows: list[Window], latent_frames: int, device: torch.device) -> None:
        self.index = [torch.tensor(w.index, device=device) for w in windows]
        weights = [torch.tensor(w.weight, device=device) for w in windows]
        total = torch.zeros(latent_frames, device=device)
        for index, weight in zip(self.index, weights, strict=True):
            total.index_add_(0, index, weight)
        self.share = [
            (weight / total[index]).view(1, -1, 1, 1, 1) for index, weight in zip(self.index, weights, strict=True)
        ]
        self.windows, self.latent_frames = windows, latent_frames

    def __call__(self, predict: Callable[[int, Window, Tensor], Tensor]) -> Tensor:
        """``predict(k, window, index)`` gives window k's prediction for its latent frames, ``index`` as a tensor."""
        blended: Tensor | None = None
        for k, (window, index, share) in enumerate(zip(self.windows, self.index, self.share, strict=True)):
            prediction = predict(k, window, index)
            if blended is None:
                blended = prediction.new_zeros(prediction.shape[0], self.latent_frames, *prediction.shape[2:])
            blended.index_add_(1, index, prediction * share.to(prediction.dtype))
        assert blended is not None
        return blended


@dataclass(frozen=True)
class Timeline:
    """How a clip's frames become the model's and back: frame i of the result shows the clip at ``source[i]``."""

    source: np.ndarray  # (made,) int64
    keep: int  # frames of the result; what was made beyond them is padding that repeats the last one
    fps: float  # of the result, such that it lasts as long as the clip

    @property
    def made(self) -> int:
        return len(self.source)


def plan_timeline(
    clip_frames: int, clip_fps: float, num_frames: int, length: str = "resample", fps: float | None = None
) -> Timeline:
    """``resample``: ``num_frames`` spread over the clip. ``windows``: every frame of the clip, or as many as ``fps``
    wants, filled up with the last one to a count that the VAE takes; ``num_frames`` is then the window."""
    if length not in LENGTHS:
        raise ValueError(f"length {length!r} is not one of {', '.join(LENGTHS)}")
    if fps is not None and not fps > 0:
        raise ValueError(f"fps: {fps}, must be greater than 0")
    duration = clip_frames / clip_fps
    if length == "resample":
        if fps is not None:
            raise ValueError(f'fps: {fps} needs length "windows"; "resample" always makes {num_frames} frames')
        return Timeline(resample_indices(clip_frames, num_frames), num_frames, num_frames / duration)
    keep = clip_frames if fps is None else max(1, round(duration * fps))
    made = nearest_valid_frame_counts(keep)[1]
    source = resample_indices(clip_frames, keep)
    return Timeline(np.concatenate([source, np.repeat(source[-1:], made - keep)]), keep, keep / duration)


def carry_over(
    pipeline: Any,
    *,
    image: Image.Image,
    num_frames: int,
    window_frames: int,
    overlap: int | None,
    num_inference_steps: int,
    generator: torch.Generator | None = None,
    callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
    output_type: str = "np",
    **arguments: Any,
) -> Any:
    """The ``generated`` way: a video of ``num_frames`` frames, window after window. The result is the pipeline's.

    The last window starts where it ends with the clip. ``callback_on_step_end`` is called with steps counted over all
    windows.
    """
    ratio = pipeline.vae_scale_factor_temporal
    latent_frames, window = (num_frames - 1) // ratio + 1, (window_frames - 1) // ratio + 1
    overlap = default_overlap(window) if overlap is None else overlap
    starts = [s - 1 for s in window_starts(latent_frames, window, overlap)]  # each window's latent frame 0
    made: Tensor | None = None  # (B, F so far, C, h, w)
    for k, start in enumerate(starts):
        first, count = ratio * start, ratio * (window - 1) + 1
        chosen = dict(arguments)
        for name, axis in FRAME_AXES.items():
            if arguments.get(name) is not None:
                chosen[name] = torch.as_tensor(arguments[name]).narrow(axis, first, count)
        known = None
        if made is not None:
            known = made[:, start + 1 :]
            image = _frame(pipeline, made, start, ratio)
        latents = pipeline(
            image=image,
            num_frames=window_frames,
            num_inference_steps=num_inference_steps,
            generator=generator,
            output_type="latent",
            callback_on_step_end=_hold(known, k * num_inference_steps, generator, callback_on_step_end),
            **chosen,
        ).frames
        made = latents if made is None else torch.cat([made, latents[:, made.shape[1] - start :]], dim=1)
    return pipeline.output_of(made, output_type)


@torch.no_grad()
def _frame(pipeline: Any, latents: Tensor, latent_frame: int, ratio: int) -> Image.Image:
    """The last video frame of ``latent_frame``; the VAE codes all latent frames but the first in pairs."""
    until = latent_frame + 1 + (latent_frame % 2)
    until = until if until <= latents.shape[1] else latent_frame + 1
    video = pipeline.output_of(latents[:, :until], "pil").frames[0]
    return video[ratio * latent_frame] if until % 2 else video[-1]


def _hold(
    known: Tensor | None,
    offset: int,
    generator: torch.Generator | None,
    callback: Callable[..., dict[str, Any]] | None,
) -> Callable[..., dict[str, Any]]:
    """A step callback that puts ``known`` (B, n, C, h, w), noised for the next step, in place of frames 1 .. n."""

    def after_step(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if known is not None and known.shape[1]:
            remaining = pipeline.scheduler.timesteps[step + 1 : step + 2]
            held = known
            if len(remaining):
                noise = torch.randn(known.shape, generator=generator, dtype=torch.float32).to(known)
                held = pipeline.scheduler.add_noise(known, noise, remaining.to(known.device))
            latents = tensors["latents"].clone()
            latents[:, 1 : 1 + known.shape[1]] = held.to(latents.dtype)
            tensors = tensors | {"latents": latents}
        return tensors if callback is None else callback(pipeline, offset + step, timestep, tensors)

    return after_step


def seam_frames(latent_frames: int, window: int, overlap: int, ratio: int = 4) -> list[int]:
    """The first frame after each end of a window inside the clip."""
    starts = window_starts(latent_frames, window, overlap)
    edges = set(starts[1:]) | {start + window - 1 for start in starts[:-1]}
    return sorted(ratio * (f - 1) + 1 for f in edges)


def seam_ratio(frames: np.ndarray, seam: int, reach: int = 2, ratio: int = 4) -> float:
    """How much the video jumps from frame ``seam - 1`` to ``seam``, over how much it does around there; 1: no seam.

    frames (T, H, W, 3). Jumps are mean squared differences. A seam lies between two latent frames, where this VAE's
    videos always move more than within one, so it is compared with its like: the ``reach`` places before and after it
    that lie between latent frames too.
    """
    video = np.asarray(frames, np.float64)
    energy = np.mean((video[1:] - video[:-1]) ** 2, axis=(1, 2, 3))  # energy[t]: from frame t to t + 1
    here = seam - 1
    around = [here + ratio * j for j in range(-reach, reach + 1) if j and 0 <= here + ratio * j < len(energy)]
    return float(energy[here] / max(float(energy[around].mean()), 1e-12))
