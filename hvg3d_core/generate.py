# SPDX-License-Identifier: Apache-2.0
"""A clip and a request in, frames out: what the server's worker and the command line both call."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from . import __version__
from .checkpoints.registry import ModelEntry, find_model, list_models
from .conditions import Clip, check_frame_count, fit_size, network_inputs
from .pipelines import (
    MEMORY_MODES,
    HVG3DImageToVideoPipeline,
    OutOfMemory,
    SpeedOptions,
    apply_speed_options,
    next_mode,
    set_memory_mode,
)
from .pipelines.acceleration import arithmetic, check_precision, weights_dtype
from .pipelines.memory import check_mode, choose_mode, free_bytes, memory_guard, release
from .pipelines.memory_needs import memory_needs
from .pipelines.preview import LatentPreview, reference_scale
from .pipelines.windows import REFERENCES, Timeline, carry_over, count_windows, plan_timeline
from .video import write_mp4

__all__ = [
    "MEMORY_MODES",
    "Cancelled",
    "GenerationModel",
    "GenerationRequest",
    "OutOfMemory",
    "Result",
    "generate",
    "list_models",
    "load_model",
    "next_mode",
]

OnProgress = Callable[[str, int, int, "np.ndarray | None"], None]


class Cancelled(Exception):
    """The caller asked for the end of this generation."""


@dataclass(frozen=True)
class GenerationRequest:
    """All that a result depends on beside the clip and the weights. None stands for the model's own default.

    Args:
        length: ``resample`` makes ``num_frames`` frames spread over the clip; ``windows`` makes every frame of it, or
            as many as ``fps`` wants, in windows of ``num_frames`` that share ``window_overlap`` latent frames.
        window_reference: ``clip`` or ``generated``; see ``pipelines/windows.py``.
        control_start, control_end: fractions of the steps between which the conditions are used.
        dynamic_guidance: guidance that rises over the steps (see ``pipelines/guidance.py``).
        compile, attention_backend, cache, cache_strength, fuse_qkv, scheduler: see ``SpeedOptions``.
        memory_mode: one of ``MEMORY_MODES``; None keeps the one that the model was loaded in.
        precision: ``fp32``, ``autocast``, ``bf16`` or ``auto``; None as the model was loaded.
    """

    model: str = "nano"
    prompt: str | None = None  # None: the clip's own
    negative_prompt: str = ""
    seed: int = 0
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    num_frames: int | None = None
    control_scale: float = 1.0
    use_tracking: bool = True
    use_points: bool = True
    length: str = "resample"
    fps: float | None = None
    window_overlap: int | None = None
    window_reference: str = "clip"
    control_start: float = 0.0
    control_end: float = 1.0
    dynamic_guidance: bool | None = None
    compile: bool = False
    attention_backend: str | None = None
    cache: str = "none"
    cache_strength: float | None = None
    fuse_qkv: bool = False
    scheduler: str | None = None
    memory_mode: str | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for what no model could do; what depends on the clip is checked when it is known."""
        self.speed_options()
        if self.memory_mode is not None:
            check_mode(self.memory_mode)
        if self.precision is not None:
            check_precision(self.precision, "cpu")
        if self.window_reference not in REFERENCES:
            raise ValueError(f"window_reference {self.window_reference!r} is not one of {', '.join(REFERENCES)}")

    def speed_options(self) -> SpeedOptions:
        return SpeedOptions(**{field.name: getattr(self, field.name) for field in fields(SpeedOptions)})


@dataclass
class GenerationModel:
    entry: ModelEntry
    pipeline: HVG3DImageToVideoPipeline
    device: str
    memory_mode: str = "resident"
    precision: str = "autocast"

    def bring_to(self, memory_mode: str | None, precision: str | None) -> None:
        """Load the weights again where another memory mode or precision is asked for; the old ones are freed first."""
        mode = self.memory_mode if memory_mode is None else check_mode(memory_mode)
        precision = self.precision if precision is None else check_precision(precision, self.device)
        if (mode, precision) == (self.memory_mode, self.precision):
            return
        del self.pipeline
        release()
        self.pipeline = _load_pipeline(self.entry, self.device, mode, precision)
        self.memory_mode, self.precision = mode, precision


