# SPDX-License-Identifier: Apache-2.0
"""The main job as the README runs it, on the clip that is shipped: server process, worker process, nano, videos."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hvg3d_core.conditions import load_clip, resample_indices
from hvg3d_core.video import read_video


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "hvg3d_core.cli.main", "demo", "--shipped-clip", "--out", str(out)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout


def test_it_says_where_the_video_is_and_where_the_time_went(result):
    out, printed = result
    assert str((out / "real.mp4").resolve()) in printed
    assert "where the time went" in printed
    assert "total" in printed


def test_the_video_follows_the_scene(result):
    """In the hand-object region the result is closer to the scene's own frames than the repeated first frame is."""
    out, _ = result
    real, fps = read_video(out / "real.mp4")
    clip = load_clip(out / "scene" / "demo.clip.safetensors")
    scene, _ = read_video(out / "scene" / "scene.mp4")
    at = resample_indices(len(scene), len(real))
    truth, masks = scene[at].astype(float), clip.views[0].masks[at] > 0
    assert fps == pytest.approx(len(real) / (clip.num_frames / clip.fps), rel=0.02)
    error = np.square(real.astype(float) - truth)[masks].mean()
    still = np.square(truth[:1] - truth)[masks].mean()
    assert 10 * np.log10(still / error) > 1.0


def test_everything_to_repeat_it_is_beside_it(result):
    out, _ = result
    metadata = json.loads((out / "real.json").read_text())
    assert metadata["request"]["seed"] == 0
    assert metadata["model"]["id"] == "nano"


def test_comparison_and_sheet_are_pictures(result):
    out, _ = result
    compare, _ = read_video(out / "compare.mp4")
    real, _ = read_video(out / "real.mp4")
    assert len(compare) == len(real)
    assert compare.shape[2] > 2 * real.shape[2]
    with Image.open(out / "contact_sheet.png") as sheet:
        assert min(sheet.size) > 300
