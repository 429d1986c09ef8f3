# SPDX-License-Identifier: Apache-2.0
"""Stage ``control``: the branch on the frozen base, on cached latents and prompts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .cache import LatentCache, load_cache, settings_of
from .config import ConfigError, ControlStage, TrainConfig
from .denoiser import Noising, on_device, pad_in_time, pick_image, rotary
from .hardware import Hardware
from .loop import Part, Trainer
from .losses import mask_diffusion_loss
from .prompts import PromptEmbeddings, tokenize
from .start import DTYPES, Start, find_start
from .validation import Validation

POINTS = ("points", "point_entity", "point_valid", "intrinsics", "world_to_camera")
TRACKING = ("tracking_latents", "tracking_image_latents")


def resolved(stage: ControlStage, samples: int, world: int) -> ControlStage:
    """The stage with ``accumulation`` from ``effective_batch`` and ``steps`` from ``epochs``. Raises ConfigError."""
    if stage.effective_batch:
        at_once = stage.batch_size * world
        if stage.effective_batch % at_once:
            raise ConfigError(
                f"control.effective_batch is {stage.effective_batch}: {world} processes with batch_size "
                f"{stage.batch_size} do {at_once} at once; use a multiple of that, or fewer processes"
            )
        stage = replace(stage, accumulation=stage.effective_batch // at_once)
    if stage.epochs:
        batch = stage.batch_size * stage.accumulation * world
        stage = replace(stage, steps=max(1, math.ceil(stage.epochs * samples / batch)))
    return stage


def embed_prompts(start: Start, prompts: list[str], folder: Path, hardware: Hardware) -> PromptEmbeddings:
    """The embeddings of all ``prompts`` and of none; the text encoder is loaded only where some are missing."""
    identity, wanted = start.text_identity(), ["", *prompts]
    if hardware.main:
        known = PromptEmbeddings(folder, identity)
        if known.missing(wanted):
            tokenizer, encoder = start.load_text()
            encoder.to(hardware.device)

            def embed(part: list[str]) -> Tensor:
                return encoder(tokenize(tokenizer, part, start.text_length).to(hardware.device))[0]

            known.add(wanted, embed)
    hardware.wait()
    return PromptEmbeddings(folder, identity)


def draw_kept(stage: ControlStage, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which conditions each sample keeps; at least one, since with neither there is nothing for the branch to learn."""
    u = torch.rand(count, generator=generator)
    keep_tracking = u >= stage.tracking_dropout
    keep_points = (u < stage.tracking_dropout) | (u >= stage.tracking_dropout + stage.points_dropout)
    return keep_tracking, keep_points


def draw_dropped(dropout: float, count: int, generator: torch.Generator) -> Tensor:
    """(count,) bool; draws nothing where nothing can be dropped."""
    return torch.rand(count, generator=generator) < dropout if dropout else torch.zeros(count, dtype=torch.bool)