@dataclass
class Result:
    frames: np.ndarray  # T x H x W x 3 uint8
    fps: float
    metadata: dict[str, Any]


def load_model(
    name: str = "nano", device: str | None = None, memory_mode: str = "auto", precision: str = "auto"
) -> GenerationModel:
    """Load a pipeline folder. Raises ModelError when there is none of that name.

    ``memory_mode`` "auto" is the fastest of ``MEMORY_MODES`` that fits into the device's free memory.
    """
    entry = find_model(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if precision == "auto" and entry.dtype == "bfloat16":
        precision = "bf16"
    precision = check_precision(precision, device)
    if memory_mode == "auto":
        free = free_bytes(device)
        memory_mode = choose_mode(free, memory_needs(entry.path, weights_dtype(precision)) if free is not None else {})
    pipeline = _load_pipeline(entry, device, check_mode(memory_mode), precision)
    return GenerationModel(entry, pipeline, device, memory_mode, precision)


def _load_pipeline(entry: ModelEntry, device: str, mode: str, precision: str) -> HVG3DImageToVideoPipeline:
    with memory_guard(mode):
        pipeline = HVG3DImageToVideoPipeline.from_pretrained(entry.path, dtype=weights_dtype(precision))
    pipeline.set_progress_bar_config(disable=True)
    set_memory_mode(pipeline, mode, device)
    return pipeline


def reference_image(clip: Clip, width: int, height: int, view: int = 0) -> Image.Image:
    """The clip's first frame at the model's size, cropped about the centre as the cameras are."""
    image = Image.open(io.BytesIO(clip.views[view].reference)).convert("RGB")
    left, top, right, bottom = fit_size(image.width, image.height, width, height).box()
    # Rounding may put the far edges a hair outside, which Pillow refuses.
    box = (left, top, min(right, image.width), min(bottom, image.height))
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box)


