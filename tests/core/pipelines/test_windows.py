# SPDX-License-Identifier: Apache-2.0
"""Clips longer than the window: every frame is covered, windows agree, time maps back to the scene's."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from hvg3d_core.conditions import load_clip, resample_indices
from hvg3d_core.generate import GenerationRequest, generate, load_model
from hvg3d_core.pipelines.windows import (
    Blend,
    carry_over,
    plan_timeline,
    plan_windows,
    seam_frames,
    seam_ratio,
    window_starts,
)
from hvg3d_core.video import read_video

from ..models.tiny import point_inputs, tiny_base, tiny_model, trained
from .test_pipeline import PIXELS, TEXT, arguments, build, parts  # noqa: F401 - a fixture

DEMO_CLIP = Path(__file__).parents[3] / "hvg3d_core/cli/assets/demo.clip.safetensors"
LONG = 25  # frames: 7 latent frames, in windows of 3


@pytest.mark.parametrize("window", [3, 5, 13])
@pytest.mark.parametrize("latent_frames", [3, 5, 7, 13, 21, 41])
def test_windows_cover_everything_and_weights_sum_to_one(latent_frames: int, window: int) -> None:
    for overlap in range(window - 1):
        windows = plan_windows(latent_frames, window, overlap)
        assert {f for w in windows for f in w.index} == set(range(latent_frames))
        assert all(len(w.index) == min(window, latent_frames) and w.index[0] == 0 for w in windows)
        blend = Blend(windows, latent_frames, torch.device("cpu"))
        ones = blend(lambda _k, _window, index: torch.ones(1, len(index), 1, 1, 1))
        torch.testing.assert_close(ones, torch.ones(1, latent_frames, 1, 1, 1))
        for before, after in itertools.pairwise(windows):
            assert len(set(before.index[1:]) & set(after.index[1:])) >= overlap


def test_in_an_overlap_weight_passes_from_one_window_to_the_next() -> None:
    """By hand, 9 latent frames in windows of the reference and 4: at 1, 3, 5, and latent 3 and 4 are shared."""
    windows = plan_windows(9, 5, 2)
    assert [w.index for w in windows] == [(0, 1, 2, 3, 4), (0, 3, 4, 5, 6), (0, 5, 6, 7, 8)]
    assert [w.weight[0] for w in windows] == [1.0, 0.0, 0.0]
    parts_of_last = Blend(windows, 9, torch.device("cpu")).share[1].flatten().tolist()
    assert parts_of_last == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1 / 3])
    assert windows[1].frames() == [0, *range(9, 25)]
    assert seam_frames(9, 5, 2) == [9, 17, 25]


@pytest.mark.parametrize(("window", "overlap", "message"), [(1, 0, "at least 2"), (5, 4, "must be 0 to 3")])
def test_impossible_windows(window: int, overlap: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        window_starts(13, window, overlap)


def test_timeline() -> None:
    """Frames of the scene to the model's and back: the result lasts as long as the clip, in every way."""
    resampled = plan_timeline(49, 24.0, 17)
    assert resampled.made == resampled.keep == 17
    assert resampled.source[[0, -1]].tolist() == [0, 48]
    assert resampled.keep / resampled.fps == pytest.approx(49 / 24)
    whole = plan_timeline(50, 24.0, 17, "windows")
    assert (whole.made, whole.keep, whole.fps) == (57, 50, pytest.approx(24.0))
    assert whole.source[:50].tolist() == list(range(50))
    assert set(whole.source[50:].tolist()) == {49}
    slower = plan_timeline(48, 24.0, 17, "windows", fps=8.0)
    assert (slower.keep, slower.made, slower.fps) == (16, 17, pytest.approx(8.0))
    for settings, message in (
        ({"length": "loop"}, "length 'loop' is not one of resample, windows"),
        ({"fps": 8.0}, 'fps: 8.0 needs length "windows"'),
        ({"length": "windows", "fps": -1.0}, "fps: -1.0, must be greater than 0"),
    ):
        with pytest.raises(ValueError, match=message):
            plan_timeline(49, 24.0, 17, **settings)


def long_pipeline(parts: dict):  # noqa: F811
    base = tiny_base(
        sample_width=PIXELS // 8,
        sample_height=PIXELS // 8,
        max_text_seq_length=TEXT,
        use_learned_positional_embeddings=False,
    )
    return build(parts, trained(tiny_model(base)))


def long_conditions() -> dict:
    tracking = np.random.default_rng(1).integers(0, 256, (LONG, PIXELS, PIXELS, 3), dtype=np.uint8)
    return {**{k: v[0] for k, v in point_inputs(1, LONG).items()}, "tracking_video": tracking}


