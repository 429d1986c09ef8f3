# SPDX-License-Identifier: Apache-2.0
"""Stage ``cache``: everything frozen is computed once: latents, tracking latents, points, cameras, latent masks."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..conditions import Clip, NetworkInputs, network_inputs, resample_indices
from .augment import mirror, recolour, reverse, zoom
from .config import TrainConfig, TrainingError, VideoConfig
from .dataset import UNREADABLE, Broken, Sample, find_samples, fitted
from .hardware import Hardware
from .losses import latent_mask
from .vae import to_tensor

SHARD = 32  # clips a file
BROKEN = "broken.jsonl"
CONDITIONS = ("points", "point_entity", "point_valid", "intrinsics", "world_to_camera")


class Encoder:
    """The frozen VAE, and how what it makes is scaled."""

    def __init__(self, vae: Any, hardware: Hardware, tracking_range: str = "minus_one_one") -> None:
        self.vae = vae.eval().requires_grad_(False).to(hardware.device)
        self.hardware, self.tracking_range = hardware, tracking_range

    def identity(self) -> str:
        """Of the encoder alone: the decoder may be trained further without making latents void."""
        digest = hashlib.sha256(str(self.vae.config.scaling_factor).encode())
        for name, value in self.vae.state_dict().items():
            if not name.startswith("decoder."):
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def encode(self, video: Tensor, scale: float | None = None) -> Tensor:
        """3 x T x H x W to F x 16 x H/8 x W/8 float16 on the CPU, scaled, the distribution's mode."""
        with self.hardware.autocast():
            latents = self.vae.encode(video[None].to(self.hardware.device)).latent_dist.mode()
        factor = self.vae.config.scaling_factor if scale is None else scale
        return (latents[0].float() * factor).transpose(0, 1).half().cpu()

    def image(self, frame: Tensor) -> Tensor:
        """The first frame, 3 x 1 x H x W in [-1, 1], to 16 x h x w. CogVideoX 1.5 alone divides by the factor."""
        factor = self.vae.config.scaling_factor
        return self.encode(frame, 1 / factor if getattr(self.vae.config, "invert_scale_latents", False) else factor)[0]

    def tracking(self, video: np.ndarray) -> tuple[Tensor, Tensor]:
        """T x H x W x 3 uint8 to the latents of the video and of its first frame, as the pipeline has them."""
        signed = to_tensor(video)
        in_range = signed if self.tracking_range == "minus_one_one" else (signed + 1) / 2
        return self.encode(in_range), self.encode(signed[:, :1])[0]


def noised(frame: Tensor, draws: int, generator: torch.Generator) -> list[Tensor]:
    """The image under noise whose strength is exp(N(-3, 0.5)), as DaS and its ancestors train with."""
    strengths = torch.exp(torch.randn(draws, generator=generator) * 0.5 - 3.0)
    return [frame + strength * torch.randn(frame.shape, generator=generator) for strength in strengths]


def _inputs(clip: Clip, video: VideoConfig) -> NetworkInputs:
    return network_inputs(
        clip,
        num_frames=video.num_frames,
        width=video.width,
        height=video.height,
        num_points=video.num_points,
        visible_only=video.visible_only,
    )


def _condition_rows(inputs: NetworkInputs) -> dict[str, Tensor]:
    """What of a cached row depends on the points, the CONDITIONS."""
    rows = {key: torch.from_numpy(np.array(getattr(inputs, key))) for key in CONDITIONS}
    return rows | {"points": rows["points"].half()}


def encode_sample(
    encoder: Encoder, clip: Clip, frames: np.ndarray, config: TrainConfig, name: str
) -> dict[str, Tensor]:
    """The tensors of one clip, named as the transformer's arguments are. Raises ValueError where one is not finite."""
    inputs = _inputs(clip, config.video)
    pixels = to_tensor(frames)
    image_latents = encoder.image(pixels[:, :1])
    if config.data.image_noise_draws:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        images = noised(pixels[:, :1], config.data.image_noise_draws, generator)
        image_latents = torch.stack([encoder.image(image) for image in images])
    tracking_latents, tracking_image_latents = encoder.tracking(inputs.tracking_video)
    row = {
        "latents": encoder.encode(pixels),
        "image_latents": image_latents,
        "tracking_latents": tracking_latents,
        "tracking_image_latents": tracking_image_latents,
        **_condition_rows(inputs),
        "mask": latent_mask(torch.from_numpy(inputs.masks > 0)[None].float(), 8, 4)[0].half(),
    }
    for key, value in row.items():
        if not value.isfinite().all():
            raise ValueError(f"{key}: not finite after encoding")
    return row


