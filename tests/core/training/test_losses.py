# SPDX-License-Identifier: Apache-2.0
"""The loss against the articles' formulas, masks against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler

from hvg3d_core.training.losses import latent_mask, mask_diffusion_loss

SHAPE = (3, 3, 4, 5, 6)  # B, F, C, h, w


@pytest.fixture(scope="module")
def scheduler() -> CogVideoXDDIMScheduler:
    return CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", snr_shift_scale=1.0
    )


@pytest.fixture(scope="module")
def step(scheduler: CogVideoXDDIMScheduler) -> dict[str, torch.Tensor]:
    """A training step at a low, a middle and the highest noise level, where nothing of the clean latents is left."""
    generator = torch.Generator().manual_seed(0)
    clean, noise, output = (torch.randn(SHAPE, generator=generator) for _ in range(3))
    timesteps = torch.tensor([20, 500, 999])
    noisy = scheduler.add_noise(clean, noise, timesteps)
    velocity = scheduler.get_velocity(clean, noise, timesteps)
    return {"clean": clean, "noisy": noisy, "output": output, "timesteps": timesteps, "velocity": velocity}


def loss(step: dict, scheduler: CogVideoXDDIMScheduler, *args, **kwargs) -> torch.Tensor:
    return mask_diffusion_loss(
        step["output"], step["noisy"], step["clean"], step["timesteps"], scheduler, *args, **kwargs
    )


def test_without_mask_it_is_the_mean_squared_error_of_v(step: dict, scheduler: CogVideoXDDIMScheduler) -> None:
    expected = (step["output"] - step["velocity"]).square().mean()
    torch.testing.assert_close(loss(step, scheduler), expected, rtol=1e-4, atol=0)


def test_the_right_prediction_costs_nothing(step: dict, scheduler: CogVideoXDDIMScheduler) -> None:
    mask = torch.ones(3, 3, 5, 6)
    assert loss(step | {"output": step["velocity"]}, scheduler, mask) < 1e-6


def test_weights_are_the_formulas(step: dict, scheduler: CogVideoXDDIMScheduler) -> None:
    """(1 + M) |e|² by default, |(1 + M) e|² with squared; with partly covered cells."""
    mask = torch.rand(3, 3, 5, 6, generator=torch.Generator().manual_seed(1))
    error = (step["output"] - step["velocity"]).numpy()
    weight = 1 + mask.numpy()[:, :, None]
    np.testing.assert_allclose(loss(step, scheduler, mask), np.mean(weight * error**2), rtol=1e-4)
    np.testing.assert_allclose(loss(step, scheduler, mask, squared=True), np.mean((weight * error) ** 2), rtol=1e-4)


def test_inside_a_full_mask_twice_or_four_times(step: dict, scheduler: CogVideoXDDIMScheduler) -> None:
    plain, ones = loss(step, scheduler), torch.ones(3, 3, 5, 6)
    torch.testing.assert_close(loss(step, scheduler, torch.zeros_like(ones)), plain)
    torch.testing.assert_close(loss(step, scheduler, ones), 2 * plain)
    torch.testing.assert_close(loss(step, scheduler, ones, squared=True), 4 * plain)


def test_half_precision_latents_are_weighed_in_float32(step: dict, scheduler: CogVideoXDDIMScheduler) -> None:
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in step.items()}
    exact = {k: v.float() if v.is_floating_point() else v for k, v in half.items()}
    assert loss(half, scheduler).dtype == torch.float32
    assert torch.equal(loss(half, scheduler), loss(exact, scheduler))


def test_a_mask_of_another_shape_is_refused(step: dict, scheduler: CogVideoXDDIMScheduler) -> None:
    with pytest.raises(ValueError, match=r"mask: shape \(3, 2, 5, 6\)"):
        loss(step, scheduler, torch.ones(3, 2, 5, 6))


def test_latent_mask_is_area_per_cell_and_maximum_over_the_group() -> None:
    masks = np.random.default_rng(0).integers(0, 4, (2, 9, 16, 24)).astype(np.uint8)
    masks[masks == 3] = 0
    found = latent_mask(torch.from_numpy(masks))
    assert found.shape == (2, 3, 2, 3)
    for b in range(2):
        for f, frames in enumerate(([0], [1, 2, 3, 4], [5, 6, 7, 8])):
            for i in range(2):
                for j in range(3):
                    cells = [masks[b, t, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] for t in frames]
                    assert found[b, f, i, j].item() == pytest.approx(max((c > 0).mean() for c in cells))


def test_latent_mask_of_a_single_frame_and_without_batch() -> None:
    mask = torch.zeros(1, 16, 16)
    mask[0, :8, 8:12] = 2
    assert latent_mask(mask).tolist() == [[[0.0, 0.5], [0.0, 0.0]]]


@pytest.mark.parametrize("shape", [(6, 16, 16), (5, 12, 16), (5, 16, 20)])
def test_latent_mask_refuses_sizes_that_do_not_divide(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="masks: "):
        latent_mask(torch.zeros(shape))
