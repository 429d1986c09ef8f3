# SPDX-License-Identifier: Apache-2.0
"""``hvg3d generate``: one video in this process, with every setting of a request as an option."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SPEED, MEMORY, LENGTH, CONTROL = "Speed", "Memory", "Length", "Control"


def generate(
    clip: Annotated[Path, typer.Argument(help="a clip (.clip.safetensors)")],
    out: Annotated[Path, typer.Option(help="folder for video.mp4 and metadata.json")] = Path("out/generate"),
    model: Annotated[str, typer.Option(help="a model's id or folder")] = "nano",
    prompt: Annotated[str | None, typer.Option(help="in place of the clip's own")] = None,
    negative_prompt: Annotated[str, typer.Option(help="what to keep away from, where there is guidance")] = "",
    seed: Annotated[int, typer.Option()] = 0,
    steps: Annotated[int | None, typer.Option(help="denoising steps; the model's default if left out")] = None,
    guidance: Annotated[float | None, typer.Option(help="guidance scale; the model's default if left out")] = None,
    dynamic_guidance: Annotated[
        bool | None, typer.Option(help="let guidance rise over the steps; the model's default if left out")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="ddim or dpm; the model's own if left out")] = None,
    control_scale: Annotated[float, typer.Option(help="strength of the 3D conditions", rich_help_panel=CONTROL)] = 1.0,
    control_start: Annotated[
        float, typer.Option(help="fraction of the steps from which they are used", rich_help_panel=CONTROL)
    ] = 0.0,
    control_end: Annotated[
        float, typer.Option(help="fraction of the steps until which they are used", rich_help_panel=CONTROL)
    ] = 1.0,
    num_frames: Annotated[
        int | None, typer.Option(help="frames, or frames of a window; the model's own", rich_help_panel=LENGTH)
    ] = None,
    length: Annotated[
        str, typer.Option(help="resample the clip to num-frames, or make all of it in windows", rich_help_panel=LENGTH)
    ] = "resample",
    fps: Annotated[
        float | None, typer.Option(help="with windows: frames a second; the clip's own", rich_help_panel=LENGTH)
    ] = None,
    window_overlap: Annotated[
        int | None, typer.Option(help="latent frames (4 frames) that windows share; half", rich_help_panel=LENGTH)
    ] = None,
    window_reference: Annotated[
        str,
        typer.Option(
            help="what a later window refers to: the clip's first frame, or the generated one", rich_help_panel=LENGTH
        ),
    ] = "clip",
    compile: Annotated[
        bool, typer.Option("--compile", help="compile the blocks; pays for many steps", rich_help_panel=SPEED)
    ] = False,
    cache: Annotated[str, typer.Option(help="none, pab, first_block or taylorseer", rich_help_panel=SPEED)] = "none",
    cache_strength: Annotated[
        float | None, typer.Option(help="the cache's own if left out; more is faster", rich_help_panel=SPEED)
    ] = None,
    attention_backend: Annotated[
        str | None, typer.Option(help="of diffusers' dispatcher: flash, _flash_3, sage ...", rich_help_panel=SPEED)
    ] = None,
    fuse_qkv: Annotated[
        bool, typer.Option("--fuse-qkv", help="one product for query, key and value", rich_help_panel=SPEED)
    ] = False,
    precision: Annotated[str, typer.Option(help="auto, fp32, autocast or bf16", rich_help_panel=SPEED)] = "auto",
    memory_mode: Annotated[
        str, typer.Option(help="auto, resident, text_first, fp8 or group_offload", rich_help_panel=MEMORY)
    ] = "auto",
    device: Annotated[str | None, typer.Option(help="cuda if there is one, else cpu")] = None,
) -> None:
    """Generate the video of a clip in this process, without a server."""
    from ..checkpoints.registry import ModelError
    from ..conditions import ClipError, load_clip
    from ..generate import GenerationRequest, OutOfMemory, load_model, write_result
    from ..generate import generate as make

    try:
        request = GenerationRequest(
            model=model,
            prompt=prompt,
            negative_prompt=negative_prompt,
            seed=seed,
            num_inference_steps=steps,
            guidance_scale=guidance,
            dynamic_guidance=dynamic_guidance,
            scheduler=scheduler,
            control_scale=control_scale,
            control_start=control_start,
            control_end=control_end,
            num_frames=num_frames,
            length=length,
            fps=fps,
            window_overlap=window_overlap,
            window_reference=window_reference,
            compile=compile,
            cache=cache,
            cache_strength=cache_strength,
            attention_backend=attention_backend,
            fuse_qkv=fuse_qkv,
        )
        loaded = load_clip(clip)
        result = make(
            load_model(model, device, memory_mode, precision),
            loaded,
            request,
            lambda phase, step, total, _: typer.echo(f"{phase} {step}/{total}"),
        )
    except (ClipError, ModelError):
        raise
    except (ValueError, OutOfMemory) as error:
        typer.secho(f"hvg3d generate: {error}", fg="red", err=True)
        raise typer.Exit(1) from None
    write_result(result, out)
    typer.echo(str(out / "video.mp4"))
