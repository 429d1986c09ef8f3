# SPDX-License-Identifier: Apache-2.0
"""What ``generation.py`` measures: stock, DaS-wired and HVG-3D pipelines that share their weights, and one scene."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXTransformer3DModel,
)

from hvg3d_core.checkpoints.registry import find_model
from hvg3d_core.conditions import load_clip, network_inputs
from hvg3d_core.generate import reference_image
from hvg3d_core.models import HVG3DTransformer3DModel
from hvg3d_core.models.configs import transformer_config
from hvg3d_core.pipelines import HVG3DImageToVideoPipeline

DEMO_CLIP = Path(__file__).parents[1] / "hvg3d_core/cli/assets/demo.clip.safetensors"
VAE_5B = {
    "down_block_types": ("CogVideoXDownBlock3D",) * 4,
    "up_block_types": ("CogVideoXUpBlock3D",) * 4,
    "block_out_channels": (128, 256, 256, 512),
    "layers_per_block": 3,
    "latent_channels": 16,
    "sample_height": 480,
    "sample_width": 720,
    "scaling_factor": 0.7,
    "invert_scale_latents": True,
}
T5_XXL = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "d_kv": 64, "vocab_size": 32128}
TINY = {"num_layers": 4, "num_attention_heads": 4, "sample_height": 8, "sample_width": 12, "sample_frames": 9}


@dataclass
class Subject:
    """What the rows share: pipelines on the same weights, the scene and the settings."""

    pipelines: dict[str, Any]
    conditions: dict[str, Any]
    call: dict[str, Any]
    vae_config: dict[str, Any]
    text_config: dict[str, Any]
    device: str


def pipeline_of(transformer: Any, vae: Any, stock: bool = False) -> Any:
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )
    kind = CogVideoXImageToVideoPipeline if stock else HVG3DImageToVideoPipeline
    pipeline = kind(tokenizer=None, text_encoder=None, vae=vae, transformer=transformer, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def stock_twin(model: HVG3DTransformer3DModel) -> CogVideoXTransformer3DModel:
    """diffusers' own network on the same tensors, not copies of them."""
    with torch.device("meta"):
        twin = CogVideoXTransformer3DModel.from_config(model.config)
    own = model.state_dict()
    twin.load_state_dict({name: own[name] for name in twin.state_dict()}, assign=True)
    return twin.eval()


@torch.no_grad()
def with_random_weights(config: dict[str, Any], device: str, dtype: torch.dtype) -> HVG3DTransformer3DModel:
    """Zero convolutions are random too: a branch that adds nothing would make every cache look perfect."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = HVG3DTransformer3DModel.from_config(config)
    finally:
        torch.set_default_dtype(default)
    for zero in model.zero:
        torch.nn.init.normal_(zero.weight, std=0.3 / zero.in_features**0.5)
    return model.to(device, dtype).eval()


@torch.no_grad()
def das_of(model: HVG3DTransformer3DModel, copies: int) -> HVG3DTransformer3DModel:
    """The nano's blocks in DaS's wiring: fewer copies, chained, on the base's text, without the point cloud."""
    config = dict(model.config) | {
        "num_control_blocks": copies,
        "chain_through_zero": True,
        "share_text_stream": True,
        "point_cloud": False,
        "point_reference_features": False,
        "point_reference_per_frame": False,
    }
    das = HVG3DTransformer3DModel.from_config(config)
    own, wanted = model.state_dict(), das.state_dict()
    fitting = {name: own[name] for name, x in wanted.items() if name in own and own[name].shape == x.shape}
    das.load_state_dict(fitting, strict=False)
    return das.to(model.device).eval()


def load_subject(size: str, device: str, steps: int, guidance: float | None) -> Subject:
    torch.manual_seed(0)
    dtype = torch.bfloat16 if size == "5b" else torch.float32
    text_config: dict[str, Any] = T5_XXL | {"feed_forward_proj": "gated-gelu", "is_encoder_decoder": False}
    if size == "tiny":
        text_config |= {"d_model": 64, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 256}
    settings: dict[str, Any] = {"num_points": 2048, "visible_only": True}
    if size == "nano":
        entry = find_model("nano")
        loaded = HVG3DImageToVideoPipeline.from_pretrained(entry.path, dtype=dtype).to(device)
        transformer, vae, text = loaded.transformer.eval(), loaded.vae.eval(), loaded.text_encoder
        das = das_of(transformer, max(1, round(transformer.config.num_layers * 18 / 42)))
        guidance = entry.guidance_scale if guidance is None else guidance
        text_config = text.config.to_dict()
        settings = json.loads((Path(entry.path) / "hvg3d_inputs.json").read_text(encoding="utf-8"))
    else:
        changed = {} if size == "5b" else TINY
        das_changed = {} if size == "5b" else TINY | {"num_control_blocks": 2}
        hvg_changed = {} if size == "5b" else TINY | {"num_control_blocks": 4}
        transformer = with_random_weights(transformer_config("hvg3d-5b") | changed | hvg_changed, device, dtype)
        das = with_random_weights(transformer_config("das") | das_changed, device, dtype)
        vae_changed = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
        vae_changed |= {"sample_height": 64, "sample_width": 96}
        vae = AutoencoderKLCogVideoX(**(VAE_5B if size == "5b" else VAE_5B | vae_changed)).to(device, dtype).eval()
        guidance = 6.0 if guidance is None else guidance
    config = transformer.config
    height, width, frames = config.sample_height * 8, config.sample_width * 8, config.sample_frames
    clip = load_clip(DEMO_CLIP)
    inputs = network_inputs(clip, num_frames=frames, width=width, height=height, **settings)
    conditions: dict[str, Any] = {
        name: torch.from_numpy(np.ascontiguousarray(getattr(inputs, name)))[None]
        for name in ("points", "point_entity", "point_valid", "intrinsics", "world_to_camera")
    }
    conditions["tracking_video"] = inputs.tracking_video
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(2, 1, config.max_text_seq_length, config.text_embed_dim, generator=generator).to(device, dtype)
    pipelines = {
        "stock": pipeline_of(stock_twin(transformer), vae, stock=True),
        "das": pipeline_of(das, vae),
        "hvg": pipeline_of(transformer, vae),
    }
    call = {
        "image": reference_image(clip, width, height),
        "prompt_embeds": embeds[0],
        "negative_prompt_embeds": embeds[1],
        "height": height,
        "width": width,
        "num_frames": frames,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "output_type": "np",
    }
    return Subject(pipelines, conditions, call, dict(vae.config), text_config, device)


class Casting:
    """Weights of all pipelines in one type at a time; the float32 originals are kept, for bf16 does not lead back."""

    def __init__(self, subject: Subject) -> None:
        parts = {id(m): m for p in subject.pipelines.values() for m in (p.transformer, p.vae)}
        self.parts, self.now = list(parts.values()), ""
        self.originals = [{k: v.data for k, v in named(m)} for m in self.parts]

    def to(self, precision: str) -> None:
        kind = "bf16" if precision == "bf16" else "fp32"
        if kind == self.now:
            return
        for module, original in zip(self.parts, self.originals, strict=True):
            for name, value in named(module):
                chosen = original[name]
                if chosen.is_floating_point():
                    value.data = chosen.to(torch.bfloat16) if kind == "bf16" else chosen
        self.now = kind


def named(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]
