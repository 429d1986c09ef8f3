# SPDX-License-Identifier: Apache-2.0
"""Real but tiny networks and inputs for the tests of models and pipelines."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor

from hvg3d_core.models import HVG3DTransformer3DModel

FRAMES, LATENT_FRAMES, CHANNELS, SIZE, TEXT = 9, 3, 4, 8, 6  # 9 frames of 64 x 64 pixels
POINT_CONFIG = {
    "point_dim": 16,
    "point_heads": 2,
    "point_head_dim": 8,
    "num_point_latents": 6,
    "point_grid_channels": 5,
    "resampler_heads": 2,
    "resampler_head_dim": 12,
}


def tiny_base(**config: Any) -> CogVideoXTransformer3DModel:
    """2 layers of 2 heads x 16, with every weight random, also those that diffusers starts at 0 or 1."""
    torch.manual_seed(0)
    model = CogVideoXTransformer3DModel(
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 2 * CHANNELS,
            "out_channels": CHANNELS,
            "time_embed_dim": 8,
            "text_embed_dim": 16,
            "num_layers": 2,
            "sample_width": SIZE,
            "sample_height": SIZE,
            "sample_frames": FRAMES,
            "max_text_seq_length": TEXT,
            "use_rotary_positional_embeddings": True,
            "use_learned_positional_embeddings": True,
        }
        | config
    )
    return randomise(model).eval()


def tiny_model(base: CogVideoXTransformer3DModel | None = None, **config: Any) -> HVG3DTransformer3DModel:
    torch.manual_seed(1)
    return HVG3DTransformer3DModel.from_transformer(base or tiny_base(), **POINT_CONFIG, **config).eval()


@torch.no_grad()
def randomise(module: torch.nn.Module, std: float = 0.1) -> Any:
    for p in module.parameters():
        p.add_(std * torch.randn_like(p))
    return module


def trained(model: HVG3DTransformer3DModel) -> HVG3DTransformer3DModel:
    """As if it had been trained: no weight of the control branch is 0."""
    torch.manual_seed(2)
    with torch.no_grad():
        for p in model.control_parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def point_inputs(batch: int = 2, frames: int = FRAMES, count: int = 20) -> dict[str, Tensor]:
    """A cloud that drifts before a camera at the origin, one image size wide at depth 1."""
    generator = torch.Generator().manual_seed(3)
    cloud = torch.randn(batch, 1, count, 3, generator=generator) * torch.tensor([0.6, 0.6, 0.3])
    drift = torch.linspace(0, 0.5, frames).view(1, frames, 1, 1) * torch.tensor([1.0, 0.3, 0.0])
    intrinsics = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    return {
        "points": cloud + drift + torch.tensor([0.0, 0.0, 3.0]),
        "point_entity": torch.randint(1, 5, (batch, count), generator=generator),
        "point_valid": torch.rand(batch, frames, count, generator=generator) > 0.2,
        "intrinsics": intrinsics.expand(batch, frames, 3, 3),
        "world_to_camera": torch.eye(4).expand(batch, frames, 4, 4),
    }


def video_inputs(batch: int = 2) -> dict[str, Any]:
    """What the base model takes."""
    generator = torch.Generator().manual_seed(4)
    return {
        "hidden_states": torch.randn(batch, LATENT_FRAMES, 2 * CHANNELS, SIZE, SIZE, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 16, generator=generator),
        "timestep": torch.tensor([700, 20][:batch]),
        "image_rotary_emb": get_3d_rotary_pos_embed(
            16, ((0, 0), (SIZE // 2, SIZE // 2)), (SIZE // 2, SIZE // 2), LATENT_FRAMES
        ),
    }


def tracking_latents(batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(batch, LATENT_FRAMES, 2 * CHANNELS, SIZE, SIZE, generator=generator)
