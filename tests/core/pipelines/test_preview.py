# SPDX-License-Identifier: Apache-2.0
"""Previews: the clean latents that the pipeline tells of, and the picture that is made of latents without the VAE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hvg3d_core import generate
from hvg3d_core.conditions import load_clip
from hvg3d_core.pipelines.preview import BLOCK, LatentPreview, reference_scale

from ..models.tiny import tiny_model
from .test_pipeline import PIXELS, arguments, build, make_scheduler, parts  # noqa: F401

DEMO_CLIP = Path(__file__).parents[3] / "hvg3d_core/cli/assets/demo.clip.safetensors"


@pytest.mark.parametrize("scheduler", ["ddim", "dpm"])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_the_clean_latents_are_the_prediction_without_the_noise(parts, scheduler, guidance):  # noqa: F811
    """x0 = sqrt(a) x_t - sqrt(1 - a) v at every step, v being guided: x_t and v are caught at the network's door."""
    pipeline = build(parts, tiny_model(parts["base"]), scheduler)
    scheme = make_scheduler(scheduler)
    seen: list[torch.Tensor] = []
    noisy: list[torch.Tensor] = []
    predicted: list[torch.Tensor] = []
    plain = pipeline._predict

    def predict(model_input, *rest, **more):
        noisy.append(model_input[:1, :, :4].clone())
        prediction = plain(model_input, *rest, **more)
        predicted.append(prediction.clone())
        return prediction

    pipeline._predict = predict

    def after_step(_pipeline, step, timestep, tensors):
        seen.append(tensors["clean_latents"])
        assert tensors["image_latents"].shape[0] == 1
        alpha = scheme.alphas_cumprod[timestep].double()
        v = predicted[-1].double()
        if guidance > 1:
            v = v[:1] + guidance * (v[1:] - v[:1])
        expected = alpha.sqrt() * noisy[-1].double() - (1 - alpha).sqrt() * v
        assert torch.allclose(tensors["clean_latents"].double(), expected, atol=1e-4)
        return tensors

    pipeline(
        **arguments(num_inference_steps=3, guidance_scale=guidance),
        callback_on_step_end=after_step,
        callback_on_step_end_tensor_inputs=["latents", "clean_latents", "image_latents"],
    )
    assert len(seen) == 3
    with torch.no_grad():
        again = pipeline(**arguments(num_inference_steps=3, guidance_scale=guidance, output_type="latent")).frames
    assert torch.allclose(seen[-1].float(), again.float(), atol=1e-4)  # the last step leads to the result itself


def test_latents_that_are_linear_in_the_picture_are_drawn_as_it():
    """Latents that hold every block's pixels, mixed by a random matrix: another picture comes back to a few levels."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(3 * BLOCK * BLOCK, 3 * BLOCK * BLOCK))

    def picture() -> np.ndarray:
        coarse = rng.integers(0, 256, (6, 9, 3)).astype(np.uint8)
        return np.kron(coarse, np.ones((32, 32, 1), np.uint8))

    def latents(image: np.ndarray) -> torch.Tensor:
        small = image.reshape(24 * BLOCK, 2, 36 * BLOCK, 2, 3).mean(axis=(1, 3)) / 255
        blocks = small.reshape(24, BLOCK, 36, BLOCK, 3).transpose(0, 2, 1, 3, 4).reshape(24 * 36, -1)
        return torch.from_numpy((blocks @ mix).T.reshape(-1, 24, 36)).float()

    reference, other = picture(), picture()
    preview = LatentPreview(reference)
    assert not preview.fitted
    with pytest.raises(RuntimeError, match="fit"):
        preview.draw(latents(other))
    preview.fit(latents(reference))
    drawn = preview.draw(latents(other))
    expected = other.reshape(24 * BLOCK, 2, 36 * BLOCK, 2, 3).mean(axis=(1, 3))
    assert drawn.shape == (24 * BLOCK, 36 * BLOCK, 3)
    assert drawn.dtype == np.uint8
    assert np.abs(drawn - expected).mean() < 8
    assert np.abs(drawn - expected).mean() < 0.15 * np.abs(expected - expected.mean()).mean()


def test_latents_that_are_no_numbers_are_drawn_as_something():
    preview = LatentPreview(np.zeros((32, 32, 3), np.uint8))
    preview.fit(torch.zeros(4, 4, 4))
    assert preview.draw(torch.full((4, 4, 4), float("nan"))).shape == (16, 16, 3)


def test_the_scale_of_image_latents():
    """z is scaled by s in the video; image latents are s z, or z / s in models that invert it."""
    assert reference_scale(0.7, False) == 1.0
    assert (1 / 0.7) * reference_scale(0.7, True) == pytest.approx(0.7)


def test_the_nano_shows_what_it_is_making():
    """Every step has a picture; the last is near the finished frame, and to look changes nothing."""
    clip = load_clip(DEMO_CLIP)
    model = generate.load_model("nano", device="cpu")
    pictures: list[np.ndarray] = []

    def on_progress(phase: str, step: int, total: int, picture) -> None:
        if phase == "denoise" and step:
            assert picture is not None, step
            pictures.append(picture)

    request = generate.GenerationRequest(seed=1, num_inference_steps=3)
    result = generate.generate(model, clip, request, on_progress)
    silent = generate.generate(model, clip, request)
    assert (silent.frames == result.frames).all()
    frame = result.frames[len(result.frames) // 2]
    rows, columns = pictures[0].shape[:2]
    small = frame.reshape(rows, frame.shape[0] // rows, columns, frame.shape[1] // columns, 3).mean(axis=(1, 3))
    errors = [float(np.mean((picture - small) ** 2)) for picture in pictures]
    assert len(errors) == 3
    assert errors[-1] < errors[0]
    assert 10 * np.log10(255**2 / errors[-1]) > 27
