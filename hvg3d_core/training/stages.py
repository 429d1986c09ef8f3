# SPDX-License-Identifier: Apache-2.0
"""The stages of a training run by name, and the packing of its result into a shipped folder."""

from __future__ import annotations

from pathlib import Path

import torch

from .config import STAGES, ConfigError, TrainConfig, load_config
from .hardware import Hardware, die_with_launcher, only_run_in

SHIPPED_CONFIGS = Path(__file__).parent / "configs"
ALONE = ("vae", "decoder", "base", "pack")  # small work, for one process


def find_config(name: str) -> TrainConfig:
    """A TOML file, or a shipped configuration's name."""
    path = Path(name)
    if path.suffix == ".toml":
        return load_config(path)
    shipped = sorted(file.stem for file in SHIPPED_CONFIGS.glob("*.toml"))
    if name not in shipped:
        raise ConfigError(f"configuration {name!r} is not known: use one of {', '.join(shipped)}, or a .toml file")
    return load_config(SHIPPED_CONFIGS / f"{name}.toml")


def folders(config: TrainConfig, data: Path | None, out: Path | None) -> tuple[Path, Path]:
    """(data, out): what the command line says, else what the configuration says."""
    data = data or Path(config.data.folder or f"data/{config.name}")
    return data, out or data / "run"


def run_stage(stage: str, config_name: str, data: Path | None = None, out: Path | None = None) -> None:
    """Run one of STAGES. ``data`` holds ``train/`` and ``heldout/``; everything written goes under ``out``."""
    run_stages((stage,), find_config(config_name), data, out)


def run_stages(stages: tuple[str, ...], config: TrainConfig, data: Path | None = None, out: Path | None = None) -> None:
    """Run stages one after the other, in as many processes as this one is among."""
    for stage in stages:
        if stage not in STAGES:
            raise ConfigError(f"stage {stage!r} is not one of {', '.join(STAGES)}")
    data, out = folders(config, data, out)
    die_with_launcher()
    hardware = Hardware(config.hardware, config.control.accumulation, config.control.clip_grad_norm)
    try:
        with only_run_in(out, hardware.main):
            for stage in stages:
                if hardware.world > 1 and stage in ALONE:
                    raise ConfigError(
                        f"hardware.processes is {hardware.world}: stage {stage} takes one; set it to 1 for this stage"
                    )
                _run(stage, config, data, out, hardware)
    finally:
        hardware.close()


def _run(stage: str, config: TrainConfig, data: Path, out: Path, hardware: Hardware) -> None:
    if stage == "vae":
        from .vae import train_vae

        train_vae(config, data / "train", out, hardware, data / "heldout")
    elif stage == "cache":
        from .cache import Encoder, build_cache
        from .control import embed_prompts
        from .start import find_start

        start = find_start(config, out)
        trained_here = start.root is None  # then the text encoder comes later, and decides nothing yet
        tracking = config.control.transformer.get("tracking_range", "minus_one_one")
        encoder = Encoder(start.load_vae(), hardware, tracking if trained_here else start.tracking_range)
        build_cache(config, data / "train", out / "cache", encoder, config.data.augment)
        if not trained_here:
            from .cache import load_cache

            embed_prompts(start, load_cache(out / "cache").prompts, out / "prompts", hardware)
    elif stage == "decoder":
        from .decoder import train_decoder

        train_decoder(config, data / "train", out / "cache", out, hardware, data / "heldout")
    elif stage == "base":
        from .denoiser import train_base

        train_base(config, out / "cache", out, hardware)
    elif stage == "control":
        from .control import train_control

        train_control(config, out / "cache", out, data, hardware)
    else:
        pack(config, out / "pipeline", out / "packed")


def pack(config: TrainConfig, pipeline_folder: Path, target: Path, parts: Path | None = None) -> None:
    """The pipeline in half precision, with the two files that say how it is to be run.

    ``parts``: the run whose VAE and base it has, where that is not the pipeline's own.
    """
    from ..pipelines import HVG3DImageToVideoPipeline
    from .start import find_start

    if not (pipeline_folder / "model_index.json").exists():
        raise FileNotFoundError(f"{pipeline_folder}: no trained pipeline there; run stage control first")
    pipeline = HVG3DImageToVideoPipeline.from_pretrained(pipeline_folder, dtype=torch.float32)
    # CogVideoX-5B overflows in float16; the nano was trained beside it and does not.
    half = torch.bfloat16 if config.control.frozen_dtype == "bfloat16" else torch.float16
    pipeline.to(half).save_pretrained(target)
    find_start(config, parts or pipeline_folder.parent).write_description(target)
