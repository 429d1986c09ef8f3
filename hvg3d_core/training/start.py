# SPDX-License-Identifier: Apache-2.0
"""What the control branch is trained from: the parts of a pipeline folder, or what the stages before have made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from torch import Tensor
from transformers import AutoTokenizer, ByT5Tokenizer, T5EncoderModel

from ..checkpoints.registry import ENTRY_FILE, INPUTS_FILE, ModelError, find_model
from ..checkpoints.weights import open_weights
from ..models import HVG3DTransformer3DModel
from ..models.transformer import CONTROL_MODULES
from ..pipelines import HVG3DImageToVideoPipeline
from .config import ConfigError, TrainConfig
from .prompts import fingerprint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build_scheduler() -> Any:
    """CogVideoX's own schedule: v-prediction with zero terminal SNR."""
    return CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        snr_shift_scale=1.0,
    )


@dataclass(frozen=True)
class Start:
    """Folders of the parts, and the configuration that they have to agree with."""

    config: TrainConfig
    root: Path | None  # the pipeline folder that training starts from
    transformer: Path
    text_encoder: Path
    tokenizer: Path
    vae: Path

    @cached_property
    def settings(self) -> dict[str, Any]:
        """``config.json`` of the transformer."""
        file = self.transformer / "config.json"
        if not file.exists():
            what = "control.init names no pipeline folder" if self.root else "run stage base first, or set control.init"
            raise ConfigError(f"{file}: no such file; {what}")
        return json.loads(file.read_text(encoding="utf-8"))

    @property
    def has_branch(self) -> bool:
        return self.settings.get("_class_name") == HVG3DTransformer3DModel.__name__

    @property
    def tracking_range(self) -> str:
        return {**self.config.control.transformer, **self.settings}.get("tracking_range", "minus_one_one")

    @property
    def conditions(self) -> list[str]:
        """What the branch is trained to read, as the registry names it."""
        stage = self.config.control
        has_points = {**stage.transformer, **self.settings}.get("point_cloud", True) and stage.points_dropout < 1
        return ["points"] * has_points + ["tracking"] * (stage.tracking_dropout < 1)

    @property
    def text_length(self) -> int:
        return self.settings.get("max_text_seq_length", 226)

    def check(self) -> None:
        """Raise ConfigError where the network cannot be trained with this configuration."""
        video, asked, init = self.config.video, self.config.control.transformer, self.config.control.init
        network = self.settings
        if network.get("in_channels") != 32 or network.get("patch_size_t") is not None:
            raise ConfigError(f"control.init is {init!r}: not an image-to-video model of CogVideoX 1.0; name one")
        if network.get("use_learned_positional_embeddings"):
            # Its table of positions is of one size; for other frame counts diffusers silently takes another table.
            sides = {"width": network["sample_width"] * 8, "height": network["sample_height"] * 8}
            for key, value in {**sides, "num_frames": network["sample_frames"]}.items():
                if getattr(video, key) != value:
                    raise ConfigError(f"video.{key} is {getattr(video, key)}: the starting model makes {value} only")
        if self.has_branch:
            for key, value in asked.items():
                if network.get(key, value) != value:
                    raise ConfigError(
                        f"control.transformer.{key} is {value!r}: the branch of {init!r} has {network[key]!r}; leave "
                        "it out, or start from a model without a branch"
                    )

    def training_scheduler(self) -> Any:
        """The model's noise schedule. Raises ConfigError for one that predicts anything but v."""
        if self.root is None:
            return build_scheduler()
        scheduler = CogVideoXDDIMScheduler.from_pretrained(self.root, subfolder="scheduler")
        if scheduler.config.prediction_type != "v_prediction":
            raise ConfigError(
                f"control.init is {self.config.control.init!r}: its scheduler predicts "
                f"{scheduler.config.prediction_type}, and the loss is of v_prediction; mend its scheduler_config.json"
            )
        return scheduler

    def sampling_scheduler(self) -> Any:
        """The model's own sampler, with trailing steps: the first one has to see pure noise, as training has."""
        if self.root is None:
            return build_scheduler()
        import diffusers

        data = json.loads((self.root / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        return getattr(diffusers, data["_class_name"]).from_config(data, timestep_spacing="trailing")

    def load_transformer(self, dtype: torch.dtype = torch.float32) -> Any:
        """The network with its branch, whose weights are float32; the frozen base's matrices are ``dtype``."""
        stage = self.config.control
        torch.manual_seed(stage.seed)  # a branch without weights is drawn
        if not self.has_branch:
            base = CogVideoXTransformer3DModel.from_pretrained(self.transformer, torch_dtype=dtype)
            try:
                model = HVG3DTransformer3DModel.from_transformer(base, **stage.transformer)
            except (ValueError, TypeError, RuntimeError) as error:
                raise ConfigError(f"control.transformer: {error}") from None
        else:
            model = HVG3DTransformer3DModel.from_pretrained(self.transformer, torch_dtype=dtype)
        model.freeze_base()
        for p in model.parameters():
            # Vectors of the base (norms, biases) are next to nothing, and norms of float32 activations need them so.
            if p.requires_grad or p.ndim < 2:
                p.data = p.data.float()
        if self.has_branch and dtype != torch.float32:
            weights = open_weights(self.transformer)  # as they are stored, not rounded
            for name, p in model.named_parameters():
                if name.startswith(CONTROL_MODULES):
                    p.data.copy_(weights[name])
        return model

    def load_vae(self) -> Any:
        return AutoencoderKLCogVideoX.from_pretrained(self.vae).eval()

    def text_identity(self) -> str:
        return fingerprint(self.text_encoder, self.text_length)

    def load_text(self) -> tuple[Any, Any]:
        """Tokenizer and text encoder, in the type its weights are stored in (T5 overflows in float16)."""
        encoder = T5EncoderModel.from_pretrained(self.text_encoder, dtype="auto").eval()
        if encoder.dtype == torch.float16:
            encoder = encoder.float()
        try:
            return AutoTokenizer.from_pretrained(self.tokenizer), encoder
        except (ValueError, OSError, KeyError):
            return ByT5Tokenizer.from_pretrained(self.tokenizer), encoder

    def write_pipeline(self, weights: dict[str, Tensor], target: Path) -> None:
        """The whole pipeline with the trained ``weights``, and the two files that say how it is to be run."""
        model = self.load_transformer(DTYPES[self.config.control.frozen_dtype])
        missing = {name for name, p in model.named_parameters() if p.requires_grad} ^ weights.keys()
        if missing:
            raise ValueError(f"weights: {', '.join(sorted(missing)[:3])} are missing or unknown")
        model.load_state_dict(weights, strict=False)
        tokenizer, text_encoder = self.load_text()
        scheduler = self.sampling_scheduler()
        pipeline: Any = HVG3DImageToVideoPipeline(tokenizer, text_encoder, self.load_vae(), model, scheduler)
        pipeline.save_pretrained(target)
        self.write_description(target)

    def write_description(self, target: Path) -> None:
        """``hvg3d.json`` and ``hvg3d_inputs.json``."""
        video = self.config.video
        described: dict[str, Any] = {
            "title": "HVG-3D nano",
            "licence": "Apache-2.0",
            "summary": "The whole system, small: trained from scratch on rendered scenes. A demonstration, not "
            "photoreal.",
        }
        own = {"num_inference_steps": 3, "guidance_scale": 1.0}
        if self.root is not None:
            entry = self.root / ENTRY_FILE
            described = json.loads(entry.read_text(encoding="utf-8")) if entry.exists() else {"licence": UNKNOWN}
            own = {
                key: described.get(key, value) for key, value in (("num_inference_steps", 50), ("guidance_scale", 6.0))
            }
            described |= {
                "title": f"{self.config.name}, trained from {self.root.name}",
                "summary": f"Trained with hvg3d train, configuration {self.config.name}, from {self.root.name}.",
            }
        described |= {"width": video.width, "height": video.height, "num_frames": video.num_frames, **own}
        described["conditions"] = self.conditions
        inputs = {"num_points": video.num_points, "visible_only": video.visible_only}
        for name, data in ((ENTRY_FILE, described), (INPUTS_FILE, inputs)):
            (target / name).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


UNKNOWN = "that of the model it was trained from (CogVideoX-5B-I2V: the CogVideoX License)"


def find_start(config: TrainConfig, out: Path) -> Start:
    """The parts that ``control.init`` names, or those under ``out``. Raises ConfigError or ModelError."""
    init = config.control.init
    if not init:
        base = out / "base"
        return Start(config, None, base / "transformer", base / "text_encoder", base / "tokenizer", out / "vae")
    root = Path(init)
    if not (root / "model_index.json").is_file():
        try:
            root = Path(find_model(init).path)
        except ModelError as error:
            raise ConfigError(f"control.init is {init!r}: {error}") from None
    for part in ("transformer", "text_encoder", "tokenizer", "vae", "scheduler"):
        if not (root / part).is_dir():
            raise ConfigError(f"control.init is {init!r}: {root} has no {part}; name a whole pipeline folder")
    start = Start(config, root, root / "transformer", root / "text_encoder", root / "tokenizer", root / "vae")
    start.check()
    return start
