# SPDX-License-Identifier: Apache-2.0
"""Training configuration: one TOML file, read into dataclasses, with every unknown key and wrong value refused."""

from __future__ import annotations

import inspect
import math
import tomllib
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from ..conditions.frames import nearest_valid_frame_counts, valid_frame_count

STAGES = ("vae", "cache", "decoder", "base", "control", "pack")


class ConfigError(ValueError):
    """The message names the file, the key, its value and what would be accepted."""


class TrainingError(RuntimeError):
    """A run that cannot go on. The message says why and what to do."""


def number(default: float, low: float, high: float = math.inf) -> Any:
    """A number from ``low`` to ``high``, both included."""
    return field(default=default, metadata={"low": low, "high": high})


def share(default: float) -> Any:
    return number(default, 0.0, 1.0)


def one_of(default: str, *choices: str) -> Any:
    return field(default=default, metadata={"choices": choices})


def several(default: tuple[Any, ...], **metadata: Any) -> Any:
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class VideoConfig:
    width: int = number(192, 16, 8192)
    height: int = number(128, 16, 8192)
    num_frames: int = number(17, 1, 4097)
    num_points: int = number(512, 1)  # points of each clip that the network reads
    visible_only: bool = True  # only the points that the camera sees count as valid in a frame


@dataclass(frozen=True)
class DataConfig:
    folder: str = ""  # holds train/ and heldout/, each of clips or of tar shards; data/NAME where left out
    augment: bool = True  # three twins of each clip: mirrored, reversed, closer, in another light
    image_noise_draws: int = number(0, 0, 64)  # cached versions of the image under noise of exp(N(-3, 0.5)), as DaS has
    max_broken_share: float = share(0.05)  # more unreadable samples than this, and training refuses


@dataclass(frozen=True)
class HardwareConfig:
    device: str = one_of("auto", "auto", "cpu", "cuda")
    processes: int = number(1, 0, 4096)  # one for each GPU; 0: as many as there are GPUs
    strategy: str = one_of("ddp", "ddp", "fsdp", "deepspeed")  # of several processes
    precision: str = one_of("bf16", "bf16", "fp32")  # of the arithmetic; trained weights are float32 in either
    zero_stage: int = number(2, 1, 3)  # of DeepSpeed
    offload: bool = False  # FSDP and DeepSpeed: what is sharded lies in the computer's memory
    timeout_minutes: int = number(120, 1)  # one process may be waited for so long: validation, first encoding of texts


@dataclass(frozen=True)
class ValidationConfig:
    """On held-out clips, while the control branch is trained."""

    every: int = number(0, 0)  # steps; 0: never
    clips: int = number(2, 1)  # so many videos
    loss_samples: int = number(8, 0)  # so many draws of noise for the loss on these clips
    steps: int = number(20, 1, 1000)  # of denoising
    guidance: float = number(1.0, 0.0, 100.0)
    seed: int = number(0, 0, 2**63 - 1)


@dataclass(frozen=True)
class StageConfig:
    """What every stage shares: a schedule in steps of the optimiser (warm-up, then cosine to ``final_lr``) and its
    checkpoints."""

    steps: int = number(1000, 1)
    batch_size: int = number(8, 1)  # of one process at once
    accumulation: int = number(1, 1)  # batches that are summed for one step
    lr: float = number(1e-3, 0.0)
    muon_lr: float = number(0.0, 0.0)  # above 0: matrices of the transformer are trained with Muon at this rate
    final_lr: float = share(0.05)  # as a fraction of the peak
    warmup: int = number(100, 0)
    schedule: str = one_of("cosine", "cosine", "constant")
    cycles: int = number(1, 1)  # of the cosine, each from the peak
    beta1: float = share(0.9)
    beta2: float = share(0.95)
    weight_decay: float = number(1e-3, 0.0)
    clip_grad_norm: float = number(1.0, 0.0)  # 0: not clipped
    ema: float = share(0.0)  # decay of the weight average that is exported; 0 exports the weights themselves
    checkpoint_every: int = number(100, 1)
    log_every: int = number(20, 1)
    tensorboard: bool = True  # beside log.jsonl, where the package tensorboard is installed
    seed: int = number(0, 0, 2**63 - 1)


