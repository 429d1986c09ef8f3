# SPDX-License-Identifier: Apache-2.0
"""From point tokens (B, T, L, dim) to the latent grid (B, F, C, h, w), two ways.

Latent frame 0 is source frame 0; latent frame f > 0 is source frames r(f-1)+1 .. rf, with r = 4 the VAE's temporal
compression. Image coordinates are in [0, 1]², (0, 0) the corner of the top-left pixel.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .point_encoder import fourier_features

NEAR = 1e-2  # depth, in units of the normalised points, below which a point counts as behind the camera


def group_frames(x: Tensor, ratio: int) -> Tensor:
    """(B, T, ...) -> (B, F, ratio, ...), T = 1 + ratio (F - 1). Frame 0 takes the last place of its group, after zeros.

    That is how the causal VAE sees the first frame too: as the last of a group whose others do not exist.
    """
    if (x.shape[1] - 1) % ratio:
        raise ValueError(f"{x.shape[1]} frames of points: the latent frames need 1 or {ratio}k + 1")
    padding = x.new_zeros(x.shape[0], ratio - 1, *x.shape[2:])
    return torch.cat([padding, x], dim=1).unflatten(1, (-1, ratio))


def project_to_image(centres: Tensor, intrinsics: Tensor, world_to_camera: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project (B, T, L, 3) points with (B, T, 3, 3) intrinsics for [0, 1]² and (B, T, 4, 4) world to camera.

    Returns image coordinates (B, T, L, 2), log depth (B, T, L) and whether the point is in front of the camera.
    Coordinates are clamped to one image size beyond the image, where distance no longer says anything.
    """
    camera = (centres.unsqueeze(-2) * world_to_camera[:, :, None, :3, :3]).sum(-1) + world_to_camera[:, :, None, :3, 3]
    in_front = camera[..., 2] > NEAR
    depth = torch.where(in_front, camera[..., 2], 1.0)
    ray = torch.cat([camera[..., :2] / depth.unsqueeze(-1), torch.ones_like(camera[..., :1])], dim=-1)
    xy = (ray.unsqueeze(-2) * intrinsics[:, :, None, :2]).sum(-1)
    return xy.clamp(-1.0, 2.0), depth.log(), in_front


def reference_features(
    points: Tensor, valid: Tensor, intrinsics: Tensor, world_to_camera: Tensor, reference_latents: Tensor
) -> Tensor:
    """What each tracked point looks like in the reference image: its latents where the point is seen in frame 0.

    points (B, T, N, 3), valid (B, T, N), intrinsics (B, T, 3, 3), world_to_camera (B, T, 4, 4), reference_latents
    (B, 16, h, w) -> (B, N, 16 + 1): bilinear samples, then 1 where the point is valid and in front of the camera in
    frame 0; all zero elsewhere.
    """
    first = torch.where(valid[:, :1].unsqueeze(-1), points[:, :1].float(), 0.0)  # invalid points may even be NaN
    xy, _, in_front = project_to_image(first, intrinsics[:, :1].float(), world_to_camera[:, :1].float())
    seen = (valid[:, :1] & in_front).transpose(1, 2).float()  # (B, N, 1)
    sampled = F.grid_sample(reference_latents.float(), 2 * xy - 1, padding_mode="border", align_corners=False)
    return torch.cat([sampled[:, :, 0].transpose(1, 2), torch.ones_like(seen)], dim=-1) * seen


