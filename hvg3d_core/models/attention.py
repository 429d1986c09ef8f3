# SPDX-License-Identifier: Apache-2.0
"""Attention: the small attention of the point branch, and CogVideoX's attention made backend-aware."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn


class PointAttention(nn.Module):
    """Multi-head attention from ``x`` (B, Q, dim) to ``context`` (B, K, dim), or to itself; with key masking.

    A row whose keys are all masked attends to everything, which keeps it finite: the caller throws it away.
    """

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor, context: Tensor, key_valid: Tensor) -> Tensor:
        """x (B, Q, dim), context (B, K, dim), key_valid (B, K) bool -> (B, Q, dim)."""
        query = self.to_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.to_kv(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask = key_valid | ~key_valid.any(dim=1, keepdim=True)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        return self.to_out(out.transpose(1, 2).flatten(2))


class GEGLUFeedForward(nn.Module):
    """Linear to twice the inner width, one half gated by the GELU of the other, Linear back."""

    def __init__(self, dim: int, mult: int = 4) -> None:
        super().__init__()
        self.proj_in = nn.Linear(dim, 2 * mult * dim)
        self.proj_out = nn.Linear(mult * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj_in(x).chunk(2, dim=-1)
        return self.proj_out(value * F.gelu(gate))


PLAIN_SCORES_BYTES = 256 * 2**20


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(head_dim)) V in two matrix products; all (B, heads, S, head_dim)."""
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))
    return torch.matmul(torch.softmax(scores, dim=-1), value)


def _plain_is_faster(query: Tensor) -> bool:
    """While training in bfloat16 on a CPU, torch's fused attention takes longer forth and back than two products do
    (benchmarks/training_attention.py). Only where the scores are small enough to be kept."""
    batch, heads, length, _ = query.shape
    return (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and torch.is_grad_enabled()
        and query.requires_grad
        and 2 * batch * heads * length**2 <= PLAIN_SCORES_BYTES
    )


class CogVideoXDispatchAttnProcessor:
    """CogVideoX's joint text and video attention, through diffusers' ``dispatch_attention_fn``.

    The stock processor calls ``F.scaled_dot_product_attention`` itself, so that ``set_attention_backend`` (flash,
    sage ...) silently does nothing on it. With the native backend the result is the stock one, bit for bit (but for
    training in bfloat16 on a CPU, see :func:`_plain_is_faster`).
    """

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """hidden_states (B, S, D) and encoder_hidden_states (B, S_text, D) -> the same two, attended jointly."""
        num_text = encoder_hidden_states.shape[1]
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        # (B, S, heads, head_dim) -> (B, heads, S, head_dim), where norms and rotary embedding are applied
        if attn.fused_projections:
            projected = attn.to_qkv(tokens).chunk(3, dim=-1)
        else:
            projected = tuple(proj(tokens) for proj in (attn.to_q, attn.to_k, attn.to_v))
        query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in projected)
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        if image_rotary_emb is not None:  # text tokens carry no position
            query, key = (
                torch.cat([x[:, :, :num_text], apply_rotary_emb(x[:, :, num_text:], image_rotary_emb)], dim=2)
                for x in (query, key)
            )
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, tokens.shape[1], tokens.shape[0])
            attention_mask = attention_mask.unflatten(0, (tokens.shape[0], attn.heads))
        if attention_mask is None and self._attention_backend is None and _plain_is_faster(query):
            out = plain_attention(query, key, value).transpose(1, 2).flatten(2)
        else:
            out = dispatch_attention_fn(
                query.transpose(1, 2),
                key.transpose(1, 2),
                value.transpose(1, 2),
                attn_mask=attention_mask,
                backend=self._attention_backend,
                parallel_config=self._parallel_config,
            ).flatten(2)
        out = attn.to_out[1](attn.to_out[0](out))
        return out[:, num_text:], out[:, :num_text]
