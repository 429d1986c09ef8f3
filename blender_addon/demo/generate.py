# SPDX-License-Identifier: GPL-3.0-or-later
"""Renders random clips for training: `python -m blender_addon.demo.generate --out DIR --start-seed 0 --count 100`.

For every seed, DIR gets `SEED.png` (the frames stacked from top to bottom), `SEED.clip.safetensors` (the clip; its
reference is the first frame) and a line in `manifest.jsonl`. Seeds whose two files exist are skipped, so an interrupted
run goes on where it stopped; a seed that fails leaves a line that says why.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import bpy
import numpy as np

from ..core import clip_bytes, encode_png
from ..scene.export import EntityObjects, ExportSettings, export_clip
from .build import DemoScene
from .randomise import SceneError, random_scene
from .render import render_frames


def export_settings(
    demo: DemoScene, width: int, height: int, num_frames: int, seed: int, reference: bytes | None
) -> ExportSettings:
    """How a demo scene is exported: one entity per hand, one for the object."""
    hands = [
        EntityObjects(name.lower(), role, (name,)) for name, role in zip(demo.hand_meshes, demo.hand_roles, strict=True)
    ]
    things = [EntityObjects(name.lower(), "object", (name,)) for name in demo.object_meshes]
    return ExportSettings(
        entities=(*hands, *things),
        camera=demo.camera,
        frame_start=demo.frame_start,
        frame_end=demo.frame_end,
        num_frames=num_frames,
        width=width,
        height=height,
        prompt=demo.prompt,
        seed=seed,
        reference=reference,
    )


def generate_clip(
    seed: int, width: int, height: int, frames: int, samples: int, threads: int = 0
) -> tuple[bytes, bytes, dict]:
    """One seed: PNG strip, clip file, manifest line. SceneError when the seed has no usable scene."""
    began = time.perf_counter()
    bpy.ops.wm.read_homefile(use_empty=True)
    demo = random_scene(seed, frames)
    scene = bpy.context.scene
    built = time.perf_counter()
    # Geometry first: it tells whether the clip is worth rendering.
    blank = encode_png(np.zeros((height, width, 3), np.uint8))
    clip = export_clip(scene, export_settings(demo, width, height, frames, seed, blank))
    hand_pixels = (clip.views[0].masks == 1).mean(axis=(1, 2))
    object_pixels = (clip.views[0].masks == 2).mean(axis=(1, 2))
    if hand_pixels[0] < 0.02 or object_pixels[0] < 0.02:
        raise SceneError(f"frame 1 shows {hand_pixels[0]:.1%} hand and {object_pixels[0]:.1%} object")
    exported = time.perf_counter()
    pictures = render_frames(scene, range(demo.frame_start, demo.frame_end + 1), width, height, samples, threads)
    clip = replace(clip, views=[replace(clip.views[0], reference=encode_png(pictures[0]))])
    done = time.perf_counter()
    line = {
        "seed": seed,
        "motion": demo.plan.motion_name,
        "family": demo.plan.shape.family,
        "side": demo.plan.side,
        "prompt": demo.prompt,
        "touching": len(demo.plan.grasp.touching),
        "hand_cover": round(float(hand_pixels.mean()), 4),
        "object_cover": round(float(object_pixels.mean()), 4),
        "seconds": round(done - began, 2),
        "seconds_build": round(built - began, 2),
        "seconds_render": round(done - exported, 2),
        "seconds_export": round(exported - built, 2),
    }
    return encode_png(pictures.reshape(-1, width, 3)), clip_bytes(clip), line


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_bytes(data)
    partial.replace(path)


def generate(out: Path, seeds: range, width: int, height: int, frames: int, samples: int, threads: int) -> int:
    """Make what is missing; returns how many clips of `seeds` exist in the end."""
    out.mkdir(parents=True, exist_ok=True)
    present = 0
    for seed in seeds:
        strip, clip = out / f"{seed:06d}.png", out / f"{seed:06d}.clip.safetensors"
        if strip.exists() and clip.exists():
            present += 1
            continue
        try:
            strip_bytes, clip_data, line = generate_clip(seed, width, height, frames, samples, threads)
        except (SceneError, ValueError, RuntimeError) as error:
            line = {"seed": seed, "skipped": str(error)}
        else:
            _write(strip, strip_bytes)
            _write(clip, clip_data)
            present += 1
        with (out / "manifest.jsonl").open("a", encoding="utf-8") as manifest:
            manifest.write(json.dumps(line) + "\n")
    return present


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m blender_addon.demo.generate", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips")
    parser.add_argument("--start-seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--step", type=int, default=1, help="distance between seeds, to share them among processes")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--samples", type=int, default=4, help="Cycles samples a pixel")
    parser.add_argument("--threads", type=int, default=0, help="render threads; 0 uses every core")
    options = parser.parse_args(arguments)
    seeds = range(options.start_seed, options.start_seed + options.count, options.step)
    present = generate(
        options.out, seeds, options.width, options.height, options.frames, options.samples, options.threads
    )
    print(f"{present} of {len(seeds)} clips are in {options.out}")
    return 0 if present else 1


if __name__ == "__main__":
    sys.exit(main())
