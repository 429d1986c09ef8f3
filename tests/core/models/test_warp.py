# SPDX-License-Identifier: Apache-2.0
"""The reference's latents go where the points go, and stay what they are where there are none."""

import pytest
import torch

from hvg3d_core.models.resamplers import reference_features, warp_channels, warp_reference

HEIGHT, WIDTH, FRAMES = 8, 12, 9


def scene(shift: float, valid: bool = True, per_frame: bool = False):
    """A plane of points at depth 2 over the left third of the image, which frame by frame moves right by ``shift``."""
    generator = torch.Generator().manual_seed(0)
    uv = torch.rand(1, 1, 400, 2, generator=generator) * torch.tensor([1 / 3, 1.0])
    moves = torch.linspace(0, 1, FRAMES).view(1, FRAMES, 1, 1) * torch.tensor([shift, 0.0])
    # With this camera a point (x, y, 2) is seen at (x / 2, y / 2) of the image.
    points = torch.cat([2 * (uv + moves), torch.full((1, FRAMES, 400, 1), 2.0)], dim=-1)
    intrinsics = torch.eye(3).expand(1, FRAMES, 3, 3)
    pose = torch.eye(4).expand(1, FRAMES, 4, 4)
    reference = torch.randn(1, 16, 1, 1, generator=generator).expand(1, 16, HEIGHT, WIDTH).clone()
    reference[..., : WIDTH // 3] += 5.0  # what the points carry differs from the rest
    mask = torch.full((1, FRAMES, 400), valid)
    features = reference_features(points, mask, intrinsics, pose, reference)
    return warp_reference(points, mask, features, intrinsics, pose, reference, per_frame=per_frame), reference


def test_without_points_it_is_the_reference_in_every_frame():
    warped, reference = scene(0.5, valid=False)
    assert warped.shape == (1, 3, 18, HEIGHT, WIDTH)
    assert torch.allclose(warped[:, :, :16], reference.unsqueeze(1).expand(-1, 3, -1, -1, -1))
    assert not warped[:, :, 16:].any()


def test_points_that_rest_leave_the_reference_alone():
    warped, reference = scene(0.0)
    inside = warped[:, :, :16, 1:-1, : WIDTH // 3 - 1]
    assert torch.allclose(inside, reference.unsqueeze(1)[..., 1:-1, : WIDTH // 3 - 1].expand_as(inside), atol=0.3)
    assert torch.allclose(warped[..., WIDTH // 2 :][:, :, :16], reference.unsqueeze(1)[..., WIDTH // 2 :], atol=1e-3)


def test_points_that_move_take_their_looks_along():
    warped, reference = scene(0.5)
    last = warped[0, -1]
    moved = slice(WIDTH // 2 + 1, WIDTH // 2 + 3)  # where the last group of frames has them in every frame
    brighter = (last[:16, :, moved] - reference[0, :, :, moved]).mean()
    assert float(brighter) > 4.0
    covered, covered_first = last[16], last[17]
    assert covered[:, moved].min() > 0.9
    assert covered[:, 0].max() < 0.1
    assert covered_first[:, 0].min() > 0.5
    assert covered_first[:, -1].max() < 0.01


def test_per_frame_every_frame_of_a_group_has_its_own_channels():
    warped, _ = scene(2 / 3, per_frame=True)
    assert warped.shape == (1, 3, warp_channels(16, 4, True), HEIGHT, WIDTH)
    frames = warped[0, :, :-1].unflatten(1, (4, 17))  # F x 4 x (16 + covered) x h x w
    covered = frames[:, :, 16].flatten(0, 1)[3:].mean(dim=1)  # T x w
    centre = (covered * (torch.arange(WIDTH) + 0.5)).sum(-1) / covered.sum(-1)
    expected = WIDTH * (1 / 6 + 2 / 3 * torch.arange(FRAMES) / (FRAMES - 1))  # one cell a frame
    assert torch.allclose(centre[1:-1], expected[1:-1], atol=0.1)  # at the ends a part lies outside
    assert torch.equal(frames[0, 0], frames[0, 3])  # the group of frame 0 has it four times


def test_points_at_rest_are_the_same_per_frame_and_on_average():
    per_frame, _ = scene(0.0, per_frame=True)
    average, _ = scene(0.0)
    frames = per_frame[:, :, :-1].unflatten(2, (4, 17))
    inside = (..., slice(1, -1), slice(0, WIDTH // 3 - 1))
    for i in range(4):
        assert torch.allclose(frames[:, :, i, :16][inside], average[:, :, :16][inside], atol=0.3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_valid_has_no_influence(bad):
    warped, _ = scene(0.25)
    generator = torch.Generator().manual_seed(0)
    uv = torch.rand(1, 1, 400, 2, generator=generator) * torch.tensor([1 / 3, 1.0])
    moves = torch.linspace(0, 1, FRAMES).view(1, FRAMES, 1, 1) * torch.tensor([0.25, 0.0])
    points = torch.cat([2 * (uv + moves), torch.full((1, FRAMES, 400, 1), 2.0)], dim=-1)
    points = torch.cat([points, torch.full((1, FRAMES, 7, 3), bad)], dim=2)
    mask = torch.ones(1, FRAMES, 407, dtype=torch.bool)
    mask[:, :, 400:] = False
    eyes = torch.eye(3).expand(1, FRAMES, 3, 3), torch.eye(4).expand(1, FRAMES, 4, 4)
    reference = torch.randn(1, 16, 1, 1, generator=generator).expand(1, 16, HEIGHT, WIDTH).clone()
    reference[..., : WIDTH // 3] += 5.0
    features = reference_features(points, mask, *eyes, reference)
    assert torch.allclose(warp_reference(points, mask, features, *eyes, reference), warped, atol=1e-5)
