# SPDX-License-Identifier: Apache-2.0
"""The videos of each method, made once and kept: numbers can be computed anew, and a killed run goes on."""

from __future__ import annotations

import gc
import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from ..training.dataset import UNREADABLE, Sample, fitted
from .errors import EvaluationError
from .methods import REPEAT, TRUTH, VAE, Method
from .truths import Size, Truth
from .video_files import find_video, load_at, read_stack, write_stack

log = logging.getLogger(__name__)
OnClip = Callable[[str, str, int, int], None]  # method, clip, number, of how many


def slug(text: str) -> str:
    """A label as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)


def cached_path(method: Method, sample: Sample, out: Path) -> Path:
    """Where a model's video lies. The name changes with the model, the settings, and the clip and its frames."""
    source = hashlib.sha256(sample.clip_piece.read() + sample.video.read()).hexdigest()[:12]
    return out / "videos" / f"{slug(method.label)}-{method.key}" / f"{slug(sample.name)}-{source}.png"


def generate_missing(
    methods: Iterable[Method], samples: Sequence[Sample], size: Size, out: Path, on_clip: OnClip | None = None
) -> int:
    """Make the videos of all models that are not there yet; returns how many were made. One model is in memory at a
    time. A sample that cannot be read is left out, as it is in the scores."""
    made, loaded, model = 0, "", None
    for method in methods:
        if method.model is None:
            continue
        missing = [s for s in samples if not cached_path(method, s, out).exists()]
        for number, sample in enumerate(missing, 1):
            from ..generate import load_model

            if method.model.path != loaded:
                model = None
                gc.collect()
                model, loaded = load_model(method.model.path), method.model.path
            try:
                truth = sample.frames(method.model.width, method.model.height, size.num_frames)
                clip = sample.clip()
            except UNREADABLE as error:
                log.warning("left out %s: %s", sample.name, error)
                continue
            frames = reconstruct(model, truth) if method.variant == VAE else _generate(model, method, clip, truth)
            write_stack(cached_path(method, sample, out), fitted(frames, size.width, size.height))
            made += 1
            if on_clip is not None:
                on_clip(method.label, sample.name, number, len(missing))
    return made


def _generate(model: Any, method: Method, clip: Any, truth: np.ndarray) -> np.ndarray:
    from ..generate import GenerationRequest, generate

    request = GenerationRequest(**method.request)
    return generate(model, clip, request, reference=Image.fromarray(truth[0])).frames


def reconstruct(model: Any, frames: np.ndarray) -> np.ndarray:
    """What the VAE alone makes of the true frames, T x H x W x 3 uint8: no video of this model can be closer."""
    import torch

    vae = cast(Any, model.pipeline).vae
    video = torch.from_numpy(np.array(frames)).movedim(-1, 0)[None].float().div(127.5).sub(1)
    video = video.to(model.device, vae.dtype)
    with torch.no_grad(), torch.autocast(torch.device(model.device).type, torch.bfloat16):
        rebuilt = vae.decode(vae.encode(video).latent_dist.mode()).sample[0].float().clamp(-1, 1)
    return np.asarray(rebuilt.movedim(0, -1).add(1).mul(127.5).round().byte().cpu().numpy())


def video_of(method: Method, truth: Truth, sample: Sample, size: Size, out: Path) -> np.ndarray | None:
    """A method's video of a clip, T x H x W x 3 uint8; None where a user's folder has none. Raises EvaluationError."""
    if method.label == TRUTH:
        return truth.frames
    if method.label == REPEAT:
        return np.repeat(truth.frames[:1], len(truth.frames), axis=0)
    if method.folder is not None:
        path = find_video(method.folder, truth.name)
        return None if path is None else load_at(path, size)
    path = cached_path(method, sample, out)
    if not path.exists():
        raise EvaluationError(f"{path}: it was removed while the evaluation ran; start it again")
    return read_stack(path, size.num_frames)