@torch.no_grad()
def warp_reference(
    points: Tensor,
    valid: Tensor,
    features: Tensor,
    intrinsics: Tensor,
    world_to_camera: Tensor,
    reference_latents: Tensor,
    ratio: int = 4,
    per_frame: bool = False,
) -> Tensor:
    """The reference image's latents carried along by the points that it shows; nothing in it is learned.

    points (B, T, N, 3), valid (B, T, N), features (B, N, 16 + 1) from :func:`reference_features`, reference_latents
    (B, 16, h, w) -> (B, F, warp_channels(16, ratio, per_frame), h, w). Each cell is the mean of the points' latents
    under exp(-4 d²), d the distance in cells; where no point is near, it is what the reference itself shows there. One
    more channel says how much is covered by points, and a last one how much was in frame 0: what was and is no longer
    has come to light behind the hand or the object.

    A latent frame stands for a group of ``ratio`` frames. They are averaged, or, ``per_frame``, each has channels
    of its own, so that fast motion within the group stays sharp; the group of frame 0 then has it ``ratio`` times.
    """
    height, width = reference_latents.shape[-2:]
    xy, _, in_front = project_to_image(
        torch.where(valid.unsqueeze(-1), points.float(), 0.0), intrinsics.float(), world_to_camera.float()
    )
    usable = (valid & in_front & (features[..., -1] > 0).unsqueeze(1)).float()
    u = torch.arange(width, device=xy.device) + 0.5
    v = torch.arange(height, device=xy.device) + 0.5
    # exp(-4 d²) is a product over the axes, so the sum over points is a matrix product and no array of cells x points
    # is ever made.
    along_x = torch.exp(-4 * (xy[..., :1] * width - u).square())  # (B, T, N, w)
    along_y = torch.exp(-4 * (xy[..., 1:] * height - v).square()) * usable.unsqueeze(-1)  # (B, T, N, h)
    carried = torch.cat([features[..., :-1].float(), torch.ones_like(features[..., -1:])], dim=-1)  # (B, N, 16 + 1)
    rows = carried.transpose(1, 2)[:, None, :, None] * along_y.transpose(2, 3).unsqueeze(2)  # (B, T, 16 + 1, h, N)
    sums = torch.matmul(rows.flatten(2, 3), along_x).unflatten(2, (-1, height))  # (B, T, 16 + 1, h, w)
    if not per_frame:
        sums = group_frames(sums, ratio).sum(dim=2)
    total = sums[:, :, -1:]
    covered = total / (total + 0.1)
    still = reference_latents.float().unsqueeze(1)
    filled = covered * sums[:, :, :-1] / total.clamp(min=1e-4) + (1 - covered) * still
    grid = torch.cat([filled, covered], dim=2)
    if per_frame:
        grid = torch.cat([grid[:, :1]] * (ratio - 1) + [grid], dim=1).unflatten(1, (-1, ratio)).flatten(2, 3)
    return torch.cat([grid, covered[:, :1].expand(-1, grid.shape[1], -1, -1, -1)], dim=2)


def warp_channels(latent_channels: int, ratio: int, per_frame: bool) -> int:
    """How many channels :func:`warp_reference` makes."""
    return (latent_channels + 1) * (ratio if per_frame else 1) + 1


class InterpolateResampler(nn.Module):
    """The literal reading of the article: a linear layer, then linear interpolation of the L tokens onto the grid.

    Tokens have no grid order, so a cell's features come from whichever token happens to fall on it; cameras are not
    used. A group of frames is the mean of its valid tokens.
    """

    needs_camera = False

    def __init__(self, dim: int, out_channels: int, ratio: int = 4) -> None:
        super().__init__()
        self.ratio = ratio
        self.proj = nn.Linear(dim, out_channels)

    def forward(
        self,
        tokens: Tensor,
        centres: Tensor,
        centre_valid: Tensor,
        intrinsics: Tensor | None,
        world_to_camera: Tensor | None,
        size: tuple[int, int],
    ) -> Tensor:
        """tokens (B, T, L, dim), centre_valid (B, T, L); size is (h, w) -> (B, F, C, h, w)."""
        height, width = size
        valid = centre_valid.unsqueeze(-1)
        grouped = group_frames(self.proj(tokens) * valid, self.ratio)
        count = group_frames(valid, self.ratio).sum(dim=2)
        mean = grouped.sum(dim=2) / count.clamp(min=1)  # (B, F, L, C)
        grid = F.interpolate(mean.flatten(0, 1).transpose(1, 2), size=height * width, mode="linear")
        return grid.unflatten(0, mean.shape[:2]).unflatten(-1, (height, width))