@dataclass(frozen=True)
class VAEStage(StageConfig):
    block_out_channels: tuple[int, ...] = several((16, 32, 64, 64), low=1, length=4)
    layers_per_block: int = number(1, 1)
    norm_num_groups: int = number(8, 1)
    image_share: float = share(0.4)  # first share of the steps on single frames
    image_batch_size: int = number(16, 1)
    video_crop: int = number(64, 8)
    video_frames: int = number(9, 1)
    tracking_share: float = share(0.15)  # share of samples that are tracking videos
    mse_weight: float = number(0.2, 0.0)
    gradient_weight: float = number(0.5, 0.0)
    chroma_weight: float = number(0.5, 0.0)
    green_anchor_weight: float = number(0.3, 0.0)
    kl_weight: float = number(1e-6, 0.0)


@dataclass(frozen=True)
class DecoderStage(StageConfig):
    crop: int = number(64, 24)  # pixels; the clips' whole length
    mse_weight: float = number(0.2, 0.0)
    gradient_weight: float = number(0.5, 0.0)
    chroma_weight: float = number(0.5, 0.0)


@dataclass(frozen=True)
class BaseStage(StageConfig):
    num_layers: int = number(4, 1)
    num_attention_heads: int = number(4, 1)
    attention_head_dim: int = number(64, 2)
    time_embed_dim: int = number(256, 1)
    max_text_seq_length: int = number(48, 1)
    text_dim: int = number(128, 1)
    text_layers: int = number(2, 1)
    text_dropout: float = share(0.1)
    shift_timesteps: float = number(1.0, 0.01)  # above 1: more weight on high noise


@dataclass(frozen=True)
class ControlStage(StageConfig):
    init: str = ""  # a model's id or pipeline folder to start from; what the stages before have made where left out
    epochs: float = number(0.0, 0.0)  # above 0: in place of ``steps``, each sample once in every epoch
    effective_batch: int = number(0, 0)  # above 0: ``accumulation`` follows from it and the number of processes
    mask_loss: bool = True
    mask_loss_squared: bool = False  # (1 + M)² as the article writes it, not 1 + M as the code it cites has it
    text_dropout: float = share(0.0)
    image_dropout: float = share(0.0)  # of the first frame, together with that of the tracking video
    tracking_dropout: float = share(0.1)
    points_dropout: float = share(0.1)
    shift_timesteps: float = number(1.0, 0.01)
    gradient_checkpointing: bool = False
    frozen_dtype: str = one_of("float32", "float32", "bfloat16")  # that the base network is kept in
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    transformer: dict[str, Any] = field(default_factory=dict)  # arguments of HVG3DTransformer3DModel.from_transformer