def variants(sample: Sample, video: VideoConfig, augment: bool) -> list[tuple[Clip, np.ndarray]]:
    """The clip itself and, for training, three twins: played backwards and mirrored, and each of the two alone with
    another section and light. What is random in them follows from the sample's name. Frames are the network's."""
    clip, frames = sample.clip(), sample.source_frames()
    if len(frames) < video.num_frames:
        raise ValueError(f"{len(frames)} frames where the configuration says {video.num_frames}")
    found = [(clip, frames)]
    if augment:
        rng = np.random.default_rng(zlib.crc32(sample.name.encode()))
        found.append(mirror(*reverse(clip, frames)))
        for twin in (mirror(clip, frames), reverse(clip, frames)):
            closer, closer_frames = zoom(*twin, rng)
            found.append((closer, recolour(closer_frames, rng)))
    time = resample_indices(len(frames), video.num_frames)
    return [(twin, fitted(pictures[time], video.width, video.height)) for twin, pictures in found]


def settings_of(config: TrainConfig, tracking_range: str) -> dict[str, Any]:
    """What cached latents depend on, beside the clips and the VAE."""
    return {
        **{f"video.{key}": getattr(config.video, key) for key in VideoConfig.__dataclass_fields__},
        "data.image_noise_draws": config.data.image_noise_draws,
        "tracking_range": tracking_range,
    }


