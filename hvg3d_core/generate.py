# SPDX-License-Identifier: Apache-2.0
"""A clip and a request in, frames out: what the server's worker and the command line both call."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from . import __version__
from .checkpoints.registry import ModelEntry, find_model, list_models
from .conditions import Clip, check_frame_count, fit_size, network_inputs
from .pipelines import HVG3DImageToVideoPipeline
from .video import write_mp4

__all__ = ["Cancelled", "GenerationModel", "GenerationRequest", "Result", "generate", "list_models", "load_model"]

OnProgress = Callable[[str, int, int, "np.ndarray | None"], None]


class Cancelled(Exception):
    """The caller asked for the end of this generation."""


@dataclass(frozen=True)
class GenerationRequest:
    """All that a result depends on beside the clip and the weights. None stands for the model's own default."""

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


@dataclass
class GenerationModel:
    entry: ModelEntry
    pipeline: HVG3DImageToVideoPipeline
    device: str


@dataclass
class Result:
    frames: np.ndarray  # T x H x W x 3 uint8
    fps: float
    metadata: dict[str, Any]


def load_model(name: str = "nano", device: str | None = None) -> GenerationModel:
    """Load a pipeline folder. Raises ModelError when there is none of that name."""
    entry = find_model(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    # bf16 arithmetic, with weights kept as they are shipped, is twice as fast as fp32 where the processor has it.
    pipeline = HVG3DImageToVideoPipeline.from_pretrained(entry.path, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return GenerationModel(entry, pipeline.to(device), device)


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
    """Make the video of a clip. Raises Cancelled within one step of ``should_cancel`` turning true.

    The clip is resampled to the model's frame count, over the same duration: the result plays at the matching fps.
    """
    entry, pipeline = model.entry, model.pipeline
    report = on_progress or (lambda *_: None)
    num_frames = request.num_frames or entry.num_frames
    check_frame_count(num_frames)
    steps = request.num_inference_steps or entry.num_inference_steps
    guidance = entry.guidance_scale if request.guidance_scale is None else request.guidance_scale
    prompt = clip.prompt if request.prompt is None else request.prompt
    started = time.perf_counter()
    report("encode", 0, 1, None)
    settings = json.loads((Path(entry.path) / "hvg3d_inputs.json").read_text(encoding="utf-8"))
    inputs = network_inputs(clip, num_frames=num_frames, width=entry.width, height=entry.height, **settings)
    conditions: dict[str, Any] = {}
    if request.use_points:
        for key in ("points", "point_entity", "point_valid", "intrinsics", "world_to_camera"):
            conditions[key] = torch.from_numpy(np.ascontiguousarray(getattr(inputs, key)))[None].to(model.device)
    if request.use_tracking:
        conditions["tracking_video"] = inputs.tracking_video
    conditions_s = time.perf_counter() - started

    def after_step(_pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if should_cancel is not None and should_cancel():
            raise Cancelled
        report("denoise", step + 1, steps, None)
        if step + 1 == steps:
            report("decode", 0, 1, None)
        return tensors

    if should_cancel is not None and should_cancel():
        raise Cancelled
    report("denoise", 0, steps, None)
    with torch.autocast(torch.device(model.device).type, torch.bfloat16):
        output = pipeline(
            image=reference or reference_image(clip, entry.width, entry.height),
            prompt=prompt,
            negative_prompt=request.negative_prompt,
            height=entry.height,
            width=entry.width,
            num_frames=num_frames,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=torch.Generator(device="cpu").manual_seed(request.seed),
            control_scale=request.control_scale,
            output_type="np",
            callback_on_step_end=after_step,
            **conditions,
        )
    frames = (np.clip(np.asarray(output.frames[0], dtype=np.float32), 0, 1) * 255).round().astype(np.uint8)
    report("decode", 1, 1, frames[len(frames) // 2])
    duration = clip.num_frames / clip.fps
    fps = num_frames / duration
    metadata = {
        "hvg3d": __version__,
        "torch": torch.__version__,
        "device": model.device,
        "request": asdict(request)
        | {"prompt": prompt, "num_frames": num_frames, "num_inference_steps": steps, "guidance_scale": guidance},
        "model": {"id": entry.id, "title": entry.title, "licence": entry.licence},
        "fps": fps,
        "width": entry.width,
        "height": entry.height,
        "clip": {"fps": clip.fps, "frame_range": list(clip.frame_range), "provenance": clip.provenance},
        "seconds": {"conditions": conditions_s, "total": time.perf_counter() - started},
    }
    return Result(frames, fps, metadata)


def write_result(result: Result, folder: str | Path) -> None:
    """``video.mp4`` and, beside it, everything needed to repeat it in ``metadata.json``."""
    folder = Path(folder)
    write_mp4(folder / "video.mp4", result.frames, result.fps)
    partial = folder / ".metadata.json.partial"
    partial.write_text(json.dumps(result.metadata, indent=2, default=str), encoding="utf-8")
    partial.replace(folder / "metadata.json")
