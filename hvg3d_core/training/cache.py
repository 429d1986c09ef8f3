# SPDX-License-Identifier: Apache-2.0
"""Stage ``cache``: everything frozen is computed once: latents, tracking latents, points, cameras, latent masks."""

from __future__ import annotations

import json
import logging
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from safetensors import safe_open
from safetensors.torch import save_file

from ..conditions import Clip, network_inputs
from .augment import mirror, recolour, reverse, zoom
from .config import TrainConfig, VideoConfig
from .dataset import Sample, find_samples
from .losses import latent_mask
from .vae import to_tensor

log = logging.getLogger(__name__)
SHARD = 32  # clips a file


@torch.no_grad()
def encode(vae: AutoencoderKLCogVideoX, frames: np.ndarray) -> torch.Tensor:
    """T x H x W x 3 uint8 to F x 16 x H/8 x W/8 float16, scaled, the distribution's mode."""
    with torch.autocast("cpu", torch.bfloat16):
        latents = vae.encode(to_tensor(frames)[None]).latent_dist.mode()
    return (latents[0].float() * vae.config.scaling_factor).transpose(0, 1).half()


def encode_sample(
    vae: AutoencoderKLCogVideoX, clip: Clip, frames: np.ndarray, video: VideoConfig
) -> dict[str, torch.Tensor]:
    """The tensors of one clip, named as the transformer's arguments are."""
    inputs = network_inputs(
        clip, width=video.width, height=video.height, num_points=video.num_points, visible_only=video.visible_only
    )
    return {
        "latents": encode(vae, frames),
        "image_latents": encode(vae, frames[:1])[0],
        "tracking_latents": encode(vae, inputs.tracking_video),
        "tracking_image_latents": encode(vae, inputs.tracking_video[:1])[0],
        "points": torch.from_numpy(inputs.points).half(),
        "point_entity": torch.from_numpy(inputs.point_entity.copy()),
        "point_valid": torch.from_numpy(inputs.point_valid.copy()),
        "intrinsics": torch.from_numpy(inputs.intrinsics.copy()),
        "world_to_camera": torch.from_numpy(inputs.world_to_camera.copy()),
        "mask": latent_mask(torch.from_numpy(inputs.masks > 0)[None].float(), 8, 4)[0].half(),
    }


def variants(sample: Sample, video: VideoConfig, augment: bool) -> list[tuple[Clip, np.ndarray]]:
    """The clip itself and, for training, three twins: played backwards and mirrored, and each of the two alone with
    another section and light. What is random in them follows from the sample's name."""
    clip, frames = sample.clip(), sample.frames(video.width, video.height)
    found = [(clip, frames)]
    if augment:
        rng = np.random.default_rng(zlib.crc32(sample.name.encode()))
        found.append(mirror(*reverse(clip, frames)))
        for twin in (mirror(clip, frames), reverse(clip, frames)):
            closer, closer_frames = zoom(*twin, rng)
            found.append((closer, recolour(closer_frames, rng)))
    return found


def build_cache(config: TrainConfig, data: Path, out: Path, vae_folder: Path, augment: bool) -> None:
    """Write ``out/shard_*.safetensors``. Clips that a shard already has are left alone, so that a killed run goes on
    where it was and clips rendered since are added."""
    out.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKLCogVideoX.from_pretrained(vae_folder).eval()
    shards = sorted(out.glob("shard_*.safetensors"))
    done = {name for path in shards for name in _names(path)}
    samples = [sample for sample in find_samples(data) if sample.name not in done]
    for start in range(0, len(samples), SHARD):
        path = out / f"shard_{len(shards) + start // SHARD:05d}.safetensors"
        rows: list[dict[str, torch.Tensor]] = []
        prompts: list[str] = []
        names: list[str] = []
        for sample in samples[start : start + SHARD]:
            try:
                for clip, frames in variants(sample, config.video, augment):
                    rows.append(encode_sample(vae, clip, frames, config.video))
                    prompts.append(clip.prompt)
                    names.append(sample.name)
            except (OSError, ValueError) as error:
                log.warning("left out %s: %s", sample.name, error)
        if not rows:
            continue
        tensors = {key: torch.stack([row[key] for row in rows]).contiguous() for key in rows[0]}
        partial = path.with_suffix(".partial")
        save_file(tensors, partial, {"prompts": json.dumps(prompts), "names": json.dumps(names)})
        partial.replace(path)
        print(f"{path.name}: {len(rows)} samples", flush=True)


def _names(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["names"])


@dataclass
class LatentCache:
    """A whole cache in memory: ``tensors[name]`` is stacked over samples."""

    tensors: dict[str, torch.Tensor]
    prompts: list[str]
    names: list[str]

    def __len__(self) -> int:
        return len(self.prompts)

    def batch(self, indices: torch.Tensor, names: tuple[str, ...] | None = None) -> dict[str, torch.Tensor]:
        """Rows as float32, but for what is boolean or integer."""
        found = {}
        for name in names or tuple(self.tensors):
            rows = self.tensors[name][indices]
            found[name] = rows.float() if rows.is_floating_point() else rows
        return found


def load_cache(folder: Path) -> LatentCache:
    parts: dict[str, list[torch.Tensor]] = {}
    prompts: list[str] = []
    names: list[str] = []
    paths = sorted(folder.glob("shard_*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no cached latents there; run the cache stage first")
    for path in paths:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            prompts += json.loads(metadata["prompts"])
            names += json.loads(metadata["names"])
            for key in file.keys():  # noqa: SIM118 (no dictionary: it has no iterator)
                parts.setdefault(key, []).append(file.get_tensor(key))
    return LatentCache({key: torch.cat(tensors) for key, tensors in parts.items()}, prompts, names)
