# SPDX-License-Identifier: Apache-2.0
"""All stages on two tiny clips, from frames to a packed model that generates; and what a broken sample does."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from hvg3d_core.cli.main import app
from hvg3d_core.conditions import ClipError, load_clip, network_inputs, project
from hvg3d_core.evaluation.evaluate import Plan, evaluate
from hvg3d_core.generate import Cancelled, GenerationRequest, generate, load_model, write_result
from hvg3d_core.training.augment import mirror, recolour, reverse, zoom
from hvg3d_core.training.cache import load_cache
from hvg3d_core.training.dataset import find_samples, load_frames
from hvg3d_core.training.stages import STAGES, run_stage
from hvg3d_core.video import read_video
from tests.core.synthetic import make_clip, write_dataset

CONFIG = """
[video]
width = 48
height = 32
num_frames = 9
num_points = 64
[vae]
steps = 4
warmup = 1
block_out_channels = [8, 8, 8, 8]
norm_num_groups = 4
image_batch_size = 2
video_crop = 32
[decoder]
steps = 2
crop = 32
batch_size = 1
warmup = 1
[base]
steps = 3
warmup = 1
batch_size = 2
num_layers = 2
num_attention_heads = 2
attention_head_dim = 16
time_embed_dim = 16
max_text_seq_length = 16
text_dim = 32
text_layers = 1
ema = 0.9
[control]
steps = 3
warmup = 1
batch_size = 2
muon_lr = 1e-3
[control.transformer]
point_dim = 32
point_heads = 2
point_head_dim = 16
num_point_latents = 8
resampler_heads = 2
resampler_head_dim = 16
point_reference_features = true
point_reference_per_frame = true
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_dataset(folder / "data" / "train", 2)
    write_dataset(folder / "data" / "heldout", 1)
    (folder / "tiny.toml").write_text(CONFIG)
    for stage in STAGES:
        if stage == "decoder":
            shutil.copytree(folder / "out" / "vae", folder / "vae_before")
        run_stage(stage, str(folder / "tiny.toml"), folder / "data", folder / "out")
    return folder


def test_cache_holds_a_clip_and_its_three_twins(run):
    cache = load_cache(run / "out" / "cache")
    assert len(cache) == 8
    everything = cache.batch(torch.arange(8))
    assert everything["latents"].shape == (8, 3, 16, 4, 6)
    assert everything["mask"].shape == (8, 3, 4, 6)
    assert all(torch.isfinite(t.float()).all() for t in everything.values())
    assert cache.prompts[0] == "a right hand moves a box"


def test_decoder_stage_leaves_the_encoder_alone(run):
    before, after = (
        load_file(run / name / "diffusion_pytorch_model.safetensors") for name in ("vae_before", "out/vae")
    )
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"decoder"}


def test_cache_takes_in_clips_that_came_later(run):
    before = load_cache(run / "out" / "cache")
    write_dataset(run / "data" / "train", 3)
    run_stage("cache", str(run / "tiny.toml"), run / "data", run / "out")
    after = load_cache(run / "out" / "cache")
    assert after.names == [*before.names, *["0002"] * 4]
    rows = torch.arange(8)
    assert torch.equal(after.batch(rows)["latents"], before.batch(rows)["latents"])


def test_packed_model_generates_and_repeats_itself(run, tmp_path):
    model = load_model(str(run / "out" / "packed"))
    clip = load_clip(run / "data" / "heldout" / "0000.clip.safetensors")
    seen = []
    request = GenerationRequest(seed=4, num_inference_steps=2)
    first = generate(model, clip, request, lambda phase, step, total, preview: seen.append((phase, step, total)))
    second = generate(model, clip, request)
    assert first.frames.shape == (9, 32, 48, 3)
    assert np.array_equal(first.frames, second.frames)
    assert ("denoise", 2, 2) in seen
    other = generate(model, clip, GenerationRequest(seed=5, num_inference_steps=2))
    assert not np.array_equal(first.frames, other.frames)
    write_result(first, tmp_path)
    frames, fps = read_video(tmp_path / "video.mp4")
    assert frames.shape == first.frames.shape
    assert fps == pytest.approx(clip.fps, rel=1e-3)
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["request"]["seed"] == 4
    assert metadata["request"]["num_inference_steps"] == 2


def test_generation_is_cancelled_within_a_step(run):
    model = load_model(str(run / "out" / "packed"))
    clip = load_clip(run / "data" / "heldout" / "0000.clip.safetensors")
    steps = []

    def on_progress(phase, step, total, preview):
        steps.append((phase, step))

    with pytest.raises(Cancelled):
        request = GenerationRequest(num_inference_steps=5)
        generate(model, clip, request, on_progress, should_cancel=lambda: ("denoise", 2) in steps)
    assert max(step for phase, step in steps if phase == "denoise") <= 3


