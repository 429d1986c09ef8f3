# SPDX-License-Identifier: Apache-2.0
"""A model folder with the real network, tiny and with random weights: 9 frames of 32 x 32 in two steps."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from hvg3d_core.pipelines import HVG3DImageToVideoPipeline

from ..core.models.tiny import tiny_base, tiny_model, trained


def save_tiny_network(folder: Path) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )
    text = T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    pipeline = HVG3DImageToVideoPipeline(
        tokenizer=ByT5Tokenizer(),
        text_encoder=T5EncoderModel(text),
        vae=vae,
        transformer=trained(tiny_model(tiny_base(sample_width=4, sample_height=4, max_text_seq_length=16))),
        scheduler=CogVideoXDDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing"),
    )
    pipeline.save_pretrained(folder)
    about = {"title": "Tiny", "licence": "Apache-2.0", "summary": "Random weights, for tests."}
    size = {"width": 32, "height": 32, "num_frames": 9, "num_inference_steps": 2, "guidance_scale": 1.0}
    (folder / "hvg3d.json").write_text(json.dumps(about | size), "utf-8")
    (folder / "hvg3d_inputs.json").write_text(json.dumps({"num_points": 16, "visible_only": True}), "utf-8")
