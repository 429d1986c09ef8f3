# SPDX-License-Identifier: Apache-2.0
"""The mask diffusion loss: the prediction of the clean latents, weighted up where hands and objects are.

HVG-3D gives sum_i E |(Z_gt - Z_eps) * (1 + M_i)|², Z_eps the predicted clean latents; the code that it cites for it
has (1 + M) outside the square.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def mask_diffusion_loss(
    model_output: Tensor,
    noisy_latents: Tensor,
    clean_latents: Tensor,
    timesteps: Tensor,
    scheduler: Any,
    mask: Tensor | None = None,
    *,
    squared: bool = False,
) -> Tensor:
    """Mean weighted squared error of the clean latents that a v-prediction implies; a scalar, in float32.

    With weight 1 / (1 - ᾱ) on the squared error of x0 it equals the squared error of v: x0 is predicted as
    √ᾱ x_t - √(1-ᾱ) v̂, which misses by √(1-ᾱ) (v - v̂). The form with x0 is what DaS trains with.

    model_output, noisy_latents, clean_latents (B, F, C, h, w); timesteps (B,) int64; scheduler: a CogVideoX scheduler
    with v-prediction; mask (B, F, h, w) in [0, 1], from :func:`latent_mask`. The weight is 1 + M (twice inside the
    mask), or (1 + M)² (four times) with ``squared``, the article's literal formula.
    """
    noisy, clean = noisy_latents.float(), clean_latents.float()
    predicted = scheduler.get_velocity(model_output.float(), noisy, timesteps)
    alpha_bar = scheduler.alphas_cumprod.to(clean.device)[timesteps].float().view(-1, 1, 1, 1, 1)
    error = (predicted - clean).square() / (1 - alpha_bar)
    if mask is not None:
        if mask.shape != (*clean.shape[:2], *clean.shape[3:]):
            raise ValueError(f"mask: shape {tuple(mask.shape)}, must be (B, F, h, w) of {tuple(clean.shape)}")
        weight = 1 + mask.float().unsqueeze(2)
        error = error * (weight.square() if squared else weight)
    return error.mean()


def latent_mask(masks: Tensor, spatial: int = 8, temporal: int = 4) -> Tensor:
    """Masks of pixels to masks of latents: covered area per cell, the largest in each group of frames.

    masks (..., T, H, W), anything above 0 is inside; T = 1 or ``temporal`` k + 1 -> (..., F, H/spatial, W/spatial)
    float32. The first frame is a group of its own, as for the VAE.
    """
    *lead, frames, height, width = masks.shape
    if (frames - 1) % temporal:
        raise ValueError(f"masks: {frames} frames, must be 1 or {temporal}k + 1")
    if height % spatial or width % spatial:
        raise ValueError(f"masks: {height} x {width} pixels, must be divisible by {spatial}")
    area = F.avg_pool2d((masks > 0).float().reshape(-1, 1, height, width), spatial)
    area = area.view(-1, frames, height // spatial, width // spatial)
    area = torch.cat([torch.zeros_like(area[:, :1])] * (temporal - 1) + [area], dim=1)  # fills the group of frame 0
    return area.unflatten(1, (-1, temporal)).amax(dim=2).view(*lead, -1, *area.shape[2:])
