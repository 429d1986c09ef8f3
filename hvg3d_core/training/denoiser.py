# SPDX-License-Identifier: Apache-2.0
"""What every training step of a denoiser does, and stage ``base``: image-to-video transformer and text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor, nn
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from .cache import load_cache
from .config import BaseStage, TrainConfig, VideoConfig
from .hardware import Hardware
from .loop import Part, Trainer
from .losses import mask_diffusion_loss
from .prompts import tokenize
from .start import build_scheduler


def build_text_encoder(stage: BaseStage) -> Any:
    """A T5 encoder on bytes: its vocabulary is the 256 bytes and 3 specials, so nothing has to be downloaded."""
    return T5EncoderModel(
        T5Config(
            vocab_size=384,
            d_model=stage.text_dim,
            d_kv=32,
            d_ff=2 * stage.text_dim,
            num_layers=stage.text_layers,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
        )
    )


def build_base(config: TrainConfig) -> Any:
    stage, video = config.base, config.video
    return CogVideoXTransformer3DModel(
        num_attention_heads=stage.num_attention_heads,
        attention_head_dim=stage.attention_head_dim,
        in_channels=32,
        out_channels=16,
        time_embed_dim=stage.time_embed_dim,
        text_embed_dim=stage.text_dim,
        num_layers=stage.num_layers,
        sample_width=video.width // 8,
        sample_height=video.height // 8,
        sample_frames=video.num_frames,
        max_text_seq_length=stage.max_text_seq_length,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=True,
    )


def rotary(network: Any, video: VideoConfig) -> tuple[Tensor, Tensor] | None:
    """The table that the pipeline makes for this size (the full grid, patches of 2 x 2); None where a model has none.

    network: the transformer's ``config``.
    """
    if not network.use_rotary_positional_embeddings:
        return None
    height, width = video.height // 8 // network.patch_size, video.width // 8 // network.patch_size
    table: Any = get_3d_rotary_pos_embed(
        embed_dim=network.attention_head_dim,
        crops_coords=((0, 0), (height, width)),
        grid_size=(height, width),
        temporal_size=(video.num_frames - 1) // 4 + 1,
    )
    return table


def draw_timesteps(count: int, shift: float, generator: torch.Generator) -> torch.Tensor:
    """Uniform in [0, 1000) for shift 1; more high-noise steps above it (t' = s t / (1 + (s - 1) t))."""
    u = torch.rand(count, generator=generator)
    return (1000 * shift * u / (1 + (shift - 1) * u)).long().clamp(0, 999)


def pad_in_time(first: torch.Tensor, frames: int) -> torch.Tensor:
    """B x C x h x w to B x F x C x h x w: the first frame, then zeros, as CogVideoX image-to-video expects."""
    padded = first.new_zeros(first.shape[0], frames, *first.shape[1:])
    padded[:, 0] = first
    return padded


class Noising:
    """Noise and its schedule. Random numbers are drawn on the CPU: the same on every device."""

    def __init__(self, scheduler: Any, shift: float) -> None:
        self.scheduler, self.shift = scheduler, shift

    def draw(self, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(noisy latents, timesteps) on the latents' device."""
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = draw_timesteps(len(latents), self.shift, generator).to(latents.device)
        return self.scheduler.add_noise(latents, noise.to(latents.device), timesteps), timesteps


class BaseModel(nn.Module):
    """Transformer and text encoder, trained together."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.transformer = build_base(config)
        self.text_encoder = build_text_encoder(config.base)

    def forward(self, tokens: Tensor, **inputs: Any) -> Tensor:
        return self.transformer(encoder_hidden_states=self.text_encoder(tokens)[0], return_dict=False, **inputs)[0]


def train_base(config: TrainConfig, cache_folder: Path, out: Path, hardware: Hardware) -> None:
    """Writes ``out/base/{transformer,text_encoder,tokenizer}``."""
    stage = config.base
    cache = load_cache(cache_folder)
    print(f"{len(cache)} cached samples", flush=True)
    torch.manual_seed(stage.seed)
    model: Any = BaseModel(config)
    tokenizer = ByT5Tokenizer(extra_ids=125)
    ids = tokenize(tokenizer, cache.prompts, stage.max_text_seq_length)
    empty = tokenize(tokenizer, [""], stage.max_text_seq_length)[0]
    trainer = Trainer(model, stage, out / "base_run", hardware)
    noising = Noising(build_scheduler(), stage.shift_timesteps)
    rope = rotary(model.transformer.config, config.video)

    def loss_of_part(part: Part) -> tuple[Tensor, dict[str, float]]:
        index = part.rows(len(cache), stage.batch_size)
        batch = cache.batch(index, ("latents", "image_latents"))
        latents = batch["latents"].to(hardware.device)
        image = pick_image(batch["image_latents"], part.generator).to(hardware.device)
        noisy, timesteps = noising.draw(latents, part.generator)
        dropped = torch.rand(len(index), generator=part.generator) < stage.text_dropout
        tokens = torch.where(dropped[:, None], empty, ids[index])
        with hardware.autocast():
            output = trainer.network(
                tokens.to(hardware.device),
                hidden_states=torch.cat([noisy, pad_in_time(image, latents.shape[1])], 2),
                timestep=timesteps,
                image_rotary_emb=on_device(rope, hardware.device),
            )
        loss = mask_diffusion_loss(output.float(), noisy, latents, timesteps, noising.scheduler, None)
        return loss, {}

    trainer.run(loss_of_part)
    trainer.export_weights()
    if hardware.main:
        model.transformer.save_pretrained(out / "base" / "transformer")
        model.text_encoder.save_pretrained(out / "base" / "text_encoder")
        tokenizer.save_pretrained(out / "base" / "tokenizer")
    hardware.wait()


def pick_image(image_latents: Tensor, generator: torch.Generator) -> Tensor:
    """One of the cached versions of each first frame, B x K x C x h x w to B x C x h x w; what has one stays."""
    if image_latents.ndim == 4:
        return image_latents
    chosen = torch.randint(image_latents.shape[1], (len(image_latents),), generator=generator)
    return image_latents[torch.arange(len(image_latents)), chosen]


def on_device(table: tuple[Tensor, Tensor] | None, device: torch.device) -> tuple[Tensor, Tensor] | None:
    return None if table is None else (table[0].to(device), table[1].to(device))
