# SPDX-License-Identifier: Apache-2.0
"""The command line as a person uses it: real processes, plain messages, no traceback."""

import subprocess
import sys

import pytest
from PIL import Image

from hvg3d_core.conditions import save_clip
from tests.core.synthetic import make_clip


def hvg3d(*arguments, cwd=None):
    command = [sys.executable, "-m", "hvg3d_core.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


@pytest.fixture
def clip_path(tmp_path):
    path = tmp_path / "shot.clip.safetensors"
    save_clip(make_clip()[0], path)
    return path


def test_inspect_describes_and_draws(clip_path):
    done = hvg3d("inspect", clip_path)
    assert done.returncode == 0, done.stderr
    for word in ("9", "right hand", "box", "48", "a right hand moves a box"):
        assert word in done.stdout
    with Image.open(clip_path.with_name("shot.sheet.png")) as sheet:
        assert sheet.width > 300
        assert len(set(sheet.convert("RGB").resize((64, 64)).tobytes())) > 20


def test_truncated_clip_is_one_line_of_error(clip_path):
    clip_path.write_bytes(clip_path.read_bytes()[:-100])
    done = hvg3d("inspect", clip_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "shot.clip.safetensors" in done.stderr


def test_unknown_model_names_those_there_are(clip_path):
    done = hvg3d("generate", clip_path, "--model", "no-such-model")
    assert done.returncode == 1
    assert "no-such-model" in done.stderr
    assert "nano" in done.stderr
    assert "Traceback" not in done.stderr


def test_models_says_what_the_nano_is():
    done = hvg3d("models")
    assert done.returncode == 0
    assert "nano" in done.stdout
    assert "Apache-2.0" in done.stdout
    assert "not photoreal" in done.stdout


def test_help_is_there_for_every_command():
    listing = hvg3d("--help")
    for command in ("demo", "export", "generate", "serve", "inspect", "models", "train", "eval", "data"):
        assert command in listing.stdout
        assert hvg3d(command, "--help").returncode == 0 or command in ("serve",)
