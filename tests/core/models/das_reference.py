# SPDX-License-Identifier: Apache-2.0
"""Diffusion as Shader on CogVideoX, written from the published formulas in plain torch: an oracle, not a fast network.

Nothing here comes from our model or from diffusers. Parameters have the names of the released weights.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Modulation(nn.Module):
    """LayerNorm of video and text under shift and scale from the time embedding; and the gates of what follows."""

    def __init__(self, dim: int, time_dim: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(time_dim, 6 * dim), nn.LayerNorm(dim, eps=1e-5)

    def forward(self, video: Tensor, text: Tensor, time: Tensor) -> tuple[Tensor, ...]:
        shift, scale, gate, text_shift, text_scale, text_gate = self.linear(F.silu(time))[:, None].chunk(6, -1)
        video, text = self.norm(video) * (1 + scale) + shift, self.norm(text) * (1 + text_scale) + text_shift
        return video, text, gate, text_gate


class JointAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm_q, self.norm_k = nn.LayerNorm(dim // heads, eps=1e-6), nn.LayerNorm(dim // heads, eps=1e-6)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def forward(self, text: Tensor, video: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, num_text = torch.cat([text, video], 1), text.shape[1]
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)) for f in (self.to_q, self.to_k, self.to_v))  # (B, S, H, d)
        q, k = (
            torch.cat([t[:, :num_text], rotate(t[:, num_text:], rope)], 1) for t in (self.norm_q(q), self.norm_k(k))
        )
        weight = torch.einsum("bqhd,bkhd->bhqk", q, k).mul(q.shape[-1] ** -0.5).softmax(-1)
        out = self.to_out[0](torch.einsum("bhqk,bkhd->bqhd", weight, v).flatten(2))
        return out[:, :num_text], out[:, num_text:]


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Pairs of neighbouring features turned by their angle; x (B, S, H, d), cosines and sines (S, d)."""
    cos, sin = (t[None, :, None, :] for t in rope)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack(
        [even * cos[..., ::2] - odd * sin[..., ::2], odd * cos[..., 1::2] + even * sin[..., 1::2]], -1
    ).flatten(-2)


class Gelu(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"0": Gelu(dim), "2": nn.Linear(4 * dim, dim)})

    def forward(self, x: Tensor) -> Tensor:
        return self.net["2"](self.net["0"](x))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, time_dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = Modulation(dim, time_dim), Modulation(dim, time_dim)
        self.attn1, self.ff = JointAttention(dim, heads), FeedForward(dim)

    def forward(self, video: Tensor, text: Tensor, time: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        v, e, gate, text_gate = self.norm1(video, text, time)
        e, v = self.attn1(e, v, rope)
        video, text = video + gate * v, text + text_gate * e
        v, e, gate, text_gate = self.norm2(video, text, time)
        return video + gate * self.ff(v), text + text_gate * self.ff(e)


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, dim: int, text_dim: int, num_tokens: int) -> None:
        super().__init__()
        self.proj, self.text_proj = nn.Conv2d(channels, dim, 2, 2), nn.Linear(text_dim, dim)
        self.register_buffer("pos_embedding", torch.zeros(1, num_tokens, dim))

    def forward(self, text: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        frames = [self.proj(frame).flatten(2).transpose(1, 2) for frame in latents.unbind(1)]
        tokens = torch.cat([self.text_proj(text), *frames], 1) + self.pos_embedding
        return tokens[:, : text.shape[1]], tokens[:, text.shape[1] :]


class TimeEmbedding(nn.Module):
    def __init__(self, dim: int, time_dim: int) -> None:
        super().__init__()
        self.dim, self.linear_1, self.linear_2 = dim, nn.Linear(dim, time_dim), nn.Linear(time_dim, time_dim)

    def forward(self, timestep: Tensor) -> Tensor:
        frequency = torch.exp(-math.log(10000) * torch.arange(self.dim // 2) / (self.dim // 2))
        angle = timestep[:, None].float() * frequency
        return self.linear_2(
            F.silu(self.linear_1(torch.cat([angle.cos(), angle.sin()], -1).to(self.linear_1.weight.dtype)))
        )


class OutputNorm(nn.Module):
    def __init__(self, dim: int, time_dim: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(time_dim, 2 * dim), nn.LayerNorm(dim, eps=1e-5)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift, scale = self.linear(F.silu(time))[:, None].chunk(2, -1)
        return self.norm(x) * (1 + scale) + shift


class DiffusionAsShader(nn.Module):
    """``layers`` blocks, of which the first ``copies`` are copied; ``copies`` 0 is CogVideoX alone."""

    def __init__(
        self,
        *,
        layers: int,
        copies: int,
        heads: int,
        head_dim: int,
        channels: int,
        text_dim: int,
        time_dim: int,
        num_tokens: int,
    ) -> None:
        super().__init__()
        dim = heads * head_dim
        self.patch_embed = PatchEmbed(2 * channels, dim, text_dim, num_tokens)
        self.time_embedding = TimeEmbedding(dim, time_dim)
        self.transformer_blocks = nn.ModuleList(Block(dim, heads, time_dim) for _ in range(layers))
        self.norm_final, self.norm_out = nn.LayerNorm(dim, eps=1e-5), OutputNorm(dim, time_dim)
        self.proj_out = nn.Linear(dim, channels * 4)
        if copies:
            self.transformer_blocks_copy = nn.ModuleList(Block(dim, heads, time_dim) for _ in range(copies))
            self.combine_linears = nn.ModuleList(nn.Linear(dim, dim) for _ in range(copies))
            self.initial_combine_linear = nn.Linear(dim, dim)
        self.copies = copies

    def forward(
        self,
        latents: Tensor,
        text_embeds: Tensor,
        timestep: Tensor,
        rope: tuple[Tensor, Tensor],
        tracking: Tensor | None = None,
    ) -> Tensor:
        """latents, tracking (B, F, 2C, h, w), text_embeds (B, S, text_dim), timestep (B,) -> (B, F, C, h, w)."""
        time = self.time_embedding(timestep)
        text, video = self.patch_embed(text_embeds, latents)
        if tracking is not None:
            control = self.initial_combine_linear(video + self.patch_embed(text_embeds, tracking)[1])
        for i, block in enumerate(self.transformer_blocks):
            video, text = block(video, text, time, rope)
            if tracking is not None and i < self.copies:
                control, _ = self.transformer_blocks_copy[i](control, text, time, rope)
                control = self.combine_linears[i](control)
                video = video + control
        out = self.proj_out(self.norm_out(self.norm_final(video), time))
        batch, frames, _, height, width = latents.shape
        out = out.view(batch, frames, height // 2, width // 2, -1, 2, 2)  # channel, row and column within the patch
        return torch.einsum("bfyxcij->bfcyixj", out).reshape(batch, frames, -1, height, width)


@torch.no_grad()
def draw(model: nn.Module, seed: int = 0, scale: float = 0.02) -> nn.Module:
    """Every weight and the position table random, none at a value that would hide it (0 or 1)."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        is_norm = "norm" in name and tensor.ndim == 1 and name.endswith("weight")
        gain = max(scale, 0.7 * tensor.shape[-1] ** -0.5) if tensor.ndim > 1 else 0.1
        tensor.copy_(noise * gain + (1.0 if is_norm else 0.0))
    return model.eval()
