# SPDX-License-Identifier: Apache-2.0
"""Stages ``base`` (image-to-video transformer and text encoder) and ``control`` (the branch on the frozen base)."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import nn
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from ..models import HVG3DTransformer3DModel
from ..pipelines import HVG3DImageToVideoPipeline
from .cache import load_cache
from .config import BaseStage, ControlStage, TrainConfig
from .loop import Trainer
from .losses import mask_diffusion_loss

CONDITIONS = (
    "tracking_latents",
    "tracking_image_latents",
    "points",
    "point_entity",
    "point_valid",
    "intrinsics",
    "world_to_camera",
    "mask",
)


def build_scheduler() -> CogVideoXDDIMScheduler:
    """CogVideoX's own schedule: v-prediction with zero terminal SNR."""
    return CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        snr_shift_scale=1.0,
    )


def build_text_encoder(stage: BaseStage) -> T5EncoderModel:
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


def build_base(config: TrainConfig) -> CogVideoXTransformer3DModel:
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


def rotary(config: TrainConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """The table that the pipeline makes for this size: the full grid, patches of 2 x 2."""
    height, width = config.video.height // 16, config.video.width // 16
    return get_3d_rotary_pos_embed(
        embed_dim=config.base.attention_head_dim,
        crops_coords=((0, 0), (height, width)),
        grid_size=(height, width),
        temporal_size=(config.video.num_frames - 1) // 4 + 1,
    )


def draw_timesteps(count: int, shift: float, generator: torch.Generator) -> torch.Tensor:
    """Uniform in [0, 1000) for shift 1; more high-noise steps above it (t' = s t / (1 + (s - 1) t))."""
    u = torch.rand(count, generator=generator)
    return (1000 * shift * u / (1 + (shift - 1) * u)).long().clamp(0, 999)


def pad_in_time(first: torch.Tensor, frames: int) -> torch.Tensor:
    """B x C x h x w to B x F x C x h x w: the first frame, then zeros, as CogVideoX image-to-video expects."""
    padded = first.new_zeros(first.shape[0], frames, *first.shape[1:])
    padded[:, 0] = first
    return padded


def tokenize(tokenizer: ByT5Tokenizer, prompts: list[str], length: int) -> torch.Tensor:
    return tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


class _Noising:
    """The part of a step that both stages share."""

    def __init__(self, config: TrainConfig, shift: float) -> None:
        self.scheduler, self.shift, self.rope = build_scheduler(), shift, rotary(config)

    def draw(self, latents: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """(noisy latents, timesteps)."""
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = draw_timesteps(len(latents), self.shift, generator)
        return self.scheduler.add_noise(latents, noise, timesteps), timesteps


class BaseModel(nn.Module):
    """Transformer and text encoder, trained together."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.transformer = build_base(config)
        self.text_encoder = build_text_encoder(config.base)


def train_base(config: TrainConfig, cache_folder: Path, out: Path) -> None:
    """Writes ``out/base/{transformer,text_encoder,tokenizer}``."""
    stage = config.base
    cache = load_cache(cache_folder)
    print(f"{len(cache)} cached samples", flush=True)
    torch.manual_seed(stage.seed)
    model = BaseModel(config)
    tokenizer = ByT5Tokenizer(extra_ids=125)
    ids = tokenize(tokenizer, cache.prompts, stage.max_text_seq_length)
    empty = tokenize(tokenizer, [""], stage.max_text_seq_length)[0]
    trainer = Trainer(model, stage, out / "base_run")
    noising = _Noising(config, stage.shift_timesteps)

    def loss_of_step(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        index = torch.randint(len(cache), (stage.batch_size,), generator=generator)
        batch = cache.batch(index, ("latents", "image_latents"))
        latents = batch["latents"]
        noisy, timesteps = noising.draw(latents, generator)
        dropped = torch.rand(len(index), generator=generator) < stage.text_dropout
        tokens = torch.where(dropped[:, None], empty, ids[index])
        with torch.autocast("cpu", torch.bfloat16):
            text = model.text_encoder(tokens)[0]
            output = model.transformer(
                hidden_states=torch.cat([noisy, pad_in_time(batch["image_latents"], latents.shape[1])], 2),
                encoder_hidden_states=text,
                timestep=timesteps,
                image_rotary_emb=noising.rope,
                return_dict=False,
            )[0]
        loss = mask_diffusion_loss(output.float(), noisy, latents, timesteps, noising.scheduler, None)
        return loss, {}

    trainer.run(loss_of_step)
    trainer.export_weights()
    model.transformer.save_pretrained(out / "base" / "transformer")
    model.text_encoder.save_pretrained(out / "base" / "text_encoder")
    tokenizer.save_pretrained(out / "base" / "tokenizer")


def train_control(config: TrainConfig, cache_folder: Path, out: Path) -> None:
    """Trains the branch on the frozen base and writes the whole pipeline to ``out/pipeline``."""
    stage = config.control
    cache = load_cache(cache_folder)
    torch.manual_seed(stage.seed)
    base = CogVideoXTransformer3DModel.from_pretrained(out / "base" / "transformer")
    text_encoder = T5EncoderModel.from_pretrained(out / "base" / "text_encoder").eval()
    tokenizer = ByT5Tokenizer.from_pretrained(out / "base" / "tokenizer")
    model = HVG3DTransformer3DModel.from_transformer(base, **stage.transformer)
    model.freeze_base()
    with torch.no_grad():
        ids = tokenize(tokenizer, cache.prompts, config.base.max_text_seq_length)
        text = torch.cat([text_encoder(part)[0] for part in ids.split(64)])
    trainer = Trainer(model, stage, out / "control_run")
    noising = _Noising(config, stage.shift_timesteps)
    print(f"{len(cache)} cached samples, {sum(p.numel() for p in trainer.trained.values()) / 1e6:.1f} M trained")

    def loss_of_step(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        index = torch.randint(len(cache), (stage.batch_size,), generator=generator)
        batch = cache.batch(index, ("latents", "image_latents", *CONDITIONS))
        latents = batch["latents"]
        noisy, timesteps = noising.draw(latents, generator)
        keep_tracking, keep_points = draw_kept(stage, len(index), generator)
        frames = latents.shape[1]
        tracking = [batch["tracking_latents"], pad_in_time(batch["tracking_image_latents"], frames)]
        with torch.autocast("cpu", torch.bfloat16):
            output = model(
                hidden_states=torch.cat([noisy, pad_in_time(batch["image_latents"], frames)], 2),
                encoder_hidden_states=text[index],
                timestep=timesteps,
                image_rotary_emb=noising.rope,
                tracking_latents=torch.cat(tracking, 2),
                **{key: batch[key] for key in CONDITIONS[2:-1]},
                tracking_keep=keep_tracking,
                points_keep=keep_points,
                return_dict=False,
            )[0]
        mask = batch["mask"] if stage.mask_loss else None
        arguments = (output.float(), noisy, latents, timesteps, noising.scheduler)
        loss = mask_diffusion_loss(*arguments, mask, squared=stage.mask_loss_squared)
        with torch.no_grad():
            plain = mask_diffusion_loss(*arguments, None)
        return loss, {"plain": float(plain)}

    trainer.run(loss_of_step)
    trainer.export_weights()
    vae = AutoencoderKLCogVideoX.from_pretrained(out / "vae")
    HVG3DImageToVideoPipeline(tokenizer, text_encoder, vae, model, build_scheduler()).save_pretrained(out / "pipeline")


def draw_kept(stage: ControlStage, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Which conditions each sample keeps; at least one, since with neither there is nothing for the branch to learn."""
    u = torch.rand(count, generator=generator)
    keep_tracking = u >= stage.tracking_dropout
    keep_points = (u < stage.tracking_dropout) | (u >= stage.tracking_dropout + stage.points_dropout)
    return keep_tracking, keep_points
