# SPDX-License-Identifier: Apache-2.0
"""Point-cloud encoder in the manner of 3DShape2VecSet: a set of points becomes a small set of tokens, per frame.

Farthest points are the queries; one cross-attention lets each gather what lies around it (Zhang et al. 2023,
"3DShape2VecSet"; HVG-3D takes its tokens as Z_pc of T x L x 768).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .attention import GEGLUFeedForward, PointAttention

QUERY_MODES = ("fps_first_frame", "fps_per_frame")


def fourier_features(x: Tensor, num_freqs: int) -> Tensor:
    """(..., d) -> (..., d * (2 * num_freqs + 1)) float32: sin and cos of 2^k pi x for k = 0 .. num_freqs - 1, and x."""
    x = x.float()
    freqs = math.pi * 2.0 ** torch.arange(num_freqs, device=x.device, dtype=torch.float32)
    phase = (x.unsqueeze(-1) * freqs).flatten(-2)
    return torch.cat([phase.sin(), phase.cos(), x], dim=-1)


@torch.no_grad()
def farthest_point_sample(points: Tensor, valid: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Farthest-point sampling of ``count`` points out of each set. Deterministic and independent of point order.

    points (B, N, 3), valid (B, N) bool -> indices (B, count) int64 and picked (B, count) bool, which is False where
    the set has fewer valid points than ``count`` (the index there means nothing). The first pick is the point
    farthest from the centroid of the valid ones, so that shuffling the points shuffles nothing in the result.
    """
    batch = points.shape[0]
    points = torch.where(valid.unsqueeze(-1), points.float(), 0.0)
    num_valid = valid.sum(dim=1)
    centroid = points.sum(dim=1, keepdim=True) / num_valid.clamp(min=1).view(batch, 1, 1)
    # Squared distance to the nearest pick; -1 for what can no longer be picked.
    distance = torch.where(valid, (points - centroid).square().sum(dim=-1), -1.0)
    unpicked = torch.where(valid, torch.inf, -1.0)
    indices = torch.zeros(batch, count, dtype=torch.int64, device=points.device)
    for k in range(count):
        pick = distance.argmax(dim=1, keepdim=True)
        indices[:, k] = pick[:, 0]
        centre = points.gather(1, pick.unsqueeze(-1).expand(-1, -1, 3))
        to_pick = (points - centre).square().sum(dim=-1)
        distance = torch.minimum(unpicked if k == 0 else distance, to_pick).scatter(1, pick, -1.0)
    picked = torch.arange(count, device=points.device) < num_valid.unsqueeze(1)
    return indices, picked