def test_a_window_as_long_as_the_clip_is_no_window(parts: dict) -> None:  # noqa: F811
    pipeline = long_pipeline(parts)
    given = {**arguments(num_inference_steps=1, output_type="latent", num_frames=LONG), **long_conditions()}
    whole = pipeline(**given).frames
    given["generator"] = torch.Generator().manual_seed(7)
    assert torch.equal(pipeline(**given, window_frames=LONG).frames, whole)


def test_each_window_sees_its_own_stretch_of_every_condition(parts: dict) -> None:  # noqa: F811
    """One step by hand: what the pipeline predicts is the average of the transformer's outputs on slices."""
    pipeline = long_pipeline(parts)
    seen: list[dict] = []
    outputs: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _args: tuple, kwargs: dict, result: tuple) -> None:
        seen.append(kwargs)
        outputs.append(result[0])

    pipeline.transformer.register_forward_hook(keep, with_kwargs=True)
    given = {"num_frames": LONG, "guidance_scale": 1.0, "num_inference_steps": 1, "output_type": "latent"}
    pipeline(**arguments(**given), **long_conditions())
    pipeline(**arguments(**given), **long_conditions(), window_frames=9, window_overlap=0)
    whole, windows = seen[0], seen[1:]
    assert len(windows) == 3
    for k, window in enumerate(windows):
        index = [0, 2 * k + 1, 2 * k + 2]
        for name in ("hidden_states", "tracking_latents", "point_grid"):
            assert torch.equal(window[name], whole[name][:, index]), name
    assert (outputs[1][:, 1] - outputs[0][:, 1]).abs().max() > 1e-4  # a window knows less than the whole


def test_pab_is_refused_with_windows(parts: dict) -> None:  # noqa: F811
    from hvg3d_core.pipelines import SpeedOptions, apply_speed_options

    pipeline = long_pipeline(parts)
    apply_speed_options(pipeline, SpeedOptions(cache="pab"))
    with pytest.raises(ValueError, match="3 windows cannot share; use first_block or taylorseer"):
        pipeline(**arguments(num_frames=LONG), **long_conditions(), window_frames=9, window_overlap=0)
    apply_speed_options(pipeline, SpeedOptions(cache="first_block", cache_strength=1e9))
    frames = pipeline(
        **arguments(num_frames=LONG, num_inference_steps=3), **long_conditions(), window_frames=9, window_overlap=0
    ).frames
    assert np.isfinite(frames).all()


def test_carried_windows_hold_what_they_share(parts: dict) -> None:  # noqa: F811
    """The frames before a window's own are those of the window before, and steps are counted over all of them."""
    pipeline = long_pipeline(parts)
    steps: list[int] = []
    arguments_ = arguments(output_type="latent", num_inference_steps=3) | long_conditions()

    def count(_pipe: object, step: int, _timestep: object, tensors: dict) -> dict:
        steps.append(step)
        return tensors

    made = carry_over(
        pipeline, num_frames=LONG, window_frames=9, overlap=1, callback_on_step_end=count, **arguments_
    ).frames
    assert made.shape[1] == 7
    assert steps == list(range(15))  # windows at 0, 1, 2, 3, 4
    first = pipeline(
        **arguments(output_type="latent", num_inference_steps=3, num_frames=9),
        **{k: v if k == "point_entity" else v[:9] for k, v in long_conditions().items()},
    ).frames
    assert torch.equal(made[:, :3], first)


def test_seam_ratio_finds_a_cut() -> None:
    rng = np.random.default_rng(0)
    frames = np.cumsum(rng.normal(size=(33, 8, 8, 3)), axis=0)
    assert seam_ratio(frames, 17) == pytest.approx(1.0, abs=0.4)
    frames[17:] += 5.0
    assert seam_ratio(frames, 17) > 10


@pytest.mark.slow
def test_nano_makes_three_windows_without_a_seam() -> None:
    """33 frames of the demo's scene, three windows of the shipped nano; the same video twice."""
    model, clip = load_model("nano"), load_clip(DEMO_CLIP)
    request = GenerationRequest(length="windows", fps=33 * clip.fps / clip.num_frames, window_overlap=2)
    result = generate(model, clip, request)
    assert result.frames.shape == (33, 128, 192, 3)
    assert len(result.frames) / result.fps == pytest.approx(clip.num_frames / clip.fps)
    assert len(set(result.metadata["scene_frames"])) == 33
    scene, _ = read_video(DEMO_CLIP.with_name("scene.mp4"))
    scene = scene[resample_indices(len(scene), 33)]
    for seam in seam_frames(9, 5, 2):
        # The lift speeds up at one of the edges, in the scene as well: that is no seam.
        assert seam_ratio(result.frames, seam) <= 1.25 * max(1.0, seam_ratio(scene, seam))
    assert np.array_equal(generate(model, clip, request).frames, result.frames)