class RayAttentionResampler(nn.Module):
    """Each cell of the latent grid asks the point tokens of its frames what its camera ray meets.

    A token's key carries its centre as the camera sees it (image coordinates, log depth), the query the cell's image
    coordinates, i.e. its ray. Geometry is a strong prior, so that it need not be learned: per head, logits lose
    a·d² with d the distance between cell centre and projected centre in cells and a = softplus(locality) learned, and a
    learned null key takes what is left, so that a cell far from all points reads "nothing here". Besides the values
    each head returns how much was covered, at which offset (in cells) and log depth.

    The locality is not a mask of size cells x tokens but part of the dot product:
    -a|q - k|² = (2a q)·k + (-a|q|²)·1 + 1·(-a|k|²), four more dimensions of query and key. So any fused attention
    kernel computes it, and its gradient, and nothing of that size is ever stored. It needs float32, for in bfloat16
    the difference of squares would lose whole cells. ``head_dim`` counts those four, so that it can be a width which
    kernels like (32 is twice as fast as 36 on a CPU).
    """

    needs_camera = True

    def __init__(
        self,
        dim: int,
        out_channels: int,
        heads: int = 8,
        head_dim: int = 32,
        num_freqs: int = 6,
        ratio: int = 4,
    ) -> None:
        super().__init__()
        if head_dim <= 4:
            raise ValueError(f"head_dim {head_dim}: four of its dimensions carry geometry, so it must exceed 4")
        self.heads, self.num_freqs, self.ratio = heads, num_freqs, ratio
        self.content_dim = head_dim - 4
        inner = heads * self.content_dim
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(2 * (2 * num_freqs + 1), inner)
        self.to_kv = nn.Linear(dim + 3 * (2 * num_freqs + 1), 2 * inner)
        self.subframe = nn.Embedding(ratio, 2 * inner)  # which frame of the group a token is of
        self.nothing = NullToken(heads, self.content_dim)
        self.locality = Locality(heads)
        self.to_hidden = nn.Linear(heads * head_dim, dim)
        self.to_out = nn.Linear(dim, out_channels)

    def forward(
        self,
        tokens: Tensor,
        centres: Tensor,
        centre_valid: Tensor,
        intrinsics: Tensor | None,
        world_to_camera: Tensor | None,
        size: tuple[int, int],
    ) -> Tensor:
        """Resample.

        tokens (B, T, L, dim), centres (B, T, L, 3), centre_valid (B, T, L), intrinsics (B, T, 3, 3) for [0, 1]²
        coordinates, world_to_camera (B, T, 4, 4), default identity; size is (h, w) -> (B, F, C, h, w).
        """
        if intrinsics is None:
            raise ValueError("intrinsics: missing; ray_attention needs (B, T, 3, 3) for image coordinates in [0, 1]²")
        batch, frames = tokens.shape[:2]
        height, width = size
        dtype = self.to_q.weight.dtype
        device_type = tokens.device.type
        if world_to_camera is None:
            world_to_camera = torch.eye(4, device=tokens.device).expand(batch, frames, 4, 4)

        with torch.autocast(device_type, enabled=False):
            xy, log_depth, in_front = project_to_image(centres.float(), intrinsics.float(), world_to_camera.float())
            valid = centre_valid & in_front
            where = torch.cat([xy, log_depth.unsqueeze(-1)], dim=-1)
            features = fourier_features(where, self.num_freqs).to(dtype)
            # Cell units around the image centre: small numbers, for the sake of the difference of squares.
            scale = torch.tensor([width, height], device=tokens.device, dtype=torch.float32)
            key_cell = (xy - 0.5) * scale
            v, u = torch.meshgrid(
                (torch.arange(height, device=tokens.device) + 0.5) / height,
                (torch.arange(width, device=tokens.device) + 0.5) / width,
                indexing="ij",
            )
            cell_uv = torch.stack([u, v], dim=-1).flatten(0, 1)  # (hw, 2)
            cell = (cell_uv - 0.5) * scale

        sub = self.subframe(subframe_index(frames, self.ratio, tokens.device)).view(1, frames, 1, -1)
        kv = self.to_kv(torch.cat([self.norm(tokens), features.to(tokens.dtype)], dim=-1)) + sub
        # (B, T, L, 2, heads, content_dim) -> (2, B F, heads, ratio L, content_dim)
        kv = group_frames(kv.unflatten(-1, (2, self.heads, self.content_dim)), self.ratio)
        key, value = kv.permute(4, 0, 1, 5, 2, 3, 6).flatten(4, 5).flatten(1, 2).float()
        valid, key_cell, log_depth = (
            group_frames(x, self.ratio).flatten(0, 1).flatten(1, 2) for x in (valid, key_cell, log_depth)
        )
        query = self.to_q(fourier_features(cell_uv, self.num_freqs).to(dtype)).unflatten(-1, (self.heads, -1))
        query = query.transpose(0, 1).float() / math.sqrt(self.content_dim)  # (heads, hw, content_dim)

        with torch.autocast(device_type, enabled=False):
            out = self._attend(query, key, value, cell, key_cell, log_depth, valid)
        hidden = F.gelu(self.to_hidden(out.to(dtype)))
        grid = self.to_out(hidden)  # (B F, hw, C)
        return grid.transpose(1, 2).unflatten(-1, size).unflatten(0, (batch, -1))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cell: Tensor,
        key_cell: Tensor,
        log_depth: Tensor,
        valid: Tensor,
    ) -> Tensor:
        """Attention, all in float32. G = B F groups of frames, H heads, K keys, d = content_dim.

        query (H, hw, d); key, value (G, H, K, d); cell (hw, 2); key_cell (G, K, 2); log_depth, valid (G, K)
        -> (G, hw, H (d + 4)).
        """
        groups, heads, num_keys, _ = key.shape
        a = self.locality().view(heads, 1, 1)
        cell_squared, key_squared = cell.square().sum(-1, keepdim=True), key_cell.square().sum(-1, keepdim=True)
        query = torch.cat([query, 2 * a * cell, -a * cell_squared, torch.ones_like(query[..., :1])], dim=-1)
        one = torch.ones_like(key_squared)
        key_extra = torch.cat([key_cell, one, key_squared], dim=-1).unsqueeze(1)  # (G, 1, K, 4)
        key_extra = torch.cat([key_extra[..., :3].expand(-1, heads, -1, -1), -a * key_extra[..., 3:]], dim=-1)
        value_extra = torch.cat([key_cell, one, log_depth.unsqueeze(-1)], dim=-1).unsqueeze(1)
        null_key, null_value = self.nothing()  # (H, 1, d + 4)
        key = torch.cat([key, key_extra], dim=-1)
        key = torch.cat([key, null_key.expand(groups, -1, -1, -1)], dim=2)
        value = torch.cat([value, value_extra.expand(-1, heads, -1, -1)], dim=-1)
        value = torch.cat([value, null_value.expand(groups, -1, -1, -1)], dim=2)
        mask = F.pad(valid, (0, 1), value=True).view(groups, 1, 1, num_keys + 1)
        out = F.scaled_dot_product_attention(
            query.expand(groups, -1, -1, -1), key, value, attn_mask=mask, scale=1.0
        ).transpose(1, 2)  # (G, hw, H, d + 4)
        features, position, covered, depth = out.split([self.content_dim, 2, 1, 1], dim=-1)
        offset = position - covered * cell.view(1, -1, 1, 2)  # attention-weighted offset from the cell, in cells
        return torch.cat([features, offset, covered, depth], dim=-1).flatten(2)


