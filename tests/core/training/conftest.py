# SPDX-License-Identifier: Apache-2.0
"""A tiny CogVideoX pipeline with random weights to start from, and clips with their latents cached."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline
from transformers import ByT5Tokenizer

from hvg3d_core.training.config import load_config
from hvg3d_core.training.denoiser import build_base, build_text_encoder
from hvg3d_core.training.stages import run_stage
from hvg3d_core.training.start import build_scheduler
from hvg3d_core.training.vae import build_vae
from tests.core.synthetic import write_dataset

SMALL = """
name = "small"
stages = ["cache", "control"]
[video]
width = 48
height = 32
num_frames = 9
num_points = 64
[data]
augment = false
[hardware]
device = "cpu"
[vae]
block_out_channels = [8, 8, 8, 8]
norm_num_groups = 4
[base]
num_layers = 2
num_attention_heads = 2
attention_head_dim = 16
time_embed_dim = 16
max_text_seq_length = 16
text_dim = 32
text_layers = 1
[control]
init = "{init}"
steps = 6
warmup = 2
batch_size = 2
lr = 1e-3
log_every = 2
checkpoint_every = 3
ema = 0.9
text_dropout = 0.2
image_dropout = 0.2
[control.transformer]
point_dim = 32
point_heads = 2
point_head_dim = 16
num_point_latents = 8
resampler_heads = 2
resampler_head_dim = 16
"""


def write_config(folder: Path, init: Path | str, name: str = "small.toml", **changes: str) -> Path:
    """``changes``: KEY="value in TOML" of the control stage, or SECTION__KEY of another one."""
    text = SMALL.replace("{init}", str(init))
    for key, value in changes.items():
        section, _, last = key.rpartition("__")
        section = (section or "control").replace("__", ".")
        lines = text.splitlines()
        start = lines.index(f"[{section}]") if f"[{section}]" in lines else -1
        if start < 0:
            lines += [f"[{section}]"]
            start = len(lines) - 1
        end = next((i for i in range(start + 1, len(lines)) if lines[i].startswith("[")), len(lines))
        lines = [line for i, line in enumerate(lines) if not (start < i < end and line.startswith(f"{last} ="))]
        lines.insert(start + 1, f"{last} = {value}")
        text = "\n".join(lines) + "\n"
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """start/ (a pipeline folder without a branch), data/{train,heldout}, out/cache."""
    folder = tmp_path_factory.mktemp("small")
    write_dataset(folder / "data" / "train", 5)
    write_dataset(folder / "data" / "heldout", 2)
    config = load_config(write_config(folder, folder / "start"))
    torch.manual_seed(0)
    vae = build_vae(config)
    vae.register_to_config(scaling_factor=0.7)
    parts = (ByT5Tokenizer(extra_ids=125), build_text_encoder(config.base), vae, build_base(config), build_scheduler())
    CogVideoXImageToVideoPipeline(*parts).save_pretrained(folder / "start")
    run_stage("cache", str(folder / "small.toml"), folder / "data", folder / "out")
    return folder


def hvg3d(*arguments: object, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "hvg3d_core.cli.main", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )
    if check and done.returncode:
        raise AssertionError(f"exit {done.returncode}: {done.stdout[-2000:]} {done.stderr[-4000:]}")
    return done