@dataclass(frozen=True)
class TrainConfig:
    name: str = "nano"
    stages: tuple[str, ...] = several(STAGES, choices=STAGES)  # what a run without --stage does, in this order
    video: VideoConfig = field(default_factory=VideoConfig)
    data: DataConfig = field(default_factory=DataConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    vae: VAEStage = field(default_factory=VAEStage)
    decoder: DecoderStage = field(default_factory=DecoderStage)
    base: BaseStage = field(default_factory=BaseStage)
    control: ControlStage = field(default_factory=ControlStage)


TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text in quotes"}


def _checked(key: str, value: Any, expected: Any, metadata: Any) -> Any:
    """``value`` as ``expected``, one of TYPES, and within the bounds. Raises ConfigError."""
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise ConfigError(f"{key} is {value!r}: {TYPES[expected]} is needed")
    choices = metadata.get("choices")
    if choices and value not in choices:
        raise ConfigError(f"{key} is {value!r}: use one of {', '.join(choices)}")
    if "low" in metadata:
        low, high = metadata["low"], metadata.get("high", math.inf)
        if not (low <= value <= high and math.isfinite(value)):
            bounds = f"{low} or more" if high == math.inf else f"{low} to {high}"
            raise ConfigError(f"{key} is {value!r}: use {TYPES[expected]}, {bounds}")
    return value


def _build(cls: type, table: dict[str, Any], where: str) -> Any:
    hints, known = get_type_hints(cls), {f.name: f for f in fields(cls)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"{where}{key} is {value!r}: unknown key; known here: {', '.join(sorted(known))}")
        expected, metadata = hints[key], known[key].metadata
        if is_dataclass(expected) or expected == dict[str, Any]:
            if not isinstance(value, dict):
                raise ConfigError(f"{where}{key} is {value!r}: a table [{where}{key}] is needed")
            values[key] = value if expected == dict[str, Any] else _build(expected, value, f"{where}{key}.")
        elif expected in TYPES:
            values[key] = _checked(f"{where}{key}", value, expected, metadata)
        else:  # tuple[X, ...]
            if not isinstance(value, list) or len(value) != metadata.get("length", len(value)) or not value:
                count = metadata.get("length", "some")
                raise ConfigError(f"{where}{key} is {value!r}: a list of {count} values is needed")
            inner = expected.__args__[0]
            values[key] = tuple(_checked(f"{where}{key}[{i}]", v, inner, metadata) for i, v in enumerate(value))
    return cls(**values)


def _check_together(config: TrainConfig) -> None:
    """What no key can say alone. Raises ConfigError."""
    video, control = config.video, config.control
    for name in ("width", "height"):
        value = getattr(video, name)
        if value % 16:
            low = max(value // 16 * 16, 16)
            raise ConfigError(f"video.{name} is {value}: it must be divisible by 16; use {low} or {low + 16}")
    if not valid_frame_count(video.num_frames):
        low, high = nearest_valid_frame_counts(video.num_frames)
        raise ConfigError(f"video.num_frames is {video.num_frames}: the video VAE takes 1 or 8k+1; use {low} or {high}")
    if not valid_frame_count(config.vae.video_frames) or (
        "vae" in config.stages and config.vae.video_frames > video.num_frames
    ):
        raise ConfigError(
            f"vae.video_frames is {config.vae.video_frames}: use 1 or 8k+1 frames, no more than video.num_frames"
        )
    channels, groups = config.vae.block_out_channels, config.vae.norm_num_groups
    if any(width % groups for width in channels):
        raise ConfigError(f"vae.norm_num_groups is {groups}: every one of block_out_channels {channels} must divide")
    for name in ("vae", "decoder"):
        stage = getattr(config, name)
        if stage.accumulation != 1:
            raise ConfigError(f"{name}.accumulation is {stage.accumulation}: this stage has none; use 1")
    for name in ("vae", "decoder", "base", "control"):
        stage = getattr(config, name)
        for key in ("ema", "beta1", "beta2"):
            if getattr(stage, key) == 1.0:
                raise ConfigError(f"{name}.{key} is 1.0: nothing would ever change; use less than 1")
    if control.tracking_dropout + control.points_dropout > 1:
        raise ConfigError(
            f"control.points_dropout is {control.points_dropout}: with tracking_dropout {control.tracking_dropout} "
            "it is more than 1, and one of the two is always kept; lower them"
        )
    if control.frozen_dtype == "bfloat16" and config.hardware.precision != "bf16":
        raise ConfigError("control.frozen_dtype is 'bfloat16': hardware.precision must then be bf16")
    if control.effective_batch and control.accumulation != 1:
        raise ConfigError(
            f"control.accumulation is {control.accumulation}: it follows from effective_batch; leave one of them out"
        )
    hardware = config.hardware
    if hardware.strategy == "fsdp" and (control.muon_lr or config.base.muon_lr):
        name = "control" if control.muon_lr else "base"
        value = getattr(config, name).muon_lr
        raise ConfigError(f"{name}.muon_lr is {value}: not with FSDP; use 0, or hardware.strategy ddp")
    if hardware.strategy == "deepspeed" and (control.ema or control.muon_lr):
        key = "ema" if control.ema else "muon_lr"
        raise ConfigError(
            f"control.{key} is {getattr(control, key)}: not with DeepSpeed; use 0, or hardware.strategy fsdp"
        )
    _check_transformer(control.transformer)


def _check_transformer(table: dict[str, Any]) -> None:
    from diffusers import CogVideoXTransformer3DModel

    from ..models import HVG3DTransformer3DModel

    base = inspect.signature(CogVideoXTransformer3DModel.__init__).parameters
    ours = get_type_hints(HVG3DTransformer3DModel.__init__)
    known = {name: hint for name, hint in ours.items() if name not in base and name != "return"}
    for key, value in table.items():
        name = f"control.transformer.{key}"
        if key not in known:
            raise ConfigError(f"{name} is {value!r}: unknown key; known here: {', '.join(sorted(known))}")
        expected = next(t for t in (bool, int, str) if t == known[key] or t in getattr(known[key], "__args__", ()))
        _checked(name, value, expected, {"low": 0} if expected is int else {})


def load_config(path: str | Path) -> TrainConfig:
    """Read a TOML file. Raises ConfigError naming the key that is wrong."""
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"{path}: no such configuration file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    return config_from_table(table, path)


def config_from_table(table: dict[str, Any], where: object) -> TrainConfig:
    """What a TOML file's ``table`` says. Raises ConfigError that begins with ``where`` it stands."""
    try:
        config = _build(TrainConfig, table, "")
        _check_together(config)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return config