def subframe_index(frames: int, ratio: int, device: torch.device) -> Tensor:
    """(T,): the place of each source frame in its group of ``ratio``; frame 0 has the last."""
    return (torch.arange(frames, device=device) - 1) % ratio


class NullToken(nn.Module):
    """What a cell reads that no point explains: a learned key, logit and value per head."""

    def __init__(self, heads: int, content_dim: int) -> None:
        super().__init__()
        self.key = nn.Parameter(torch.zeros(heads, content_dim))
        self.value = nn.Parameter(torch.zeros(heads, content_dim))
        self.logit = nn.Parameter(torch.zeros(heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.key)
        nn.init.zeros_(self.value)
        nn.init.constant_(self.logit, -4.0)  # a lone token with neutral content holds the cells with a·d² < 4

    def forward(self) -> tuple[Tensor, Tensor]:
        """Key and value (heads, 1, content_dim + 4), extended as in :meth:`RayAttentionResampler._attend`."""
        logit = F.pad(self.logit.unsqueeze(-1), (3, 0))  # meets the query's constant 1
        key = torch.cat([self.key, logit.to(self.key.dtype)], dim=-1)
        return key.unsqueeze(1).float(), F.pad(self.value, (0, 4)).unsqueeze(1).float()


class Locality(nn.Module):
    """Per head the factor a > 0 of a·d²; heads start between one cell and many."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        a = torch.logspace(math.log10(2.0), math.log10(0.05), self.raw.shape[0])  # reach sqrt(4 / a): 1.4 .. 9 cells
        with torch.no_grad():
            self.raw.copy_(torch.log(torch.expm1(a)))

    def forward(self) -> Tensor:
        """(heads,) float32."""
        return F.softplus(self.raw.float())