class ControlStep:
    """One batch: from cached rows to the loss."""

    def __init__(
        self,
        config: TrainConfig,
        stage: ControlStage,
        cache: LatentCache,
        embeddings: PromptEmbeddings,
        network: Any,
        noising: Noising,
        hardware: Hardware,
    ) -> None:
        self.stage, self.cache, self.embeddings, self.hardware = stage, cache, embeddings, hardware
        self.noising, self.network = noising, network
        inner = getattr(network, "module", network)
        self.rope = on_device(rotary(inner.config, config.video), hardware.device)
        self.conditions = POINTS if inner.config.point_cloud else ()

    def __call__(self, part: Part) -> tuple[Tensor, dict[str, float]]:
        stage, generator = self.stage, part.generator
        index = part.rows(len(self.cache), stage.batch_size, stage.epochs > 0)
        batch = self.cache.batch(index, ("latents", "image_latents", *TRACKING, *self.conditions, "mask"))
        batch["image_latents"] = pick_image(batch["image_latents"], generator)
        clean = batch["latents"].to(self.hardware.device)
        noisy, timesteps = self.noising.draw(clean, generator)
        keep_tracking, keep_points = draw_kept(stage, len(index), generator)
        if not self.conditions:
            keep_tracking = torch.ones_like(keep_tracking)  # the branch has nothing else to go by
        no_image = draw_dropped(stage.image_dropout, len(index), generator)
        no_text = draw_dropped(stage.text_dropout, len(index), generator)
        for name in ("image_latents", "tracking_image_latents"):
            batch[name] = torch.where(no_image.view(-1, 1, 1, 1), 0.0, batch[name])
        prompts = ["" if no_text[i] else self.cache.prompts[int(row)] for i, row in enumerate(index)]
        loss, plain = self.loss(batch, prompts, clean, noisy, timesteps, keep_tracking, keep_points)
        return loss, {"plain": float(plain)}

    def loss(
        self,
        batch: dict[str, Tensor],
        prompts: list[str],
        clean: Tensor,
        noisy: Tensor,
        timesteps: Tensor,
        keep_tracking: Tensor | None = None,
        keep_points: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(the loss that is trained with, the same without mask)."""
        stage, device, frames = self.stage, self.hardware.device, clean.shape[1]
        batch = {key: value.to(device) for key, value in batch.items() if key != "latents"}
        tracking = [batch["tracking_latents"], pad_in_time(batch["tracking_image_latents"], frames)]
        keep: dict[str, Tensor] = {}
        if keep_tracking is not None:
            keep["tracking_keep"] = keep_tracking.to(device)
        if keep_points is not None and self.conditions:
            keep["points_keep"] = keep_points.to(device)
        with self.hardware.autocast():
            output = self.network(
                hidden_states=torch.cat([noisy, pad_in_time(batch["image_latents"], frames)], 2),
                encoder_hidden_states=self.embeddings.rows(prompts).to(device).float(),
                timestep=timesteps,
                image_rotary_emb=self.rope,
                tracking_latents=torch.cat(tracking, 2),
                **{key: batch[key] for key in self.conditions},
                **keep,
                return_dict=False,
            )[0]
        mask = batch["mask"] if stage.mask_loss else None
        arguments = (output.float(), noisy, clean, timesteps, self.noising.scheduler)
        loss = mask_diffusion_loss(*arguments, mask, squared=stage.mask_loss_squared)
        with torch.no_grad():
            plain = mask_diffusion_loss(*arguments, None)
        return loss, plain


def train_control(
    config: TrainConfig, cache_folder: Path, out: Path, data: Path, hardware: Hardware, parts: Path | None = None
) -> None:
    """Trains the branch on the frozen base and writes the whole pipeline to ``out/pipeline``.

    ``parts``: the run whose VAE and base are used, where that is not ``out``.
    """
    start = find_start(config, parts or out)
    cache = load_cache(cache_folder, settings_of(config, start.tracking_range))
    stage = resolved(config.control, len(cache), hardware.world)
    hardware.accumulation = stage.accumulation
    validation = Validation(config, start, data / "heldout", hardware) if stage.validation.every else None
    prompts = cache.prompts + (validation.prompts if validation else [])
    embeddings = embed_prompts(start, prompts, out / "prompts", hardware)
    model = start.load_transformer(DTYPES[stage.frozen_dtype])
    if stage.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    trainer = Trainer(model, stage, out / "control_run", hardware)
    if hardware.main:
        print(
            f"{len(cache)} cached samples, {sum(p.numel() for p in trainer.trained.values()) / 1e6:.1f} M trained, "
            f"{stage.steps} steps of {stage.batch_size * trainer.parts} samples",
            flush=True,
        )
    noising = Noising(start.training_scheduler(), stage.shift_timesteps)
    step = ControlStep(config, stage, cache, embeddings, trainer.network, noising, hardware)
    if validation is not None:
        validation.prepare(step)
    trainer.run(step, validation)
    weights = trainer.whole_weights()
    if hardware.main:
        start.write_pipeline(weights, out / "pipeline")
    hardware.wait()
