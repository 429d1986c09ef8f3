# SPDX-License-Identifier: Apache-2.0
"""The pipeline beside diffusers' own: equal without control, bit for bit; conditions, errors, saving."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
)
from PIL import Image
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from hvg3d_core.models import HVG3DTransformer3DModel
from hvg3d_core.pipelines import HVG3DImageToVideoPipeline

from ..models.tiny import point_inputs, tiny_base, tiny_model, trained

PIXELS, FRAMES, TEXT = 32, 9, 16
SCHEDULERS = {"ddim": CogVideoXDDIMScheduler, "dpm": CogVideoXDPMScheduler}


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    """What both pipelines share: a byte tokenizer, a tiny T5, a tiny VAE and a tiny base."""
    torch.manual_seed(0)
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    ).eval()
    text_encoder = T5EncoderModel(
        T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0)
    ).eval()
    base = tiny_base(sample_width=PIXELS // 8, sample_height=PIXELS // 8, max_text_seq_length=TEXT)
    return {"tokenizer": ByT5Tokenizer(), "text_encoder": text_encoder, "vae": vae, "base": base}


def build(parts: dict[str, Any], transformer: HVG3DTransformer3DModel, scheduler: str = "ddim", **changed: Any):
    components = {k: v for k, v in parts.items() if k != "base"} | {"scheduler": make_scheduler(scheduler)} | changed
    pipeline = HVG3DImageToVideoPipeline(transformer=transformer, **components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_scheduler(name: str) -> CogVideoXDDIMScheduler | CogVideoXDPMScheduler:
    return SCHEDULERS[name](
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )


def arguments(**changed: Any) -> dict[str, Any]:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8))
    return {
        "image": image,
        "prompt": "a hand lifts a cup",
        "num_inference_steps": 2,
        "generator": torch.Generator().manual_seed(7),
        "output_type": "np",
    } | changed


def conditions() -> dict[str, Any]:
    """One sample's, numpy, as ``network_inputs`` makes them."""
    points = {k: v[0].numpy() for k, v in point_inputs(1, FRAMES).items()}
    tracking = np.random.default_rng(1).integers(0, 256, (FRAMES, PIXELS, PIXELS, 3), dtype=np.uint8)
    return {**points, "tracking_video": tracking}


@pytest.mark.parametrize(
    ("scheduler", "settings"),
    [
        ("ddim", {}),
        ("ddim", {"guidance_scale": 1.0}),
        ("dpm", {"use_dynamic_cfg": True, "num_inference_steps": 3}),
        ("dpm", {"prompt": ["a hand", "a cup"], "negative_prompt": ["", "blurred"]}),
    ],
)
def test_untrained_it_is_the_stock_pipeline_bit_for_bit(parts: dict, scheduler: str, settings: dict) -> None:
    """Conditions given or not, and whatever is drawn from the generator: also its state afterwards is the same."""
    stock = CogVideoXImageToVideoPipeline(
        parts["tokenizer"], parts["text_encoder"], parts["vae"], parts["base"], make_scheduler(scheduler)
    )
    stock.set_progress_bar_config(disable=True)
    if isinstance(settings.get("prompt"), list):
        settings = settings | {"image": [arguments()["image"]] * 2}
    args = arguments(**settings)
    expected = stock(**args, height=PIXELS, width=PIXELS, num_frames=FRAMES, max_sequence_length=TEXT).frames
    state = args["generator"].get_state()
    ours = build(parts, tiny_model(parts["base"]), scheduler)
    for given in ({}, conditions()):
        args = arguments(**settings)
        assert np.array_equal(ours(**args, **given).frames, expected)
        assert torch.equal(args["generator"].get_state(), state)
    assert expected.shape[1:] == (FRAMES, PIXELS, PIXELS, 3)


