# SPDX-License-Identifier: Apache-2.0
"""Both resamplers: which frames and cells a token reaches; ray attention against its formula written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hvg3d_core.models.point_encoder import fourier_features
from hvg3d_core.models.resamplers import InterpolateResampler, RayAttentionResampler, reference_features

from .tiny import randomise

CAMERA = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.5, 0.5], [0.0, 0.0, 1.0]])
SIZE = (6, 9)


def make(kind: type, **config) -> InterpolateResampler | RayAttentionResampler:
    torch.manual_seed(0)
    return kind(16, 5, **config).eval()


def inputs(frames: int = 9, latents: int = 7, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(batch, frames, latents, 3, generator=generator) + torch.tensor([0.0, 0.0, 3.0])
    return [
        torch.randn(batch, frames, latents, 16, generator=generator),
        centres,
        torch.rand(batch, frames, latents, generator=generator) > 0.3,
        CAMERA.expand(batch, frames, 3, 3),
        torch.eye(4).expand(batch, frames, 4, 4),
    ]


@pytest.mark.parametrize("kind", [InterpolateResampler, RayAttentionResampler])
@pytest.mark.parametrize("frames", [1, 9, 17])
def test_shape(kind: type, frames: int) -> None:
    assert make(kind)(*inputs(frames), SIZE).shape == (2, (frames - 1) // 4 + 1, 5, *SIZE)


@pytest.mark.parametrize("kind", [InterpolateResampler, RayAttentionResampler])
@pytest.mark.parametrize("frame", range(9))
def test_a_frame_reaches_its_latent_frame_only(kind: type, frame: int) -> None:
    """Frame 0 alone, then groups of four, as the VAE has them."""
    module = make(kind)
    tokens, *rest = inputs()
    rest[1] = torch.ones_like(rest[1])
    before = module(tokens, *rest, SIZE)
    tokens = tokens.clone()
    tokens[:, frame] += torch.randn(7, 16, generator=torch.Generator().manual_seed(2))
    changed = (module(tokens, *rest, SIZE) != before).flatten(3).any(-1).any(2)
    assert changed.all(0).tolist() == changed.any(0).tolist() == [f == (frame + 3) // 4 for f in range(3)]


@pytest.mark.parametrize("kind", [InterpolateResampler, RayAttentionResampler])
def test_frame_counts_between_groups_are_refused(kind: type) -> None:
    with pytest.raises(ValueError, match="7 frames of points"):
        make(kind)(*inputs(frames=7), SIZE)


@pytest.mark.parametrize("kind", [InterpolateResampler, RayAttentionResampler])
def test_invalid_tokens_are_ignored_exactly(kind: type) -> None:
    module = make(kind)
    tokens, centres, valid, *cameras = inputs()
    other = torch.where(valid.unsqueeze(-1), tokens, 3.0)
    moved = torch.where(valid.unsqueeze(-1), centres, 1.0)
    assert torch.equal(module(tokens, centres, valid, *cameras, SIZE), module(other, moved, valid, *cameras, SIZE))


def test_interpolation_is_numpys() -> None:
    """Cell i of n reads the tokens at (i + ½) L / n - ½, held at the ends; a group is the mean of what is valid."""
    module = make(InterpolateResampler)
    tokens, centres, valid, *cameras = inputs()
    grid = module(tokens, centres, valid, *cameras, SIZE)
    features = module.proj(tokens).detach().numpy()
    count = SIZE[0] * SIZE[1]
    where = (np.arange(count) + 0.5) * 7 / count - 0.5
    for f, frames in enumerate(([0], [1, 2, 3, 4], [5, 6, 7, 8])):
        weight = valid[1, frames].numpy()[..., None].astype(float)
        mean = (features[1, frames] * weight).sum(0) / np.maximum(weight.sum(0), 1)
        expected = np.stack([np.interp(where, np.arange(7), mean[:, c]) for c in range(5)]).reshape(5, *SIZE)
        np.testing.assert_allclose(grid[1, f].detach(), expected, atol=1e-5)


def written_out(module: RayAttentionResampler, args: list[Tensor], b: int, f: int, row: int, column: int) -> Tensor:
    """One cell of one latent frame, with the distance penalty as it reads in the docstring; float64."""
    tokens, centres, valid, intrinsics, world_to_camera = args
    cell = torch.tensor([column + 0.5, row + 0.5])
    uv = cell / torch.tensor([SIZE[1], SIZE[0]])
    query = module.to_q(fourier_features(uv, module.num_freqs)).unflatten(-1, (module.heads, -1)).double()
    a = F.softplus(module.locality.raw).double()
    logits = [(query * module.nothing.key).sum(-1) / math.sqrt(module.content_dim) + module.nothing.logit]
    values = [torch.cat([module.nothing.value, torch.zeros(module.heads, 4)], -1).double()]
    for sub in range(4):
        t = 4 * f + sub - 3
        for i in range(tokens.shape[2]) if t >= 0 else ():
            x, y, z = (world_to_camera[b, t] @ torch.cat([centres[b, t, i], torch.ones(1)]))[:3]
            if not valid[b, t, i] or z <= 1e-2:
                continue
            at = (intrinsics[b, t] @ torch.stack([x / z, y / z, torch.ones(())]))[:2].clamp(-1, 2)
            position = torch.cat([at, z.log()[None]])
            kv = module.to_kv(torch.cat([module.norm(tokens[b, t, i]), fourier_features(position, module.num_freqs)]))
            key, value = (kv + module.subframe.weight[sub]).unflatten(-1, (2, module.heads, -1)).double()
            offset = (at * torch.tensor([SIZE[1], SIZE[0]]) - cell).double()
            logits.append((query * key).sum(-1) / math.sqrt(module.content_dim) - a * offset.square().sum())
            geometry = torch.cat([offset, torch.ones(1), z.log()[None]]).double()
            values.append(torch.cat([value, geometry.expand(module.heads, -1)], -1))
    weights = torch.stack(logits).softmax(0)  # (K + 1, heads)
    out = (weights.unsqueeze(-1) * torch.stack(values)).sum(0).flatten().float()
    return module.to_out(F.gelu(module.to_hidden(out)))


def test_ray_attention_is_its_formula_written_out() -> None:
    """The penalty inside the dot product, the null token, offsets, cameras and frame groups, cell by cell."""
    module = randomise(make(RayAttentionResampler, heads=3, head_dim=12))
    args = inputs()
    angle = torch.linspace(0, 0.4, 9)
    cameras = torch.eye(4).repeat(2, 9, 1, 1)
    cameras[..., 0, 0], cameras[..., 0, 2] = angle.cos(), -angle.sin()
    cameras[..., 2, 0], cameras[..., 2, 2] = angle.sin(), angle.cos()
    cameras[..., 1, 3] = angle
    args[4] = cameras
    grid = module(*args, SIZE)
    for b, f, row, column in ((0, 0, 0, 0), (0, 1, 3, 4), (1, 2, 5, 8), (1, 1, 2, 2), (0, 2, 2, 5)):
        torch.testing.assert_close(
            grid[b, f, :, row, column], written_out(module, args, b, f, row, column), atol=2e-4, rtol=1e-3
        )


def test_moving_a_point_changes_the_cells_around_it() -> None:
    """Untrained already: a lone token moved from one side to the other changes both places, hardly a far corner."""
    module = make(RayAttentionResampler)
    size = (32, 48)
    tokens = torch.randn(1, 1, 1, 16, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(1, 1, 1, dtype=torch.bool)

    def grid_at(u: float, v: float) -> Tensor:
        centre = torch.tensor([(u - 0.5) * 2.0, (v - 0.5) * 2.0 / 1.5, 2.0]).view(1, 1, 1, 3)
        return module(tokens, centre, valid, CAMERA.expand(1, 1, 3, 3), None, size)[0, 0]

    change = (grid_at(0.25, 0.25) - grid_at(0.75, 0.25)).norm(dim=0)
    row, column = divmod(int(change.argmax()), size[1])
    nearest = min(math.hypot(row + 0.5 - 8, column + 0.5 - x) for x in (12, 36))
    assert nearest < 6
    assert change[7:9, 11:13].mean() > 20 * change[-4:].mean()
    assert change[7:9, 35:37].mean() > 20 * change[-4:].mean()


def test_cells_far_from_all_points_read_what_an_empty_cloud_gives() -> None:
    module = make(RayAttentionResampler)
    size = (32, 48)
    tokens = torch.randn(1, 1, 1, 16, generator=torch.Generator().manual_seed(0))
    centre = torch.tensor([-0.9, -0.6, 2.0]).view(1, 1, 1, 3)
    grids = [
        module(tokens, centre, torch.full((1, 1, 1), is_there), CAMERA.expand(1, 1, 3, 3), None, size)[0, 0]
        for is_there in (True, False)
    ]
    torch.testing.assert_close(grids[0][:, -8:, -8:], grids[1][:, -8:, -8:], atol=1e-6, rtol=0)
    assert not torch.allclose(grids[0][:, :4, :4], grids[1][:, :4, :4], atol=1e-2)


def test_points_behind_the_camera_are_ignored_exactly() -> None:
    module = make(RayAttentionResampler)
    tokens, centres, valid, *cameras = inputs()
    behind = centres.clone()
    behind[:, :, 0, 2] = -2.0
    without = valid.clone()
    without[:, :, 0] = False
    assert torch.equal(module(tokens, behind, valid, *cameras, SIZE), module(tokens, centres, without, *cameras, SIZE))


def test_mixed_precision_keeps_cells_apart() -> None:
    """On a grid as large as the 5B model's, bfloat16 autocast changes the result by rounding only."""
    module = make(RayAttentionResampler)
    args = inputs(frames=1, latents=40, batch=1)
    exact = module(*args, (60, 90))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = module(*args, (60, 90))
    assert (rounded.float() - exact).norm() < 0.02 * exact.norm()


