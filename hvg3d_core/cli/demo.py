# SPDX-License-Identifier: Apache-2.0
"""``hvg3d demo``: Blender process, server process, worker process; then the comparison that a person looks at."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import typer
from PIL import Image, ImageDraw

from ..checkpoints.registry import find_model
from ..client import GenerationRequest
from ..conditions import load_clip, resample_indices
from ..inspect import contact_sheet
from ..video import read_video, write_mp4
from .client import Narrator, run_job, running_server

SHIPPED = Path(__file__).parent / "assets"
SOURCE_FRAMES = 49  # of the scripted shot


class Clock:
    """Where the time went, in the order it went."""

    def __init__(self) -> None:
        self.rows: dict[str, float] = {}
        self.started = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.rows[name] = self.rows.get(name, 0.0) + time.perf_counter() - started

    def table(self) -> str:
        total = time.perf_counter() - self.started
        rows = [*self.rows.items(), ("total", total)]
        return "\n".join(f"  {name:<42}{seconds:7.1f} s" for name, seconds in rows)


def make_scene(out: Path, width: int, height: int) -> tuple[Path, Path]:
    """Build, export and render the demo scene in a Blender process: (clip, video of the scene)."""
    command = [sys.executable, "-m", "blender_addon.headless", "demo", "--out", str(out)]
    size = ["--width", str(width), "--height", str(height), "--frames", str(SOURCE_FRAMES)]
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "blender.log", "w", encoding="utf-8") as log:
        if subprocess.run([*command, *size], stdout=log, stderr=subprocess.STDOUT).returncode:
            raise RuntimeError(f"Blender could not make the scene; its log is {out / 'blender.log'}")
    clip = out / "demo.clip.safetensors"
    pictures = sorted((out / "frames").glob("*.png"))
    frames = [np.asarray(Image.open(picture).convert("RGB")) for picture in pictures]
    return clip, write_mp4(out / "scene.mp4", frames, load_clip(clip).fps)


def side_by_side(scene: np.ndarray, real: np.ndarray, scale: int = 2) -> list[np.ndarray]:
    """Scene left, result right, each frame beside the one of the same moment; enlarged, with a caption."""
    scene = scene[resample_indices(len(scene), len(real))]
    height, width = real.shape[1:3]
    bar = 18
    frames = []
    for left, right in zip(scene, real, strict=True):
        sheet = Image.new("RGB", (2 * width * scale + 4, height * scale + bar), (24, 24, 24))
        for x, picture, caption in ((0, left, "Blender scene"), (width * scale + 4, right, "generated")):
            sheet.paste(
                Image.fromarray(picture).resize((width * scale, height * scale), Image.Resampling.BICUBIC), (x, bar)
            )
            ImageDraw.Draw(sheet).text((x + 4, 3), caption, fill=(235, 235, 235))
        frames.append(np.asarray(sheet))
    return frames


def run_demo(out: Path, *, seed: int, model: str, shipped_clip: bool) -> None:
    """Write real.mp4, real.json, compare.mp4 and contact_sheet.png to ``out`` and print where they are."""
    clock = Clock()
    entry = find_model(model)
    out.mkdir(parents=True, exist_ok=True)
    scene_folder = out / "scene"
    blender = not shipped_clip and importlib.util.find_spec("bpy") is not None
    with ExitStack() as stack:
        with clock.part("start the server"):
            client = stack.enter_context(running_server(out / "server", model=model))
        if blender:
            typer.echo("building, exporting and rendering the scene in Blender ...")
            try:
                with clock.part("Blender: scene, export, render"):
                    clip_path, scene_video = make_scene(scene_folder, entry.width, entry.height)
            except RuntimeError as error:
                typer.echo(f"{error}\nGoing on with the clip that is shipped.")
                blender = False
        if not blender:
            typer.echo("using the clip that is shipped with hvg3d")
            scene_folder.mkdir(parents=True, exist_ok=True)
            clip_path = Path(shutil.copy(SHIPPED / "demo.clip.safetensors", scene_folder))
            scene_video = Path(shutil.copy(SHIPPED / "scene.mp4", scene_folder))
        typer.echo("generating ...")
        with clock.part("server: load, generate, encode"):
            job = run_job(
                client,
                clip_path,
                lambda sha: GenerationRequest(sha, seed=seed, length="windows"),
                Narrator(typer.echo),
                "demo",
            )
            client.download(job.id, "video.mp4", out / "real.mp4")
            metadata = json.loads(client.download(job.id, "metadata.json", out / "real.json").read_text("utf-8"))
    with clock.part("comparison and contact sheet"):
        real, fps = read_video(out / "real.mp4")
        scene, _ = read_video(scene_video)
        write_mp4(out / "compare.mp4", side_by_side(scene, real), fps)
        videos = {"Blender\nscene": scene, "generated": real}
        contact_sheet(load_clip(clip_path), videos=videos).save(out / "contact_sheet.png")
    timings = scene_folder / "timings.json"
    typer.echo("\nwhere the time went:")
    typer.echo(clock.table())
    if blender and timings.exists():
        inner = json.loads(timings.read_text(encoding="utf-8"))
        typer.echo("  of that in Blender: " + ", ".join(f"{k} {v:.1f} s" for k, v in inner.items()))
    typer.echo(f"  of that in the worker's generation: {metadata['seconds']['total']:.1f} s")
    typer.echo(f"\nvideo:         {(out / 'real.mp4').resolve()}")
    typer.echo(f"side by side:  {(out / 'compare.mp4').resolve()}")
    typer.echo(f"contact sheet: {(out / 'contact_sheet.png').resolve()}")
