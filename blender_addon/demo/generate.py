# SPDX-License-Identifier: GPL-3.0-or-later
"""Renders random clips: ``hvg3d data render --out DIR --split train --count 100 --processes 2``.

For every seed, DIR gets `SEED.png` (the frames stacked from top to bottom), `SEED.clip.safetensors` (the clip; its
reference is the first frame) and a line in `manifest.jsonl`: what is in it and which subsets it belongs to, or why the
seed gave no scene. A clip counts when its line is written, so a killed run goes on where it stopped: it neither loses
nor repeats a clip. `dataset.json` says what all lines have in common.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from ..core import Clip, clip_bytes, encode_png
from ..scene.export import EntityObjects, ExportSettings, export_clip
from .build import DemoScene
from .families import HELDOUT_FAMILIES, TRAIN_FAMILIES
from .motion import HELDOUT_MOTIONS, TRAIN_MOTIONS
from .randomise import SPLITS, SceneError, random_scene
from .render import render_frames

VERSION = 2  # of the generator: another number, other scenes for the same seeds
MANIFEST, DATASET = "manifest.jsonl", "dataset.json"
# Motion -> subset that users of the data ask for by name.
MOTION_SUBSETS = {
    "lift": "lifting",
    "pour": "pouring",
    "turn_over": "turning_over",
    "push_in_depth": "pushing_in_depth",
    "hand_passes_in_front": "occluding_passes",
}
DEPTH_CHANGE = 1.2  # farthest over nearest depth of hand or object from which a clip is one of motion in depth
HIDDEN_SHARE = 0.6  # of the object's most visible points: where fewer are seen in some frame, it is occluded


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
    seed: int, width: int, height: int, frames: int, samples: int, threads: int = 0, split: str = "train"
) -> tuple[bytes, bytes, dict[str, Any]]:
    """One seed: PNG strip, clip file, manifest line. SceneError when the seed has no usable scene."""
    began = time.perf_counter()
    bpy.ops.wm.read_homefile(use_empty=True)
    demo = random_scene(seed, frames, split)
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
    depth_change, object_seen = depth_and_occlusion(clip)
    plan = demo.plan
    line = {
        "seed": seed,
        "split": split,
        "motion": plan.motion_name,
        "family": plan.shape.family,
        "side": plan.side,
        "view": plan.view,
        "clutter": len(plan.clutter),
        "prompt": demo.prompt,
        "touching": len(plan.grasp.touching),
        "hand_cover": round(float(hand_pixels.mean()), 4),
        "object_cover": round(float(object_pixels.mean()), 4),
        "depth_change": round(depth_change, 3),
        "object_seen": round(object_seen, 3),
        "subsets": subsets(demo, depth_change, object_seen),
        "seconds": round(done - began, 2),
        "seconds_build": round(built - began, 2),
        "seconds_render": round(done - exported, 2),
        "seconds_export": round(exported - built, 2),
    }
    return encode_png(pictures.reshape(-1, width, 3)), clip_bytes(clip), line


def depth_and_occlusion(clip: Clip) -> tuple[float, float]:
    """(farthest over nearest mean depth of hand or object, whichever changes more; least over greatest share of the
    object's points that the camera sees)."""
    view = clip.views[0]
    camera = (
        np.einsum("tab,tnb->tna", view.world_to_camera[:, :3, :3], clip.points) + view.world_to_camera[:, None, :3, 3]
    )
    change = 1.0
    for entity in range(len(clip.entities)):
        depth = camera[:, clip.point_entity == entity, 2].mean(axis=1)
        change = max(change, float(depth.max() / max(depth.min(), 1e-6)))
    thing = next(i for i, entity in enumerate(clip.entities) if entity.role == "object")
    seen = view.point_visible[:, clip.point_entity == thing].mean(axis=1)
    return change, float(seen.min() / max(seen.max(), 1e-6))


def subsets(demo: DemoScene, depth_change: float, object_seen: float) -> list[str]:
    """The names of the subsets that a clip belongs to."""
    plan = demo.plan
    found = [MOTION_SUBSETS[plan.motion_name]] if plan.motion_name in MOTION_SUBSETS else []
    belongs = {
        "depth_motion": depth_change >= DEPTH_CHANGE,
        "occlusion": object_seen <= HIDDEN_SHARE or plan.motion_name == "hand_passes_in_front",
        "heldout_family": plan.shape.family in HELDOUT_FAMILIES,
        "heldout_motion": plan.motion_name in HELDOUT_MOTIONS,
        "first_person": plan.view == "first_person",
        "clutter": len(plan.clutter) > 0,
    }
    return found + [name for name, does in belongs.items() if does]


def read_manifest(out: Path) -> dict[int, dict[str, Any]]:
    """The lines of a manifest by seed. A last line that a kill has torn is no line."""
    lines: dict[int, dict[str, Any]] = {}
    path = out / MANIFEST
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        lines.setdefault(line["seed"], line)
    return lines


def tidy(out: Path) -> None:
    """Write the manifest again, every seed once and in order, without what a kill has left; remove partial files."""
    lines = read_manifest(out)
    _write_changed(out / MANIFEST, "".join(json.dumps(lines[seed]) + "\n" for seed in sorted(lines)).encode())
    for left in out.glob(".*.part"):
        left.unlink(missing_ok=True)


def _files(out: Path, seed: int) -> tuple[Path, Path]:
    return out / f"{seed:06d}.png", out / f"{seed:06d}.clip.safetensors"


def todo(out: Path, seeds: range) -> list[int]:
    """Seeds without a line, and those whose line speaks of files that are gone."""
    lines = read_manifest(out)
    return [
        s
        for s in seeds
        if s not in lines or ("skipped" not in lines[s] and not all(f.exists() for f in _files(out, s)))
    ]


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_bytes(data)
    partial.replace(path)


def _write_changed(path: Path, data: bytes) -> None:
    if not path.exists() or path.read_bytes() != data:
        _write(path, data)


def render_seeds(out: Path, seeds: list[int], options: argparse.Namespace) -> None:
    """Make these clips, one after the other, in this process."""
    size = options.width, options.height, options.frames, options.samples, options.threads
    for seed in seeds:
        strip, clip = _files(out, seed)
        try:
            strip_bytes, clip_data, line = generate_clip(seed, *size, options.split)
        except (SceneError, ValueError, RuntimeError) as error:
            line = {"seed": seed, "split": options.split, "skipped": str(error)}
        else:
            _write(strip, strip_bytes)
            _write(clip, clip_data)
        # One write of one line: several processes append to the same file.
        with (out / MANIFEST).open("ab", buffering=0) as manifest:
            manifest.write((json.dumps(line) + "\n").encode())


def describe(out: Path, options: argparse.Namespace) -> None:
    """Write DATASET; ValueError where the folder holds clips of other settings."""
    kinds = ("split", "width", "height", "frames", "samples")
    described: dict[str, Any] = {"generator": VERSION} | {name: getattr(options, name) for name in kinds}
    path = out / DATASET
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        for name, value in described.items():
            if found.get(name) != value:
                raise ValueError(
                    f"{name} {value!r}: the clips in {out} were made with {found.get(name)!r}; use that, or another "
                    "--out"
                )
    described |= {"families": list(TRAIN_FAMILIES), "motions": list(TRAIN_MOTIONS)}
    described |= {"heldout_families": list(HELDOUT_FAMILIES), "heldout_motions": list(HELDOUT_MOTIONS)}
    _write_changed(path, (json.dumps(described, indent=2) + "\n").encode())


def _run_processes(options: argparse.Namespace, missing: list[int], already: int) -> None:
    """Share the seeds among processes of their own, which end with this one, and say how far they are."""
    shares = [missing[n :: options.processes] for n in range(options.processes)]
    command = [sys.executable, "-m", "blender_addon.demo.generate", "--out", str(options.out), "--split", options.split]
    for name in ("width", "height", "frames", "samples", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    children = [
        subprocess.Popen([*command, "--seeds", ",".join(map(str, share))], stdin=subprocess.DEVNULL)
        for share in shares
        if share
    ]
    began, shown = time.monotonic(), -1
    try:
        while True:
            running = [child for child in children if child.poll() is None]
            done = len(missing) - len(todo(options.out, options.seeds_range))
            if done != shown and (done % 10 == 0 or not running):
                hours = max(time.monotonic() - began, 1e-3) / 3600
                print(
                    f"{already + done} of {already + len(missing)} seeds, {done / hours:.0f} seeds an hour", flush=True
                )
                shown = done
            if not running:
                break
            time.sleep(0.5)
    finally:
        for child in children:
            if child.poll() is None:
                child.terminate()
    failed = [child.returncode for child in children if child.returncode]
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(children)} processes ended with {failed[0]}; start the command again"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="hvg3d data render", description="Render random clips of hands and objects.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips")
    parser.add_argument("--split", choices=SPLITS, default="train", help="heldout: families and motions of its own")
    parser.add_argument("--start-seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1, help="how many seeds; a few in a hundred give no scene")
    parser.add_argument("--processes", type=int, default=1, help="how many render at once")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--samples", type=int, default=4, help="Cycles samples a pixel")
    parser.add_argument("--threads", type=int, default=0, help="render threads of each process; 0 uses every core")
    parser.add_argument("--seeds", help=argparse.SUPPRESS)  # of a process of a larger run
    options = parser.parse_args(arguments)
    for name in ("count", "processes", "width", "height", "frames", "samples"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: use 1 or more")
    if options.seeds:
        render_seeds(options.out, [int(seed) for seed in options.seeds.split(",")], options)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = options.seeds_range = range(options.start_seed, options.start_seed + options.count)
    try:
        describe(options.out, options)
    except ValueError as error:
        parser.error(str(error))
    tidy(options.out)
    missing = todo(options.out, seeds)
    began = time.monotonic()
    if options.processes == 1:
        render_seeds(options.out, missing, options)
    else:
        _run_processes(options, missing, len(seeds) - len(missing))
    if missing:
        tidy(options.out)
    lines = read_manifest(options.out)
    present = sum("skipped" not in lines[seed] for seed in seeds if seed in lines)
    made = sum("skipped" not in lines[seed] for seed in missing if seed in lines)
    pace = f", {made / max((time.monotonic() - began) / 3600, 1e-6):.0f} clips an hour" if made else ""
    print(f"{present} clips of {len(seeds)} seeds are in {options.out}{pace}")
    return 0 if present else 1


if __name__ == "__main__":
    sys.exit(main())