class PointCloudEncoder(nn.Module):
    """(B, T, N, 3) points -> (B, T, L, dim) tokens, one set of L tokens a frame, each around a centre.

    Args:
        dim: width of tokens.
        heads, head_dim: of the attentions.
        num_latents: L, tokens per frame.
        num_self_layers: self-attention layers among the tokens of a frame, after the cross-attention.
        num_freqs: frequencies of the Fourier embedding of coordinates.
        num_roles: entity roles that get a learned embedding; 0 for none.
        feature_channels: A, further numbers known of each point (its looks in the reference image); 0 for none.
        query_mode: ``fps_first_frame`` chooses the L points once, each where it is first valid (frame 0 for a point
            that is always valid), and follows them: for tracked points this is cheap and a token means the same
            piece of surface in all frames. ``fps_per_frame`` chooses anew in every frame, for untracked points.
    """

    def __init__(
        self,
        dim: int = 768,
        heads: int = 12,
        head_dim: int = 64,
        num_latents: int = 512,
        num_self_layers: int = 0,
        num_freqs: int = 8,
        num_roles: int = 4,
        query_mode: str = "fps_first_frame",
        feature_channels: int = 0,
    ) -> None:
        super().__init__()
        if query_mode not in QUERY_MODES:
            raise ValueError(f"query_mode {query_mode!r} is not one of {', '.join(QUERY_MODES)}")
        self.num_latents = num_latents
        self.num_freqs = num_freqs
        self.query_mode = query_mode
        self.embed = nn.Linear(3 * (2 * num_freqs + 1), dim)
        self.role_embed = nn.Embedding(num_roles + 1, dim) if num_roles else None  # row 0 is never used: padding
        self.feature_embed = nn.Linear(feature_channels, dim) if feature_channels else None
        self.norm_query = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim)
        self.cross_attention = PointAttention(dim, heads, head_dim)
        self.norm_ff = nn.LayerNorm(dim)
        self.ff = GEGLUFeedForward(dim)
        self.self_layers = nn.ModuleList(SelfLayer(dim, heads, head_dim) for _ in range(num_self_layers))

    def forward(
        self,
        points: Tensor,
        valid: Tensor | None = None,
        entity: Tensor | None = None,
        features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode every frame.

        points (B, T, N, 3) normalised, float32; valid (B, T, N) bool, default all; entity (B, N) role index + 1, where
        0 is padding and never valid; features (B, N, A) -> tokens (B, T, L, dim), centres (B, T, L, 3) in the points'
        axes, and centre_valid (B, T, L) bool. Tokens and centres that are not valid are zero.
        """
        batch, frames, num_points, _ = points.shape
        if valid is None:
            valid = torch.ones(batch, frames, num_points, dtype=torch.bool, device=points.device)
        valid = valid.bool()
        if entity is not None:
            valid = valid & (entity > 0).unsqueeze(1)
        points = torch.where(valid.unsqueeze(-1), points.float(), 0.0)  # garbage (even NaN) at invalid points is gone

        index, picked = self._choose(points, valid)
        centres = points.gather(2, index.unsqueeze(-1).expand(-1, -1, -1, 3))
        centre_valid = valid.gather(2, index) & picked
        centres = torch.where(centre_valid.unsqueeze(-1), centres, 0.0)

        context = self._embed(points, entity, features)
        # Embedding the centres again costs L points, not the scatter over N that a gather's gradient would.
        centre_entity = None if entity is None else entity.unsqueeze(1).expand(-1, frames, -1).gather(2, index)
        centre_features = None
        if features is not None:
            centre_features = (
                features.unsqueeze(1)
                .expand(-1, frames, -1, -1)
                .gather(2, index.unsqueeze(-1).expand(-1, -1, -1, features.shape[-1]))
            )
        x = self._embed(centres, centre_entity, centre_features).flatten(0, 1)
        x = x + self.cross_attention(self.norm_query(x), self.norm_context(context).flatten(0, 1), valid.flatten(0, 1))
        x = x + self.ff(self.norm_ff(x))
        for layer in self.self_layers:
            x = layer(x, centre_valid.flatten(0, 1))
        tokens = x.unflatten(0, (batch, frames)) * centre_valid.unsqueeze(-1)
        return tokens, centres, centre_valid

    def _embed(self, points: Tensor, entity: Tensor | None, features: Tensor | None) -> Tensor:
        """points (B, T, K, 3), entity (B, K) or (B, T, K), features (B, K, A) or (B, T, K, A) -> (B, T, K, dim)."""
        embedded = self.embed(fourier_features(points, self.num_freqs).to(self.embed.weight.dtype))
        if entity is not None and self.role_embed is not None:
            role = self.role_embed(entity.long())
            embedded = embedded + (role if role.ndim == 4 else role.unsqueeze(1))
        if features is not None and self.feature_embed is not None:
            known = self.feature_embed(features.to(self.feature_embed.weight.dtype))
            embedded = embedded + (known if known.ndim == 4 else known.unsqueeze(1))
        return embedded

    def _choose(self, points: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Indices (B, T, L) of the points that tokens stand at, and whether there was one to pick (B, T, L)."""
        batch, frames, num_points, _ = points.shape
        if self.query_mode == "fps_per_frame":
            index, picked = farthest_point_sample(points.flatten(0, 1), valid.flatten(0, 1), self.num_latents)
            return index.unflatten(0, (batch, frames)), picked.unflatten(0, (batch, frames))
        first = valid.int().argmax(dim=1)  # (B, N): the first frame in which a point is valid
        start = points.gather(1, first.view(batch, 1, num_points, 1).expand(-1, -1, -1, 3)).squeeze(1)
        index, picked = farthest_point_sample(start, valid.any(dim=1), self.num_latents)
        return (x.unsqueeze(1).expand(-1, frames, -1) for x in (index, picked))


class SelfLayer(nn.Module):
    """Self-attention and GEGLU feed-forward among the tokens of one frame."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = PointAttention(dim, heads, head_dim)
        self.norm_ff = nn.LayerNorm(dim)
        self.ff = GEGLUFeedForward(dim)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, L, dim), valid (B, L) -> (B, L, dim)."""
        y = self.norm_attention(x)
        x = x + self.attention(y, y, valid)
        return x + self.ff(self.norm_ff(x))