def test_each_condition_changes_the_video_and_a_seed_repeats_it(parts: dict) -> None:
    pipeline = build(parts, trained(tiny_model(parts["base"])))
    given = conditions()
    points = {k: v for k, v in given.items() if k != "tracking_video"}
    results = [
        pipeline(**arguments(), **chosen).frames
        for chosen in ({}, points, {"tracking_video": given["tracking_video"]}, given)
    ]
    for i, a in enumerate(results):
        assert all(np.abs(a - b).max() > 1e-4 for b in results[:i])
    assert np.array_equal(pipeline(**arguments(), **given).frames, results[3])
    batched = {k: torch.as_tensor(v)[None] for k, v in given.items()}
    assert np.array_equal(pipeline(**arguments(), **batched).frames, results[3])
    assert np.array_equal(pipeline(**arguments(), **given, control_scale=0).frames, results[0])
    assert np.array_equal(pipeline(**arguments(), **given, control_end=0).frames, results[0])
    halves = [{"control_end": 0.5}, {"control_start": 0.5}]
    first, second = (pipeline(**arguments(), **given, **half).frames for half in halves)
    assert not np.array_equal(first, second)
    assert not any(np.array_equal(half, whole) for half in (first, second) for whole in (results[0], results[3]))


def test_samples_of_a_batch_keep_their_own_conditions(parts: dict) -> None:
    pipeline = build(parts, trained(tiny_model(parts["base"])))
    points = {k: torch.cat([v, v.flip(1) if k == "points" else v]) for k, v in point_inputs(1, FRAMES).items()}
    shape = (2, 3, 4, PIXELS // 8, PIXELS // 8)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    args = arguments(output_type="latent", prompt=["a hand", "a hand"], image=[arguments()["image"]] * 2)
    args["generator"] = [torch.Generator().manual_seed(i) for i in (1, 2)]
    both = pipeline(**args, latents=latents, **points).frames
    for i in range(2):
        args = arguments(output_type="latent", prompt="a hand", generator=torch.Generator().manual_seed(i + 1))
        alone = pipeline(**args, latents=latents[i : i + 1], **{k: v[i] for k, v in points.items()}).frames
        torch.testing.assert_close(both[i], alone[0], atol=1e-4, rtol=1e-4)
    assert (both[0] - both[1]).abs().max() > 1e-3


@pytest.mark.parametrize("tracking_range", ["minus_one_one", "zero_one"])
def test_tracking_latents_are_the_vaes_of_the_video_and_of_its_first_frame(parts: dict, tracking_range: str) -> None:
    pipeline = build(parts, tiny_model(parts["base"], tracking_range=tracking_range))
    video = torch.from_numpy(conditions()["tracking_video"])[None]
    vae, scale = parts["vae"], parts["vae"].config.scaling_factor
    with torch.no_grad():
        found = pipeline.encode_tracking_video(video, torch.float32)
        unit = video.permute(0, 4, 1, 2, 3) / 255.0
        pixels = 2 * unit - 1
        whole = vae.encode(pixels if tracking_range == "minus_one_one" else unit).latent_dist.mode() * scale
        first = vae.encode(pixels[:, :, :1]).latent_dist.mode() * scale
    torch.testing.assert_close(found[:, :, :4], whole.transpose(1, 2))
    torch.testing.assert_close(found[:, :1, 4:], first.transpose(1, 2))
    assert not found[:, 1:, 4:].any()


def test_save_and_load_a_whole_folder(parts: dict, tmp_path) -> None:
    pipeline = build(parts, trained(tiny_model(parts["base"])))
    pipeline.save_pretrained(tmp_path)
    loaded = HVG3DImageToVideoPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.transformer) is HVG3DTransformer3DModel
    given = conditions()
    assert np.array_equal(loaded(**arguments(), **given).frames, pipeline(**arguments(), **given).frames)


def test_without_text_encoder(parts: dict, tmp_path) -> None:
    """Prompt embeddings stand in for it, also through a folder; a prompt is refused."""
    pipeline = build(parts, tiny_model(parts["base"]), tokenizer=None, text_encoder=None)
    pipeline.save_pretrained(tmp_path)
    loaded = HVG3DImageToVideoPipeline.from_pretrained(tmp_path)
    assert loaded.tokenizer is None
    assert loaded.text_encoder is None
    loaded.set_progress_bar_config(disable=True)
    args = arguments(prompt=None, prompt_embeds=torch.randn(1, TEXT, 16), guidance_scale=1.0)
    assert np.isfinite(loaded(**args).frames).all()
    with pytest.raises(ValueError, match="no text encoder; give prompt_embeds"):
        loaded(**arguments())