def test_missing_intrinsics_are_named() -> None:
    args = inputs()
    args[3] = None
    with pytest.raises(ValueError, match="intrinsics: missing"):
        make(RayAttentionResampler)(*args, SIZE)


def test_reference_features_are_the_latents_under_the_points() -> None:
    """A point that projects to a cell's centre carries that cell; hidden ones and those behind the camera nothing."""
    latents = torch.randn(1, 4, 6, 9, generator=torch.Generator().manual_seed(0))
    cells = [(2, 3), (5, 8), (0, 0), (1, 1)]
    uv = torch.tensor([[(column + 0.5) / 9, (row + 0.5) / 6] for row, column in cells])
    depth = torch.tensor([2.0, 3.0, 1.0, -1.0]).unsqueeze(-1)
    points = torch.cat([(uv - 0.5) / torch.tensor([1.0, 1.5]) * depth, depth], dim=-1).view(1, 1, 4, 3)
    valid = torch.tensor([True, True, False, True]).view(1, 1, 4)
    found = reference_features(points, valid, CAMERA.view(1, 1, 3, 3), torch.eye(4).view(1, 1, 4, 4), latents)[0]
    for i, (row, column) in enumerate(cells[:2]):
        torch.testing.assert_close(found[i], torch.cat([latents[0, :, row, column], torch.ones(1)]))
    assert not found[2:].any()