def test_a_wrong_frame_count_names_the_nearest(run):
    model = load_model(str(run / "out" / "packed"))
    clip = load_clip(run / "data" / "heldout" / "0000.clip.safetensors")
    with pytest.raises(ClipError, match=r"49.*57"):
        generate(model, clip, GenerationRequest(num_frames=50))


def test_evaluation_prints_every_variant(run, tmp_path):
    plan = Plan(run / "data" / "heldout", tmp_path, models=(str(run / "out" / "packed"),), metrics=("psnr",))
    results = evaluate(plan)
    text = (tmp_path / "table.md").read_text()
    for name in ("repeat", "packed/full", "packed/points", "packed/tracking", "packed/dropped", "packed/vae"):
        assert f"| {name} |" in text
        assert len(results.values[name]["psnr.region"]) == 1
    assert results.values["packed/dropped"]["psnr.region"] != results.values["packed/full"]["psnr.region"]


def test_stages_resume_without_work(run, capsys):
    run_stage("base", str(run / "tiny.toml"), run / "data", run / "out")
    assert "resumed base_run at step 3" in capsys.readouterr().out


def test_the_stage_may_come_first(run):
    """``hvg3d train STAGE --config CONFIG``, as it was, and ``hvg3d train CONFIG --stage STAGE``."""
    for form in (["pack", "--config", run / "tiny.toml"], [run / "tiny.toml", "--stage", "pack"]):
        shutil.rmtree(run / "out" / "packed")
        arguments = ["train", *form, "--data", run / "data", "--out", run / "out"]
        done = CliRunner().invoke(app, [str(part) for part in arguments])
        assert done.exit_code == 0, done.output
        assert (run / "out" / "packed" / "hvg3d.json").exists()


def test_broken_samples_are_reported_and_left_out(tmp_path, caplog):
    write_dataset(tmp_path, 2)
    (tmp_path / "0001.png").write_bytes(b"no picture")
    loaded = load_frames(find_samples(tmp_path), 48, 32, 9)
    assert [sample.name for sample, _ in loaded] == ["0000"]
    assert "0001" in caplog.text
    with pytest.raises(ClipError, match="not one sample"):
        load_frames(find_samples(tmp_path), 48, 32, 17)


def test_empty_folder_says_what_to_do(tmp_path):
    with pytest.raises(ClipError, match="render some first"):
        find_samples(tmp_path)


def test_mirroring_mirrors_what_the_network_reads():
    clip, frames = make_clip()
    mirrored, mirrored_frames = mirror(clip, frames)
    before, after = network_inputs(clip), network_inputs(mirrored)
    assert np.array_equal(after.masks, before.masks[:, :, ::-1])
    assert np.array_equal(mirrored_frames, frames[:, :, ::-1])
    assert np.allclose(after.points, before.points * [-1, 1, 1], atol=1e-5)
    assert mirrored.prompt == "a left hand moves a box"
    assert mirrored.entities[0].role == "left_hand"
    again, _ = mirror(mirrored, mirrored_frames)
    assert np.allclose(again.views[0].world_to_camera, clip.views[0].world_to_camera)
    assert np.allclose(again.views[0].K, clip.views[0].K)


def test_reversing_plays_backwards():
    clip, frames = make_clip()
    backwards, reversed_frames = reverse(clip, frames)
    assert np.array_equal(backwards.points[0], clip.points[-1])
    assert np.array_equal(reversed_frames[-1], frames[0])
    assert np.array_equal(backwards.views[0].masks, clip.views[0].masks[::-1])


def test_zooming_keeps_frames_masks_and_points_together():
    clip, _ = make_clip()
    masks = clip.views[0].masks
    painted = np.repeat((masks > 0)[..., None], 3, -1).astype(np.uint8) * 255
    for seed in range(4):
        closer, frames = zoom(clip, painted, np.random.default_rng(seed))
        assert closer.width < clip.width
        assert closer.width * clip.height == closer.height * clip.width
        assert frames.shape == painted.shape
        inputs = network_inputs(closer, width=clip.width, height=clip.height)
        inside = frames[..., 0] > 127
        assert np.mean((inputs.masks > 0) == inside) > 0.97
        assert np.count_nonzero(inside) > np.count_nonzero(masks)  # closer, so it covers more
        still = network_inputs(clip)
        uv, _ = project(inputs.points[0], inputs.intrinsics[0], inputs.world_to_camera[0])
        before, _ = project(still.points[0], still.intrinsics[0], still.world_to_camera[0])
        spread = np.ptp(uv, axis=0) / np.ptp(before, axis=0)
        assert np.allclose(spread, clip.width / closer.width, rtol=1e-3)


def test_recolouring_is_the_same_for_every_frame():
    frames = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, None, :, None], (3, 2, 256, 3))
    changed = recolour(frames, np.random.default_rng(1))
    assert (changed == changed[0, 0]).all()
    assert not np.array_equal(changed, frames)
    assert (np.diff(changed[0, 0].astype(int), axis=0) >= 0).all()