def test_points_go_through_forward_where_weights_are_offloaded(parts: dict) -> None:
    """Group offloading moves weights around forward(); the result is that of the resident model."""
    expected = build(parts, trained(tiny_model(parts["base"])))(**arguments(), **conditions()).frames
    pipeline = build(parts, trained(tiny_model(parts["base"])))
    cpu = torch.device("cpu")
    pipeline.transformer.enable_group_offload(
        onload_device=cpu, offload_device=cpu, offload_type="block_level", num_blocks_per_group=1
    )
    np.testing.assert_allclose(pipeline(**arguments(), **conditions()).frames, expected, atol=1e-5)


def test_bfloat16(parts: dict) -> None:
    half = {k: copy.deepcopy(parts[k]).to(torch.bfloat16) for k in ("vae", "text_encoder")}
    pipeline = build(parts, trained(tiny_model(parts["base"])).to(torch.bfloat16), **half)
    frames = pipeline(**arguments(output_type="pt"), **conditions()).frames
    assert frames.dtype == torch.bfloat16
    assert frames.isfinite().all()


def test_callback_sees_every_step_and_can_stop(parts: dict) -> None:
    pipeline = build(parts, tiny_model(parts["base"]))
    steps: list[tuple[int, tuple[int, ...]]] = []

    def callback(pipe: HVG3DImageToVideoPipeline, step: int, timestep: torch.Tensor, tensors: dict) -> dict:
        steps.append((step, tuple(tensors["latents"].shape)))
        pipe._interrupt = step == 1
        return {"latents": torch.zeros_like(tensors["latents"])}

    out = pipeline(**arguments(num_inference_steps=4, output_type="latent"), callback_on_step_end=callback).frames
    assert steps == [(0, (1, 3, 4, 4, 4)), (1, (1, 3, 4, 4, 4))]
    assert not out.any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_frames": 12}, "12 is not 1 or 8k[+]1.* use 9 or 17 frames"),
        ({"height": 40}, "height: 40 must be divisible by 16; use 32 or 48"),
        ({"height": 48}, "48 x 32, but this model makes only 32 x 32"),
        ({"control_start": 0.6, "control_end": 0.4}, "control_start 0.6, control_end 0.4"),
        ({"num_videos_per_prompt": 2}, "num_videos_per_prompt: 2"),
        ({"points": np.zeros((8, 20, 3))}, r"points: shape \(8, 20, 3\), must be \(T = 9, N, C = 3\)"),
        ({"point_valid": np.zeros((9, 19), bool)}, r"point_valid: shape \(9, 19\)"),
        ({"point_entity": np.zeros((3, 20))}, "point_entity: shape"),
        ({"world_to_camera": np.zeros((9, 3, 4))}, "world_to_camera: shape"),
        ({"intrinsics": np.tile(np.float32([[50, 0, 16], [0, 50, 16], [0, 0, 1]]), (9, 1, 1))}, "intrinsics: .*pixels"),
        ({"points": np.full((9, 20, 3), np.nan), "point_valid": None}, "points: 180 are not finite"),
        ({"intrinsics": None}, "intrinsics: missing"),
        ({"tracking_video": np.zeros((9, 32, 32, 3), np.float32)}, "tracking_video: torch.float32, must be uint8"),
        ({"tracking_video": np.zeros((9, 64, 32, 3), np.uint8)}, "tracking_video: shape"),
    ],
)
def test_errors_name_the_argument_the_value_and_the_remedy(parts: dict, changed: dict, message: str) -> None:
    pipeline = build(parts, tiny_model(parts["base"]))
    with pytest.raises(ValueError, match=message):
        pipeline(**arguments() | conditions() | changed)
