# SPDX-License-Identifier: Apache-2.0
"""Stage ``vae``: a small CogVideoX VAE from scratch, on frames first and on short clips then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from torch.nn import functional as F

from ..conditions import network_inputs
from .config import TrainConfig
from .dataset import find_samples, load_frames
from .hardware import Hardware
from .loop import Part, Trainer


def build_vae(config: TrainConfig) -> Any:
    stage = config.vae
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * len(stage.block_out_channels),
        up_block_types=("CogVideoXUpBlock3D",) * len(stage.block_out_channels),
        block_out_channels=stage.block_out_channels,
        layers_per_block=stage.layers_per_block,
        norm_num_groups=stage.norm_num_groups,
        latent_channels=16,
        sample_height=config.video.height,
        sample_width=config.video.width,
        scaling_factor=1.0,
    )


def to_tensor(frames: np.ndarray) -> torch.Tensor:
    """... x T x H x W x 3 uint8 to ... x 3 x T x H x W in [-1, 1]."""
    return torch.from_numpy(frames).movedim(-1, -4).float().div_(127.5).sub_(1)


def gradient_l1(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """L1 between the horizontal and vertical finite differences: keeps edges that plain L1 blurs."""
    return (a.diff(dim=-1) - b.diff(dim=-1)).abs().mean() + (a.diff(dim=-2) - b.diff(dim=-2)).abs().mean()


def chroma_l1(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """L1 of the opponent colours R - G and B - (R + G) / 2 of B x 3 x ... images.

    Plain L1 is mostly about brightness, and a small latent then spends itself on that: green and purple came out grey.
    """
    difference = a - b
    red, green, blue = difference.unbind(1)
    return (red - green).abs().mean() + (blue - (red + green) / 2).abs().mean()


def green_anchor(latents: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
    """Squared distance of latent channel 0 from three times the mean of G - (R + B) / 2 over each latent's own pixels.

    Green to magenta varies least in such scenes. Left to itself a small VAE drops that direction altogether (a linear
    probe of its latents explained none of it); one channel is told to carry it, and the decoder then learns to use it.
    """
    red, green, blue = video.unbind(1)
    opponent = green - (red + blue) / 2
    if opponent.shape[1] > 1:  # a latent frame stands for frame 0, then for groups of 4
        groups = opponent[:, 1:].unflatten(1, (-1, 4)).mean(dim=2)
        opponent = torch.cat([opponent[:, :1], groups], dim=1)
    return F.mse_loss(latents[:, 0].float(), 3 * F.avg_pool2d(opponent, 8))


def crops(clips: list[np.ndarray], count: int, frames: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Random crops in space and time, count x 3 x frames x size x size, with random flips and channel orders."""

    def draw(high: int) -> int:
        return int(torch.randint(high, (1,), generator=generator))

    batch = []
    for _ in range(count):
        clip = clips[draw(len(clips))]
        t, y, x = (draw(clip.shape[axis] - extent + 1) for axis, extent in ((0, frames), (1, size), (2, size)))
        crop = clip[t : t + frames, y : y + size, x : x + size]
        if draw(2):
            crop = crop[:, :, ::-1]
        if draw(4) == 0:
            crop = crop[..., torch.randperm(3, generator=generator).numpy()]
        batch.append(np.ascontiguousarray(crop))
    return to_tensor(np.stack(batch))


def vae_psnr(vae: Any, clips: list[np.ndarray], hardware: Hardware) -> float:
    """Mean over clips of the PSNR of whole reconstructed clips, in dB."""
    values = []
    with torch.no_grad(), hardware.autocast():
        for clip in clips:
            video = to_tensor(clip)[None].to(hardware.device)
            rebuilt = vae.decode(vae.encode(video).latent_dist.mode()).sample.float().clamp(-1, 1)
            values.append(float(10 * torch.log10(4 / F.mse_loss(rebuilt, video))))
    return float(np.mean(values))


def train_vae(config: TrainConfig, data: Path, out: Path, hardware: Hardware, heldout: Path | None = None) -> None:
    """Trains, then writes ``out/vae`` (a diffusers folder) with ``scaling_factor`` set from the latents' spread."""
    stage, video = config.vae, config.video
    share = config.data.max_broken_share
    loaded = load_frames(find_samples(data), video.width, video.height, video.num_frames, share)
    clips = [frames for _, frames in loaded]
    tracking = [
        network_inputs(
            sample.clip(), num_frames=video.num_frames, width=video.width, height=video.height
        ).tracking_video
        for sample, _ in loaded[: max(1, len(loaded) // 6)]
    ]
    print(f"{len(clips)} clips, {len(tracking)} tracking videos", flush=True)
    torch.manual_seed(stage.seed)
    vae = build_vae(config)
    trainer = Trainer(vae, stage, out / "vae_run", hardware)
    vae.train()

    def loss_of_part(part: Part) -> tuple[torch.Tensor, dict[str, float]]:
        generator = part.generator
        images = part.step < stage.image_share * stage.steps
        count, frames = (stage.image_batch_size, 1) if images else (stage.batch_size, stage.video_frames)
        of_tracking = sum(float(torch.rand(1, generator=generator)) < stage.tracking_share for _ in range(count))
        found = []
        for source, wanted in ((clips, count - of_tracking), (tracking, of_tracking)):
            if wanted:
                found.append(crops(source, wanted, frames, stage.video_crop, generator))
        x = torch.cat(found).to(hardware.device)
        with hardware.autocast():
            posterior = vae.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(hardware.device)
            rebuilt = vae.decode(posterior.mean + posterior.std * noise).sample
        rebuilt = rebuilt.float()
        l1, mse = F.l1_loss(rebuilt, x), F.mse_loss(rebuilt, x)
        kl = posterior.kl().float().mean() / x[0].numel()
        loss = l1 + stage.mse_weight * mse + stage.gradient_weight * gradient_l1(rebuilt, x) + stage.kl_weight * kl
        loss = loss + stage.chroma_weight * chroma_l1(rebuilt, x)
        loss = loss + stage.green_anchor_weight * green_anchor(posterior.mean, x)
        return loss, {
            "l1": float(l1.detach()),
            "psnr": float(10 * torch.log10(4 / mse.detach())),
            "kl": float(kl.detach()),
        }

    trainer.run(loss_of_part)
    trainer.export_weights()
    vae.eval()
    with torch.no_grad(), hardware.autocast():
        videos = (to_tensor(clip)[None].to(hardware.device) for clip in clips[:32])
        spread = torch.stack([vae.encode(video).latent_dist.mode().float().std() for video in videos])
    vae.register_to_config(scaling_factor=round(1.0 / float(spread.mean()), 4))
    vae.save_pretrained(out / "vae")
    if heldout is not None:
        held = load_frames(find_samples(heldout), video.width, video.height, video.num_frames)[:12]
        print(f"held-out reconstruction: {vae_psnr(vae, [frames for _, frames in held], hardware):.2f} dB", flush=True)
