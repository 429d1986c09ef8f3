# SPDX-License-Identifier: Apache-2.0
"""``hvg3d submit``: one video from a server, here or on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def submit(
    clip: Annotated[Path, typer.Argument(help="a clip (.clip.safetensors)")],
    out: Annotated[Path, typer.Option(help="folder for video.mp4 and metadata.json")] = Path("out/submit"),
    server: Annotated[str, typer.Option(help="its address, its home folder, or 'local': of this machine")] = "local",
    token_file: Annotated[Path | None, typer.Option(help="token for that address (else HVG3D_TOKEN)")] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM file of who issued its certificate")] = None,
    model: Annotated[str | None, typer.Option(help="a model's id; the server's default if left out")] = None,
    prompt: Annotated[str | None, typer.Option(help="in place of the clip's own")] = None,
    negative_prompt: Annotated[str, typer.Option(help="what to keep away from, where there is guidance")] = "",
    seed: Annotated[int, typer.Option()] = 0,
    steps: Annotated[int | None, typer.Option(help="denoising steps; the model's default if left out")] = None,
    guidance: Annotated[float | None, typer.Option(help="guidance scale; the model's default if left out")] = None,
    num_frames: Annotated[int | None, typer.Option(help="1 or 8k+1; the model's own if left out")] = None,
    length: Annotated[str, typer.Option(help="resample, or windows: every frame of the clip")] = "resample",
    fps: Annotated[float | None, typer.Option(help="frames a second, with windows; the clip's if left out")] = None,
    control_scale: Annotated[float, typer.Option(help="strength of the 3D conditions")] = 1.0,
    label: Annotated[str | None, typer.Option(help="what to call it in the queue; the file's name")] = None,
    priority: Annotated[int, typer.Option(help="-100 to 100, among your own jobs")] = 0,
    wait: Annotated[bool, typer.Option(help="wait for it and fetch the result")] = True,
) -> None:
    """Generate the video of a clip on a server; the job goes on when this command is interrupted."""
    from ..client import GenerationRequest
    from .client import Narrator, connect

    if not clip.is_file():
        raise FileNotFoundError(f"{clip}: there is no such file")
    with connect(server, token_file, certificate) as client:
        request = GenerationRequest(
            clip=client.upload(clip),
            model=model,
            prompt=prompt,
            negative_prompt=negative_prompt,
            seed=seed,
            num_inference_steps=steps,
            guidance_scale=guidance,
            num_frames=num_frames,
            length=length,
            fps=fps,
            control_scale=control_scale,
        )
        job = client.submit(request, label=label or clip.name.removesuffix(".clip.safetensors"), priority=priority)
        typer.echo(f"job {job.id}")
        if not wait:
            return
        client.wait(job.id, Narrator(typer.echo))
        for name in ("metadata.json", "video.mp4"):
            client.download(job.id, name, out / name)
    typer.echo(str(out / "video.mp4"))
