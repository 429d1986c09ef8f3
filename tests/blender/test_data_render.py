# SPDX-License-Identifier: GPL-3.0-or-later
"""Random clips: what is held out stays out, subsets are measured, and a killed run neither loses nor repeats a clip."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs the bpy wheel (pip install 'hvg3d[blender]')")

from blender_addon.core import load_clip  # noqa: E402
from blender_addon.demo import families, framing, generate, motion  # noqa: E402
from blender_addon.demo.randomise import SPLITS, family_and_motion, random_plan  # noqa: E402


def test_generated_clip_is_complete_and_not_made_twice(tmp_path):
    """Strip and clip belong together, hand and object are in the first frame; a second run changes nothing."""
    command = ["--out", str(tmp_path), "--start-seed", "0", "--count", "1", "--width", "96", "--height", "64"]
    command += ["--frames", "9", "--samples", "1"]
    assert generate.main(command) == 0
    clip = load_clip(tmp_path / "000000.clip.safetensors")
    line = json.loads((tmp_path / "manifest.jsonl").read_text())
    assert clip.prompt == line["prompt"] and clip.points.shape[0] == 9
    masks = clip.views[0].masks
    assert masks.shape == (9, 64, 96)
    assert min((masks[0] == 1).mean(), (masks[0] == 2).mean()) > 0.02
    image = bpy.data.images.load(str(tmp_path / "000000.png"))
    assert tuple(image.size) == (96, 9 * 64)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert generate.main(command) == 0
    assert before == {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}


def test_held_out_families_and_motions_are_never_in_the_training_split():
    kinds = {split: {family_and_motion(np.random.default_rng(seed), split) for seed in range(400)} for split in SPLITS}
    assert {f for f, _ in kinds["train"]} == set(families.TRAIN_FAMILIES)
    assert {m for _, m in kinds["train"]} == set(motion.TRAIN_MOTIONS)
    new = [(f in families.HELDOUT_FAMILIES, m in motion.HELDOUT_MOTIONS) for f, m in kinds["heldout"]]
    assert all(any(pair) for pair in new) and set(new) == {(True, False), (False, True), (True, True)}
    assert {f for f, _ in kinds["heldout"]} >= set(families.HELDOUT_FAMILIES)
    assert {m for _, m in kinds["heldout"]} == set(motion.MOTIONS)


def test_what_stands_about_is_clear_of_hand_and_object_and_hides_neither():
    seen = 0
    for seed in range(900000, 900012):
        plan = random_plan(seed, split="heldout")
        frames = np.arange(0, 17, 2)
        swept = framing.hand_points(plan.hand, plan.grasp, plan.motion, frames).reshape(-1, 3)
        eye = plan.camera.eye(0.0)
        for other in plan.clutter:
            seen += 1
            local = (swept - other.pose[:3, 3]) @ other.pose[:3, :3]
            assert other.shape.distance(local).min() > 0.01, seed
            thing = plan.object_pose[:3, 3]
            assert np.linalg.norm(other.pose[:2, 3] - eye[:2]) > np.linalg.norm(thing[:2] - eye[:2]) - 0.1
    assert seen >= 5


def test_subsets_follow_from_what_the_clip_shows(tmp_path):
    """Depth and occlusion are measured; the same numbers come out of the clip with plain loops."""
    options = ["--width", "96", "--height", "64", "--frames", "9", "--samples", "1", "--split", "heldout"]
    assert generate.main(["--out", str(tmp_path), "--start-seed", "1", "--count", "1", *options]) == 0
    line = json.loads((tmp_path / "manifest.jsonl").read_text())
    clip = load_clip(tmp_path / "000001.clip.safetensors")
    view = clip.views[0]
    changes = []
    for entity in range(2):
        depths = []
        for t in range(9):
            points = clip.points[t][clip.point_entity == entity]
            depths.append(np.mean([(view.world_to_camera[t] @ [*p, 1.0])[2] for p in points]))
        changes.append(max(depths) / min(depths))
    assert line["depth_change"] == pytest.approx(max(changes), abs=2e-3)
    assert ("depth_motion" in line["subsets"]) == (max(changes) >= generate.DEPTH_CHANGE)
    assert line["split"] == "heldout" and {"heldout_family", "heldout_motion"} & set(line["subsets"])
    described = json.loads((tmp_path / "dataset.json").read_text())
    assert not set(described["families"]) & set(described["heldout_families"])


def test_clips_of_other_settings_are_not_mixed(tmp_path, capsys):
    command = ["--out", str(tmp_path), "--count", "1", "--width", "96", "--height", "64", "--frames", "1"]
    generate.describe(tmp_path, argparse.Namespace(split="train", width=96, height=64, frames=9, samples=4))
    with pytest.raises(SystemExit):
        generate.main(command)
    assert "frames 1" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_rendering_goes_on_and_neither_loses_nor_repeats_a_clip(tmp_path):
    """Two processes, killed with their parent in the middle, a manifest torn on top: the end is that of a whole run."""
    options = [
        "--count",
        "6",
        "--processes",
        "2",
        "--threads",
        "1",
        "--width",
        "96",
        "--height",
        "64",
        "--frames",
        "9",
        "--samples",
        "1",
    ]
    command = [sys.executable, "-m", "blender_addon.demo.generate", *options, "--out"]
    manifest = tmp_path / "killed" / "manifest.jsonl"
    with subprocess.Popen([*command, str(tmp_path / "killed")], start_new_session=True) as running:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and (not manifest.exists() or manifest.read_text().count("\n") < 2):
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGKILL)
    done = manifest.read_text().count("\n")
    assert 2 <= done < 6
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "killed").glob("*.clip.safetensors")}
    whole = [json.loads(text)["seed"] for text in manifest.read_text().splitlines()]
    with manifest.open("a") as file:
        file.write('{"seed": 5, "spl')
    subprocess.run([*command, str(tmp_path / "killed")], check=True)
    lines = [json.loads(text) for text in manifest.read_text().splitlines()]
    assert [line["seed"] for line in lines] == [0, 1, 2, 3, 4, 5]
    for seed in whole:  # what was complete has not been made again
        name = f"{seed:06d}.clip.safetensors"
        assert (tmp_path / "killed" / name).stat().st_mtime_ns == times[name]
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    for path in (tmp_path / "whole").iterdir():
        if path.suffix in (".png", ".safetensors"):
            assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes(), path.name
    assert not list((tmp_path / "killed").glob(".*.part"))
