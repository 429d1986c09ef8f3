# SPDX-License-Identifier: Apache-2.0
"""Stage ``decoder``: the VAE's decoder trained further on the cached latents, its encoder left alone.

The latents stay what they are, so neither the cache nor what was trained on it is lost; and without the encoder a step
sees whole clips in time, where stage ``vae`` could afford nine frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from torch.nn import functional as F

from .cache import load_cache
from .config import TrainConfig
from .dataset import find_samples, load_frames
from .hardware import Hardware
from .loop import Part, Trainer
from .vae import chroma_l1, gradient_l1, to_tensor, vae_psnr

CELL = 8  # pixels a latent


def window(extent: int, size: int, start: int, margin: int = 1) -> tuple[slice, slice]:
    """(where in the whole, where in the crop) the loss counts, in latents: a crop's outermost cells are left out, for
    they lack the neighbours that they had when they were encoded, but not where the image itself ends."""
    low = 0 if start == 0 else margin
    high = size if start + size == extent else size - margin
    return slice(start + low, start + high), slice(low, high)


def pixels(cells: slice) -> slice:
    return slice(cells.start * CELL, cells.stop * CELL)


def train_decoder(
    config: TrainConfig, data: Path, cache_folder: Path, out: Path, hardware: Hardware, heldout: Path | None = None
) -> None:
    """Trains the decoder of ``out/vae`` on the cached latents of the clips as they are, and writes it back there."""
    stage, video = config.decoder, config.video
    cache = load_cache(cache_folder)
    first = {name: row for row, name in reversed(list(enumerate(cache.names)))}
    share = config.data.max_broken_share
    loaded = load_frames(find_samples(data), video.width, video.height, video.num_frames, share)
    clips = [(first[sample.name], frames) for sample, frames in loaded if sample.name in first]
    torch.manual_seed(stage.seed)
    vae: Any = AutoencoderKLCogVideoX.from_pretrained(out / "vae")
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    trainer = Trainer(vae, stage, out / "decoder_run", hardware)
    vae.train()
    scale = vae.config.scaling_factor
    rows, columns = video.height // CELL, video.width // CELL
    size = min(stage.crop // CELL, rows, columns)
    print(f"{len(clips)} clips", flush=True)

    def loss_of_part(part: Part) -> tuple[torch.Tensor, dict[str, float]]:
        def draw(high: int) -> int:
            return int(torch.randint(high, (1,), generator=part.generator))

        # One place for the whole batch: every sample then counts the same pixels.
        y, x = draw(rows - size + 1), draw(columns - size + 1)
        (whole_y, crop_y), (whole_x, crop_x) = window(rows, size, y), window(columns, size, x)
        drawn = [clips[draw(len(clips))] for _ in range(stage.batch_size)]
        latents = cache.batch(torch.tensor([row for row, _ in drawn]), ("latents",))["latents"] / scale
        latents = latents[..., y : y + size, x : x + size].transpose(1, 2).to(hardware.device)
        truth = to_tensor(np.stack([frames[:, pixels(whole_y), pixels(whole_x)] for _, frames in drawn]))
        truth = truth.to(hardware.device)
        with hardware.autocast():
            rebuilt = vae.decode(latents).sample
        rebuilt = rebuilt.float()[..., pixels(crop_y), pixels(crop_x)]
        l1, mse = F.l1_loss(rebuilt, truth), F.mse_loss(rebuilt, truth)
        loss = l1 + stage.mse_weight * mse + stage.gradient_weight * gradient_l1(rebuilt, truth)
        loss = loss + stage.chroma_weight * chroma_l1(rebuilt, truth)
        return loss, {"l1": float(l1.detach()), "psnr": float(10 * torch.log10(4 / mse.detach()))}

    trainer.run(loss_of_part)
    trainer.export_weights()
    vae.eval().requires_grad_(True)
    vae.save_pretrained(out / "vae")
    if heldout is not None:
        held = load_frames(find_samples(heldout), video.width, video.height, video.num_frames)[:12]
        print(f"held-out reconstruction: {vae_psnr(vae, [frames for _, frames in held], hardware):.2f} dB", flush=True)