def generate(
    model: GenerationModel,
    clip: Clip,
    request: GenerationRequest,
    on_progress: OnProgress | None = None,
    should_cancel: Callable[[], bool] | None = None,
    reference: Image.Image | None = None,
) -> Result:
    """Make the video of a clip. Raises Cancelled within one step of ``should_cancel`` turning true, OutOfMemory with
    the memory mode to try next, ValueError for settings that do not fit the clip or the model.

    The result lasts as long as the clip, at the fps that follows from the number of frames.
    """
    entry = model.entry
    report = on_progress or (lambda *_: None)
    num_frames = request.num_frames or entry.num_frames
    check_frame_count(num_frames)
    steps = request.num_inference_steps or entry.num_inference_steps
    guidance = entry.guidance_scale if request.guidance_scale is None else request.guidance_scale
    # A model that asks for it was published with diffusers' formula; who asks for it here gets the one over the steps.
    own = entry.use_dynamic_cfg if request.dynamic_guidance is None else False
    dynamic = "steps" if request.dynamic_guidance else own
    prompt = clip.prompt if request.prompt is None else request.prompt
    timeline = plan_timeline(clip.num_frames, clip.fps, num_frames, request.length, request.fps)
    started = time.perf_counter()
    report("encode", 0, 1, None)
    model.bring_to(request.memory_mode, request.precision)
    pipeline = model.pipeline
    apply_speed_options(pipeline, request.speed_options())
    conditions = _conditions(model, clip, request, timeline)
    conditions_s = time.perf_counter() - started
    windowed = timeline.made > num_frames
    carried = windowed and request.window_reference == "generated"
    windows = count_windows(timeline.made, num_frames, request.window_overlap) if carried else 1
    total = steps * windows
    image = reference or reference_image(clip, entry.width, entry.height)
    preview = LatentPreview(np.asarray(image.convert("RGB").resize((entry.width, entry.height))))

    def after_step(_pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if should_cancel is not None and should_cancel():
            raise Cancelled
        picture = None if on_progress is None else _preview(preview, pipeline, tensors)
        report("denoise", step + 1, total, picture)
        if step + 1 == total:
            report("decode", 0, 1, None)
        return tensors

    if should_cancel is not None and should_cancel():
        raise Cancelled
    report("denoise", 0, total, None)
    arguments: dict[str, Any] = {
        "image": image,
        "prompt": prompt,
        "negative_prompt": request.negative_prompt,
        "height": entry.height,
        "width": entry.width,
        "num_frames": timeline.made,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "use_dynamic_cfg": dynamic,
        "generator": torch.Generator(device="cpu").manual_seed(request.seed),
        "control_scale": request.control_scale,
        "control_start": request.control_start,
        "control_end": request.control_end,
        "output_type": "np",
        "callback_on_step_end": after_step,
        "callback_on_step_end_tensor_inputs": ["latents", "clean_latents", "image_latents"],
        **conditions,
    }
    with memory_guard(model.memory_mode), arithmetic(model.precision, model.device):
        if carried:
            output = carry_over(pipeline, window_frames=num_frames, overlap=request.window_overlap, **arguments)
        else:
            window = {"window_frames": num_frames, "window_overlap": request.window_overlap} if windowed else {}
            output = pipeline(**arguments, **window)
    frames = np.asarray(output.frames[0], dtype=np.float32)[: timeline.keep]
    frames = (np.clip(frames, 0, 1) * 255).round().astype(np.uint8)
    report("decode", 1, 1, frames[len(frames) // 2])
    metadata = {
        "hvg3d": __version__,
        "torch": torch.__version__,
        "device": model.device,
        "request": asdict(request)
        | {
            "prompt": prompt,
            "num_frames": num_frames,
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "dynamic_guidance": dynamic,
            "memory_mode": model.memory_mode,
            "precision": model.precision,
        },
        "model": {"id": entry.id, "title": entry.title, "licence": entry.licence},
        "fps": timeline.fps,
        "scene_frames": (clip.frame_range[0] + timeline.source[: timeline.keep]).tolist(),
        "width": entry.width,
        "height": entry.height,
        "clip": {"fps": clip.fps, "frame_range": list(clip.frame_range), "provenance": clip.provenance},
        "seconds": {"conditions": conditions_s, "total": time.perf_counter() - started},
    }
    return Result(frames, timeline.fps, metadata)


def _preview(preview: LatentPreview, pipeline: HVG3DImageToVideoPipeline, tensors: dict[str, Any]) -> np.ndarray:
    """The middle latent frame of what the step leads to, as a small picture."""
    if not preview.fitted:
        config = pipeline.vae.config
        scale = reference_scale(config.scaling_factor, config.invert_scale_latents)
        preview.fit(tensors["image_latents"][0, 0] * scale)
    clean = tensors["clean_latents"][0]
    return preview.draw(clean[len(clean) // 2])


def _conditions(model: GenerationModel, clip: Clip, request: GenerationRequest, timeline: Timeline) -> dict[str, Any]:
    """What the pipeline is given of the clip, for the frames of ``timeline``."""
    entry = model.entry
    settings = json.loads((Path(entry.path) / "hvg3d_inputs.json").read_text(encoding="utf-8"))
    inputs = network_inputs(clip, frames=timeline.source, width=entry.width, height=entry.height, **settings)
    conditions: dict[str, Any] = {}
    if request.use_points and "points" in entry.conditions:
        for key in ("points", "point_entity", "point_valid", "intrinsics", "world_to_camera"):
            conditions[key] = torch.from_numpy(np.ascontiguousarray(getattr(inputs, key)))[None].to(model.device)
    if request.use_tracking and "tracking" in entry.conditions:
        conditions["tracking_video"] = inputs.tracking_video
    return conditions


def write_result(result: Result, folder: str | Path) -> None:
    """``video.mp4`` and, beside it, everything needed to repeat it in ``metadata.json``."""
    folder = Path(folder)
    write_mp4(folder / "video.mp4", result.frames, result.fps)
    partial = folder / ".metadata.json.partial"
    partial.write_text(json.dumps(result.metadata, indent=2, default=str), encoding="utf-8")
    partial.replace(folder / "metadata.json")
