# SPDX-License-Identifier: Apache-2.0
"""Training configuration: one TOML file, read into dataclasses, with every unknown or mistyped key refused."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints


class ConfigError(ValueError):
    """The message names the file, the key, its value and what would be accepted."""


@dataclass(frozen=True)
class VideoConfig:
    width: int = 192
    height: int = 128
    num_frames: int = 17
    num_points: int = 512  # points of each clip that the network reads
    visible_only: bool = True  # only the points that the camera sees count as valid in a frame


@dataclass(frozen=True)
class StageConfig:
    """What every stage shares: a schedule in steps (warm-up, then cosine to ``final_lr``) and its checkpoints."""

    steps: int = 1000
    batch_size: int = 8
    lr: float = 1e-3
    muon_lr: float = 0.0  # above 0: matrices of the transformer are trained with Muon at this rate
    final_lr: float = 0.05  # as a fraction of the peak
    warmup: int = 100
    weight_decay: float = 1e-3
    clip_grad_norm: float = 1.0
    ema: float = 0.0  # decay of the weight average that is exported; 0 exports the weights themselves
    checkpoint_every: int = 100
    seed: int = 0


@dataclass(frozen=True)
class VAEStage(StageConfig):
    block_out_channels: tuple[int, ...] = (16, 32, 64, 64)
    layers_per_block: int = 1
    norm_num_groups: int = 8
    image_share: float = 0.4  # first share of the steps on single frames
    image_batch_size: int = 16
    video_crop: int = 64
    video_frames: int = 9
    tracking_share: float = 0.15  # share of samples that are tracking videos
    mse_weight: float = 0.2
    gradient_weight: float = 0.5
    chroma_weight: float = 0.5
    green_anchor_weight: float = 0.3
    kl_weight: float = 1e-6


@dataclass(frozen=True)
class DecoderStage(StageConfig):
    crop: int = 64  # pixels; the clips' whole length
    mse_weight: float = 0.2
    gradient_weight: float = 0.5
    chroma_weight: float = 0.5


@dataclass(frozen=True)
class BaseStage(StageConfig):
    num_layers: int = 4
    num_attention_heads: int = 4
    attention_head_dim: int = 64
    time_embed_dim: int = 256
    max_text_seq_length: int = 48
    text_dim: int = 128
    text_layers: int = 2
    text_dropout: float = 0.1
    shift_timesteps: float = 1.0  # above 1: more weight on high noise


@dataclass(frozen=True)
class ControlStage(StageConfig):
    mask_loss: bool = True
    mask_loss_squared: bool = False
    tracking_dropout: float = 0.1
    points_dropout: float = 0.1
    shift_timesteps: float = 1.0
    transformer: dict[str, Any] = field(default_factory=dict)  # arguments of HVG3DTransformer3DModel.from_transformer


@dataclass(frozen=True)
class TrainConfig:
    name: str = "nano"
    video: VideoConfig = field(default_factory=VideoConfig)
    vae: VAEStage = field(default_factory=VAEStage)
    decoder: DecoderStage = field(default_factory=DecoderStage)
    base: BaseStage = field(default_factory=BaseStage)
    control: ControlStage = field(default_factory=ControlStage)


def _build(cls: type, table: dict[str, Any], where: str) -> Any:
    hints, names = get_type_hints(cls), {f.name for f in fields(cls)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in names:
            raise ConfigError(f"{where}{key}: unknown key; known here: {', '.join(sorted(names))}")
        expected = hints[key]
        if is_dataclass(expected):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}{key} is {value!r}: a table [{key}] is needed")
            values[key] = _build(expected, value, f"{where}{key}.")
        elif expected is float and isinstance(value, int) and not isinstance(value, bool):
            values[key] = float(value)
        elif expected in (int, float, bool, str):
            if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
                raise ConfigError(f"{where}{key} is {value!r}: a value of type {expected.__name__} is needed")
            values[key] = value
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
    return cls(**values)


def load_config(path: str | Path) -> TrainConfig:
    """Read a TOML file. Raises ConfigError naming the key that is wrong."""
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    try:
        return _build(TrainConfig, table, "")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
