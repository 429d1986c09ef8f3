# SPDX-License-Identifier: Apache-2.0
"""The stages of a training run by name, and the packing of its result into a shipped folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from .config import ConfigError, TrainConfig, load_config

SHIPPED_CONFIGS = Path(__file__).parent / "configs"
STAGES = ("vae", "cache", "decoder", "base", "control", "pack")


def find_config(name: str) -> TrainConfig:
    path = Path(name)
    return load_config(path if path.suffix == ".toml" else SHIPPED_CONFIGS / f"{name}.toml")


def run_stage(stage: str, config_name: str, data: Path, out: Path) -> None:
    """Run one of STAGES. ``data`` holds ``train/`` and ``heldout/``; everything written goes under ``out``."""
    config = find_config(config_name)
    if stage == "vae":
        from .vae import train_vae

        train_vae(config, data / "train", out, data / "heldout")
    elif stage == "cache":
        from .cache import build_cache

        build_cache(config, data / "train", out / "cache", out / "vae", augment=True)
    elif stage == "decoder":
        from .decoder import train_decoder

        train_decoder(config, data / "train", out / "cache", out, data / "heldout")
    elif stage == "base":
        from .denoiser import train_base

        train_base(config, out / "cache", out)
    elif stage == "control":
        from .denoiser import train_control

        train_control(config, out / "cache", out)
    elif stage == "pack":
        pack(config, out / "pipeline", out / "packed")
    else:
        raise ConfigError(f"stage {stage!r} is not one of {', '.join(STAGES)}")


def pack(config: TrainConfig, pipeline_folder: Path, target: Path) -> None:
    """The pipeline in half precision, with the two files that say how it is to be run."""
    from ..pipelines import HVG3DImageToVideoPipeline

    pipeline = HVG3DImageToVideoPipeline.from_pretrained(pipeline_folder, dtype=torch.float32)
    pipeline.to(torch.float16).save_pretrained(target)
    described = {
        "title": "HVG-3D nano",
        "licence": "Apache-2.0",
        "summary": "The whole system, small: trained from scratch on rendered scenes. A demonstration, not photoreal.",
        "width": config.video.width,
        "height": config.video.height,
        "num_frames": config.video.num_frames,
        "num_inference_steps": 3,
        "guidance_scale": 1.0,
    }
    (target / "hvg3d.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    inputs = {"num_points": config.video.num_points, "visible_only": config.video.visible_only}
    (target / "hvg3d_inputs.json").write_text(json.dumps(inputs, indent=2) + "\n", encoding="utf-8")
