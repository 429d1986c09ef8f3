# SPDX-License-Identifier: Apache-2.0
"""PSNR on held-out clips: what the conditions bring, against the same network without them and a repeated picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from ..conditions import network_inputs
from ..generate import GenerationModel, GenerationRequest, generate, load_model
from ..training.dataset import find_samples, load_frames
from .metrics import Interval, bootstrap_mean, masked_psnr

REPEAT, CEILING = "repeat the reference frame", "the VAE's reconstruction of the truth"
VARIANTS: dict[str, dict[str, Any]] = {
    "conditions dropped": {"use_tracking": False, "use_points": False},
    "tracking only": {"use_points": False},
    "points only": {"use_tracking": False},
    "points and tracking": {},
}


@dataclass
class Table:
    """``region[name]`` and ``frame[name]`` hold one PSNR for each clip, in the order of ``clips``."""

    clips: list[str]
    region: dict[str, list[float]]
    frame: dict[str, list[float]]
    settings: dict[str, object]

    def gain(self, name: str, over: str) -> Interval:
        return bootstrap_mean(np.subtract(self.region[name], self.region[over]))

    def markdown(self) -> str:
        full = "points and tracking"
        lines = [
            f"PSNR in dB on {len(self.clips)} held-out clips, mean and 95 % bootstrap interval over clips.",
            f"Settings: {json.dumps(self.settings)}",
            "",
            "| | hand-object region | full frame |",
            "|---|---|---|",
        ]
        for name in self.region:
            region, frame = bootstrap_mean(np.array(self.region[name])), bootstrap_mean(np.array(self.frame[name]))
            lines.append(f"| {name} | {region} | {frame} |")
        lines += ["", f"Gain of *{full}* in the hand-object region, clip by clip:", ""]
        lines += [f"- over *{name}*: {self.gain(full, name)} dB" for name in self.region if name not in (full, CEILING)]
        return "\n".join(lines) + "\n"


def reconstruct(model: GenerationModel, frames: np.ndarray) -> np.ndarray:
    """What the VAE alone makes of the true frames: no video of this model can be closer."""
    vae = cast(Any, model.pipeline).vae
    video = torch.from_numpy(np.array(frames)).movedim(-1, 0)[None].float().div(127.5).sub(1).to(model.device)
    with torch.no_grad(), torch.autocast(torch.device(model.device).type, torch.bfloat16):
        rebuilt = vae.decode(vae.encode(video).latent_dist.mode()).sample[0].float().clamp(-1, 1)
    return rebuilt.movedim(0, -1).add(1).mul(127.5).round().byte().cpu().numpy()


def strip(rows: Sequence[np.ndarray], columns: int = 6) -> Image.Image:
    """One row of frames for each video."""
    index = np.linspace(0, len(rows[0]) - 1, columns).round().astype(int)
    return Image.fromarray(np.concatenate([np.concatenate(list(video[index]), axis=1) for video in rows], axis=0))


def evaluate(
    data: Path, *, model_name: str = "nano", limit: int | None = None, seed: int = 0, out: Path | None = None
) -> Table:
    """Generate every clip of a folder in every variant with the same seed, and compare it with its true frames.

    With ``out``: writes the table as ``table.md`` and ``table.json``, and strips (truth, dropped, full) of each clip.
    """
    model = load_model(model_name)
    entry = model.entry
    samples = load_frames(find_samples(data), entry.width, entry.height, entry.num_frames)[:limit]
    names = [REPEAT, *VARIANTS, CEILING]
    table = Table([], {n: [] for n in names}, {n: [] for n in names}, {})
    table.settings = {
        "model": entry.title,
        "steps": entry.num_inference_steps,
        "guidance": entry.guidance_scale,
        "seed": seed,
    }
    for sample, truth in samples:
        clip = sample.clip()
        mask = network_inputs(clip, num_frames=entry.num_frames, width=entry.width, height=entry.height).masks > 0
        reference = Image.fromarray(truth[0])
        videos = {REPEAT: np.repeat(truth[:1], len(truth), axis=0)}
        for name, switches in VARIANTS.items():
            request = replace(GenerationRequest(seed=seed, num_frames=entry.num_frames), **switches)
            videos[name] = generate(model, clip, request, reference=reference).frames
        videos[CEILING] = reconstruct(model, truth)
        # Frame 0 is given to the network: only the frames it had to make count.
        for name, video in videos.items():
            table.region[name].append(masked_psnr(video[1:], truth[1:], mask[1:]))
            table.frame[name].append(masked_psnr(video[1:], truth[1:]))
        table.clips.append(sample.name)
        print(sample.name, " ".join(f"{n}: {v[-1]:.2f}" for n, v in table.region.items()), flush=True)
        if out is not None:
            (out / "strips").mkdir(parents=True, exist_ok=True)
            rows = [truth, videos["conditions dropped"], videos["points and tracking"]]
            strip(rows).save(out / "strips" / f"{sample.name}.png")
    if out is not None:
        (out / "table.md").write_text(table.markdown(), encoding="utf-8")
        numbers = {"clips": table.clips, "settings": table.settings, "region": table.region, "frame": table.frame}
        (out / "table.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return table
