# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of Blender itself: ``blender -b FILE --command hvg3d batch|export``, without a window or the library."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import bpy

from .batch.job import Batch
from .batch.options import add_options, address_from, plan_from
from .batch.plan import PlanError, Unit, unique
from .batch.shots import iter_batch, iter_unit, selections_for, shots_of_open_file
from .batch.state import Busy
from .batch.talk import Speaker
from .core import ClipError, save_clip
from .preferences import server_address
from .result import results_folder

COMMAND = "hvg3d"
_handle: list = []


def register() -> None:
    _handle.append(bpy.utils.register_cli_command(COMMAND, execute))


def unregister() -> None:
    while _handle:
        bpy.utils.unregister_cli_command(_handle.pop())


def execute(arguments: Sequence[str]) -> int:
    """0: all went well. 1: not all shots are done. 2: what was asked for cannot be done."""
    try:
        given = _parser().parse_args(list(arguments))
        return _batch(given) if given.what == "batch" else _export(given)
    except SystemExit as end:  # how argparse ends
        return int(end.code or 0)
    except (PlanError, Busy, ClipError) as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error}; free some space, or choose another folder", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"blender -b FILE --command {COMMAND}", description="HVG-3D without a window."
    )
    commands = parser.add_subparsers(dest="what", required=True)
    batch = commands.add_parser("batch", help="many videos of this file: scenes x cameras x actions x seeds")
    batch.add_argument("--config", type=Path, metavar="FILE", help="a plan (TOML)")
    add_options(batch)
    export = commands.add_parser("export", help="one clip of this file, without a server")
    export.add_argument("out", type=Path, help="file to write, usually *.clip.safetensors")
    export.add_argument("--scene", help="name of the scene; the active one if left out")
    export.add_argument("--camera", help="name of the camera; the shot's own if left out")
    export.add_argument("--action", default="", help="name of an action; if left out, everything moves as it does")
    return parser


def _scene(name: str | None) -> bpy.types.Scene:
    if name is None:
        return bpy.context.scene
    if name not in bpy.data.scenes:
        raise ClipError(f"scene: {name!r} is not in this file; use one of {', '.join(bpy.data.scenes.keys())}")
    return bpy.data.scenes[name]


def _export(given: argparse.Namespace) -> int:
    scene = _scene(given.scene)
    own = scene.hvg3d.camera_of(scene)
    camera = given.camera if given.camera is not None else own.name if own is not None else ""
    steps = iter_unit(Unit("", scene.name, camera, given.action))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            clip = end.value[0]
            break
    save_clip(clip, given.out)
    print(f"{given.out}: {clip.num_frames} frames, {clip.num_points} points, {clip.tracks.shape[1]} tracks")
    return 0


def _batch(given: argparse.Namespace) -> int:
    plan = plan_from(given, given.config)
    selections = selections_for(plan, bpy.data.filepath)
    if not selections:
        name = Path(bpy.data.filepath).name or "the open file"
        raise PlanError(
            f"files: nothing in {given.config} is about {name!r}; open a file that it names, or leave out files"
        )
    if given.dry_run:
        shots = unique(shots_of_open_file(selections, Path(bpy.data.filepath).name))
        for shot in shots:
            print(f"{shot.label}{f'  ({shot.unit.problem})' if shot.unit.problem else ''}")
        print(f"{len(shots)} shots")
        return 0
    out = results_folder() / "batch"
    if given.out is not None:
        out = Path(given.out)
    elif plan.out is not None:
        out = given.config.parent / plan.out
    speaker = Speaker(as_json=False)
    title = Path(bpy.data.filepath).stem or "untitled"
    batch = Batch(
        out.absolute(),
        address_from(given, server_address),
        replace(plan, selections=selections),
        title=title,
        retry_failed=given.retry_failed,
        on_change=speaker.row,
    )
    before = signal.signal(signal.SIGINT, lambda *_: batch.stop())
    try:
        for _ in iter_batch(batch, selections):
            pass
        batch.no_more()
        while batch.running:
            time.sleep(0.1)
    finally:
        # None: it was not set from Python, as in Blender's own program.
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
        batch.stop()
        page = batch.close(10)
    return speaker.conclude(batch, page)
