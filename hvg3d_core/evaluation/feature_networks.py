# SPDX-License-Identifier: Apache-2.0
"""Networks that turn frames or videos into vectors: CLIP, the Inception of FID, the I3D of FVD. Each with the
preparation of images that its metric is defined with; weights are a person's own (:mod:`.weights`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from .errors import EvaluationError

CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
INCEPTION_SIDE, I3D_SIDE, I3D_FRAMES = 299, 224, 10
BATCH = 8


def shorter_side(frame: np.ndarray, side: int) -> np.ndarray:
    """H x W x 3 uint8: the shorter side brought to ``side``, bicubic, and the middle cut out: side x side x 3."""
    height, width = frame.shape[:2]
    if width <= height:
        size = (side, int(side * height / width))
    else:
        size = (int(side * width / height), side)
    image = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
    top, left = round((size[1] - side) / 2), round((size[0] - side) / 2)
    return image[top : top + side, left : left + side]


def clean_resize(frame: np.ndarray, side: int) -> np.ndarray:
    """H x W x 3 to side x side x 3 float32 in [0, 255], bicubic with antialiasing, not rounded: that of clean-fid
    (Parmar et al. 2022)."""
    planes = [
        Image.fromarray(frame[..., i].astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
        for i in range(3)
    ]
    return np.stack([np.asarray(plane).clip(0, 255) for plane in planes], axis=-1).astype(np.float32)


class ClipImages:
    """Image embeddings of a CLIP in transformers' layout."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        from transformers import CLIPVisionModelWithProjection

        try:
            model: Any = CLIPVisionModelWithProjection.from_pretrained(path, local_files_only=True)
        except Exception as error:  # a folder that is no model fails in many ways
            raise EvaluationError(f"{path}: not a CLIP model's folder ({error})") from None
        self.model, self.device = model.eval().to(device), device
        self.side = int(model.config.image_size)

    @torch.no_grad()
    def features(self, video: np.ndarray) -> np.ndarray:
        """T x D float32 of T x H x W x 3 uint8, not normalised."""
        mean, deviation = torch.tensor(CLIP_MEAN)[:, None, None], torch.tensor(CLIP_DEVIATION)[:, None, None]
        images = torch.from_numpy(np.stack([shorter_side(frame, self.side) for frame in video]))
        pixels = (images.movedim(-1, 1).float() / 255 - mean) / deviation
        found = [self.model(pixel_values=p.to(self.device)).image_embeds.float().cpu() for p in pixels.split(BATCH)]
        return torch.cat(found).numpy()

    def compare(self, generated: np.ndarray, truth: np.ndarray) -> float:
        """Mean cosine of the embeddings of each frame and its true one."""
        a, b = (torch.from_numpy(self.features(video)) for video in (generated, truth))
        return float(functional.cosine_similarity(a, b).mean())


class Scripted:
    """A TorchScript file. What is called of it is up to the classes below."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        try:
            self.network: Any = torch.jit.load(str(path), map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            raise EvaluationError(f"{path}: not a TorchScript file ({str(error).splitlines()[0]})") from None
        self.path, self.device = path, device


class Inception(Scripted):
    """The 2048 features of FID. The file is called without its own resizing, on images in [-1, 1)."""

    @torch.no_grad()
    def features(self, video: np.ndarray) -> np.ndarray:
        """T x D float32 of T x H x W x 3 uint8."""
        found = []
        for start in range(0, len(video), BATCH):
            images = np.stack([clean_resize(frame, INCEPTION_SIDE) for frame in video[start : start + BATCH]])
            x = (torch.from_numpy(images).movedim(-1, 1).to(self.device) - 128) / 128
            found.append(self.network.layers.forward(x).reshape(len(x), -1).float().cpu())
        return torch.cat(found).numpy()


class I3D(Scripted):
    """The 400 logits of FVD, in StyleGAN-V's protocol."""

    @torch.no_grad()
    def features(self, video: np.ndarray) -> np.ndarray:
        """1 x D float32 of T x H x W x 3 uint8. Raises EvaluationError for too few frames."""
        if len(video) < I3D_FRAMES:
            raise EvaluationError(f"FVD needs {I3D_FRAMES} frames or more; these videos have {len(video)}")
        height, width = video.shape[1:3]
        scale = I3D_SIDE / min(height, width)
        size = (I3D_SIDE, int(np.ceil(width * scale))) if height <= width else (int(np.ceil(height * scale)), I3D_SIDE)
        frames = torch.from_numpy(np.array(video)).movedim(-1, 1).to(self.device).float() / 255
        frames = functional.interpolate(frames, size=size, mode="bilinear", align_corners=False)
        top, left = (size[0] - I3D_SIDE) // 2, (size[1] - I3D_SIDE) // 2
        frames = frames[:, :, top : top + I3D_SIDE, left : left + I3D_SIDE]
        x = frames.movedim(0, 1)[None] * 2 - 1  # 1 x 3 x T x H x W
        return self.network(x, rescale=False, resize=False, return_features=True).reshape(1, -1).float().cpu().numpy()
