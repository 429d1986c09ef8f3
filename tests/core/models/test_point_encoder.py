# SPDX-License-Identifier: Apache-2.0
"""The point encoder against plain numpy, and what it must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hvg3d_core.models.point_encoder import PointCloudEncoder, farthest_point_sample, fourier_features

from .tiny import point_inputs


def encoder(**config) -> PointCloudEncoder:
    torch.manual_seed(0)
    return PointCloudEncoder(**{"dim": 16, "heads": 2, "head_dim": 8, "num_latents": 6} | config).eval()


def brute_force(points: np.ndarray, valid: np.ndarray, count: int) -> list[int]:
    """Farthest-point sampling by looking at all pairs."""
    usable = [i for i in range(len(points)) if valid[i]]
    centroid = points[usable].mean(axis=0)
    chosen = [max(usable, key=lambda i: np.sum((points[i] - centroid) ** 2))]
    while len(chosen) < min(count, len(usable)):
        rest = [i for i in usable if i not in chosen]
        chosen.append(max(rest, key=lambda i: min(np.sum((points[i] - points[c]) ** 2) for c in chosen)))
    return chosen


def test_farthest_points_are_those_of_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(5, 40, 3, generator=generator)
    valid = torch.rand(5, 40, generator=generator) > 0.4
    index, picked = farthest_point_sample(points, valid, 12)
    assert picked.all()
    for b in range(5):
        assert index[b].tolist() == brute_force(points[b].numpy().astype(np.float64), valid[b].numpy(), 12)


def test_fewer_valid_points_than_asked_for_are_all_picked_once() -> None:
    """Also where several lie at the same place, and where there are none at all."""
    points = torch.zeros(2, 5, 3)
    points[0, 0] = 1.0
    valid = torch.tensor([[True, True, False, True, False], [False] * 5])
    index, picked = farthest_point_sample(points, valid, 6)
    assert picked.tolist() == [[True] * 3 + [False] * 3, [False] * 6]
    assert sorted(index[0, :3].tolist()) == [0, 1, 3]


def test_fourier_features_are_sines_and_cosines_of_doubling_frequency() -> None:
    x = torch.tensor([[0.3, -0.7]])
    expected = [f(math.pi * 2**k * v) for f in (math.sin, math.cos) for v in (0.3, -0.7) for k in range(3)]
    np.testing.assert_allclose(fourier_features(x, 3)[0], [*expected, 0.3, -0.7], atol=1e-6)


@pytest.mark.parametrize("mode", ["fps_first_frame", "fps_per_frame"])
def test_tokens_do_not_depend_on_the_order_of_points(mode: str) -> None:
    inputs = point_inputs()
    shuffle = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    module = encoder(query_mode=mode, num_self_layers=1)
    tokens, centres, valid = module(inputs["points"], inputs["point_valid"], inputs["point_entity"])
    again = module(
        inputs["points"][:, :, shuffle], inputs["point_valid"][:, :, shuffle], inputs["point_entity"][:, shuffle]
    )
    torch.testing.assert_close(again[0], tokens, atol=1e-5, rtol=1e-4)
    assert torch.equal(again[1], centres)
    assert torch.equal(again[2], valid)


@pytest.mark.parametrize("mode", ["fps_first_frame", "fps_per_frame"])
@pytest.mark.parametrize("how", ["point_valid", "padding"])
def test_invalid_points_are_ignored_exactly(mode: str, how: str) -> None:
    """Whatever stands where a point is invalid or padding, even NaN, the result is the same to the last bit."""
    inputs = point_inputs()
    points, valid, entity = inputs["points"], inputs["point_valid"], inputs["point_entity"]
    if how == "padding":
        entity = entity * (torch.arange(20) < 13)
        ignored = (entity == 0).unsqueeze(1).expand_as(valid)
    else:
        ignored = ~valid
    garbage = torch.where(ignored.unsqueeze(-1), torch.nan, points)
    module = encoder(query_mode=mode)
    for a, b in zip(module(points, valid, entity), module(garbage, valid, entity), strict=True):
        assert torch.equal(a, b)


def test_a_frame_without_points_gives_zeros_and_finite_gradients() -> None:
    inputs = point_inputs()
    valid = inputs["point_valid"].clone()
    valid[0, 4] = False
    module = encoder(num_self_layers=1)
    tokens, _, centre_valid = module(inputs["points"], valid, inputs["point_entity"])
    assert not centre_valid[0, 4].any()
    assert not tokens[0, 4].any()
    tokens.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_first_frame_queries_follow_the_same_points() -> None:
    """Centres of a tracked cloud move as one, and a point that is hidden at first can be chosen where it appears."""
    generator = torch.Generator().manual_seed(0)
    cloud = torch.randn(1, 1, 30, 3, generator=generator)
    shift = torch.tensor([[0.0, 0, 0], [5, 0, 0], [0, 7, 0]]).view(1, 3, 1, 3)
    valid = torch.ones(1, 3, 30, dtype=torch.bool)
    _, centres, _ = encoder()(cloud + shift, valid)
    torch.testing.assert_close(centres - shift, centres[:, :1].expand_as(centres), atol=1e-6, rtol=0)

    cloud[0, 0, 17] = torch.tensor([40.0, 0, 0])  # the farthest of all, but not visible in frame 0
    valid[0, 0, 17] = False
    _, centres, centre_valid = encoder()(cloud.expand(-1, 3, -1, -1), valid)
    assert (centres[0, 1] == torch.tensor([40.0, 0, 0])).all(-1).any()
    assert not (centres[0, 0] == torch.tensor([40.0, 0, 0])).all(-1).any()
    assert centre_valid.sum(-1).tolist() == [[5, 6, 6]]


def test_roles_and_features_reach_the_tokens() -> None:
    inputs = point_inputs()
    points, entity = inputs["points"], inputs["point_entity"]
    module = encoder(feature_channels=3)
    features = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0))
    tokens = module(points, None, entity, features)[0]
    assert not torch.allclose(module(points, None, entity % 4 + 1, features)[0], tokens)
    assert not torch.allclose(module(points, None, entity, -features)[0], tokens)


def test_unknown_query_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="query_mode 'random'"):
        encoder(query_mode="random")