def check_settings(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise TrainingError where latents were made otherwise. Those without a record are from before there was one."""
    for key in found.keys() & wanted.keys():
        if found[key] != wanted[key]:
            raise TrainingError(
                f"{folder}: the latents there were made with {key} {found[key]}, and now it is {wanted[key]}; delete "
                "the folder to have them made anew, or use another --out"
            )


def build_cache(config: TrainConfig, data: Path, out: Path, encoder: Encoder, augment: bool) -> None:
    """Write ``out/shard_*.safetensors``. Clips that a shard already has are left alone, so that a killed run goes on
    where it was and clips rendered since are added. Several processes share the work.

    Samples that cannot be used are named in ``out/broken.jsonl``; raises TrainingError where they are too many.
    """
    hardware = encoder.hardware
    out.mkdir(parents=True, exist_ok=True)
    settings = settings_of(config, encoder.tracking_range) | {"vae": encoder.identity()}
    shards = _shards(out)
    done: set[str] = set()
    for path in shards:
        metadata = _metadata(path)
        check_settings(out, json.loads(metadata.get("settings", "{}")), settings)
        done |= set(json.loads(metadata["names"]))
    samples = find_samples(data)
    missing = [sample for sample in samples if sample.name not in done]
    first = 1 + max((int(match[1]) for path in shards if (match := re.search(r"(\d+)$", path.stem))), default=-1)
    hardware.wait()  # all have seen the same shards before one adds to them
    broken = Broken()
    for number, start in enumerate(range(0, len(missing), SHARD)):
        if number % hardware.world != hardware.rank:
            continue
        path = out / f"shard_{first + number:05d}.safetensors"
        rows: list[dict[str, Tensor]] = []
        prompts: list[str] = []
        names: list[str] = []
        for sample in missing[start : start + SHARD]:
            try:
                twins = variants(sample, config.video, augment)
                encoded = [encode_sample(encoder, clip, frames, config, sample.name) for clip, frames in twins]
            except UNREADABLE as error:
                broken.add(sample.name, error)
                continue
            rows += encoded
            prompts += [clip.prompt for clip, _ in twins]
            names += [sample.name] * len(twins)
        if not rows:
            continue
        tensors = {key: torch.stack([row[key] for row in rows]).contiguous() for key in rows[0]}
        partial = path.with_suffix(".partial")
        described = {"prompts": prompts, "names": names, "settings": settings}
        save_file(tensors, partial, {key: json.dumps(value) for key, value in described.items()})
        partial.replace(path)
        print(f"{path.name}: {len(rows)} samples", flush=True)
    everywhere = Broken({k: v for part in hardware.gather(broken.reasons) for k, v in part.items()})
    if hardware.main:
        everywhere.write(out / BROKEN)
        if everywhere.reasons:
            print(f"left out {len(everywhere.reasons)} of {len(samples)} samples, see {out / BROKEN}", flush=True)
    hardware.wait()
    everywhere.check(len(samples), config.data.max_broken_share)


def rebuild_conditions(config: TrainConfig, data: Path, source: Path, out: Path, settings: dict[str, Any]) -> None:
    """Write the latents of ``source`` to ``out`` with points as ``config`` has them: the pixels stay, and the VAE is
    not asked again. ``settings`` as :func:`settings_of` gives them. Raises TrainingError where a clip has gone."""
    out.mkdir(parents=True, exist_ok=True)
    samples = {sample.name: sample for sample in find_samples(data)}
    for path in _shards(source):
        target = out / path.name
        if target.exists():
            continue
        metadata = _metadata(path)
        names = json.loads(metadata["names"])
        rows: list[dict[str, Tensor]] = []
        for name in dict.fromkeys(names):
            if name not in samples:
                raise TrainingError(f"{source}: {name} is among its latents and no longer in {data}; render it again")
            twins = variants(samples[name], config.video, names.count(name) > 1)
            rows += [_condition_rows(_inputs(clip, config.video)) for clip, _ in twins]
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        if len(rows) != len(names):
            raise TrainingError(
                f"{path}: {len(names)} rows where the clips give {len(rows)}; delete it and cache again"
            )
        tensors |= {key: torch.stack([row[key] for row in rows]).contiguous() for key in CONDITIONS}
        known = json.loads(metadata.get("settings", "{}"))
        partial = target.with_suffix(".partial")
        save_file(tensors, partial, {**metadata, "settings": json.dumps(known | settings)})
        partial.replace(target)


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard_*.safetensors"))


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            return file.metadata()
    except (SafetensorError, OSError) as error:
        raise TrainingError(
            f"{path}: it cannot be read ({error}); delete it, and its clips are encoded again"
        ) from None


class LatentCache:
    """The latents of a data set, memory-mapped: rows are read when a batch asks for them."""

    def __init__(self, folder: Path) -> None:
        self.paths = _shards(folder)
        if not self.paths:
            raise FileNotFoundError(f"{folder}: no cached latents there; run the cache stage first")
        self.prompts: list[str] = []
        self.names: list[str] = []
        self.settings: list[dict[str, Any]] = []
        self._starts: list[int] = []
        for path in self.paths:
            metadata = _metadata(path)
            self._starts.append(len(self.prompts))
            self.prompts += json.loads(metadata["prompts"])
            self.names += json.loads(metadata["names"])
            self.settings.append(json.loads(metadata.get("settings", "{}")))
        self._files: dict[int, Any] = {}
        self.keys = tuple(self._file(0).keys())

    def __len__(self) -> int:
        return len(self.prompts)

    def _file(self, shard: int) -> Any:
        if shard not in self._files:
            self._files[shard] = safe_open(self.paths[shard], "pt")
        return self._files[shard]

    def row(self, name: str, index: int) -> Tensor:
        shard = bisect_right(self._starts, index) - 1
        return self._file(shard).get_slice(name)[index - self._starts[shard]]

    def batch(self, indices: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Rows as float32, but for what is boolean or integer."""
        found = {}
        for name in names or self.keys:
            rows = torch.stack([self.row(name, int(i)) for i in indices])
            found[name] = rows.float() if rows.is_floating_point() else rows
        return found


def load_cache(folder: Path, wanted: dict[str, Any] | None = None) -> LatentCache:
    """Raises TrainingError where the latents were not made as ``wanted`` (see :func:`settings_of`) says."""
    cache = LatentCache(folder)
    for settings in cache.settings:
        check_settings(folder, settings, wanted or {})
    return cache
