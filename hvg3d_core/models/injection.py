# SPDX-License-Identifier: Apache-2.0
"""How the control branch's residuals meet the base's blocks, such that diffusers' caches stay right.

FirstBlockCache and MagCache hook the base's blocks and, where they skip them, add what the blocks added last time. A
residual that is added *between* blocks is part of that remembered sum, and would be added a second time by the loop.
So while a cache is on, each block's residual is added *inside* the module that the cache hooks: it is remembered with
the block, skipped with the block, and the copy it comes from is not computed either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

INJECTION_HOOK = "hvg3d_injection"


class ControlState:
    """The control branch along one forward pass: ``state(i, video, text)`` is ``video`` after block i's residual.

    video and control (B, S, D), text (B, S_text, D). It must be called for i = 0, 1, 2 ... in order; a cache that
    skips all blocks after the first simply leaves it where it is.
    """

    def __init__(
        self,
        blocks: nn.ModuleList,
        zero: nn.ModuleList,
        control: Tensor,
        text: Tensor,
        scale: float | Tensor,
        block_arguments: tuple[Any, ...],
        call: Callable[..., Any],
        *,
        share_text_stream: bool,
        chain_through_zero: bool,
    ) -> None:
        self.blocks, self.zero, self.control, self.text, self.scale = blocks, zero, control, text, scale
        self.block_arguments, self.call = block_arguments, call
        self.share_text_stream, self.chain_through_zero = share_text_stream, chain_through_zero

    def __call__(self, i: int, video: Tensor, text: Tensor) -> Tensor:
        if i >= len(self.blocks):
            return video
        if self.share_text_stream:
            self.text = text
        self.control, self.text = self.call(self.blocks[i], self.control, self.text, *self.block_arguments)
        residual = self.zero[i](self.control)
        if self.chain_through_zero:
            self.control = residual
        return video + self.scale * residual


class InjectionSlot:
    """Where a forward pass leaves its :class:`ControlState` for the hooks of its blocks."""

    state: ControlState | None = None


class InjectionHook(ModelHook):
    """Adds block ``index``'s residual inside the block's own call."""

    def __init__(self, slot: InjectionSlot, index: int) -> None:
        super().__init__()
        self.slot, self.index = slot, index

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        video, text = self.fn_ref.original_forward(*args, **kwargs)
        return (video if self.slot.state is None else self.slot.state(self.index, video, text)), text


class InjectionMixin:
    """``enable_cache`` that moves the injection into the blocks first, and ``fuse_qkv_projections`` that keeps the
    attention processor and takes no memory. For a class with ``transformer_blocks``, before diffusers' in the bases.
    """

    transformer_blocks: nn.ModuleList
    _injection_slot: InjectionSlot | None = None  # None: residuals are added between blocks

    def enable_cache(self, config: Any) -> None:
        """As diffusers' ``CacheMixin.enable_cache``; the cache sees the injected residuals."""
        if self.is_cache_enabled:
            super().enable_cache(config)  # which raises
        slot = InjectionSlot()
        for i, block in enumerate(self.transformer_blocks):
            HookRegistry.check_if_exists_or_initialize(block).register_hook(InjectionHook(slot, i), INJECTION_HOOK)
        self._injection_slot = slot
        try:
            super().enable_cache(config)
        except Exception:
            self._remove_injection_hooks()
            raise

    def disable_cache(self) -> None:
        super().disable_cache()
        self._remove_injection_hooks()

    def _remove_injection_hooks(self) -> None:
        self._injection_slot = None
        for block in self.transformer_blocks:
            if hasattr(block, "_diffusers_hook"):
                block._diffusers_hook.remove_hook(INJECTION_HOOK, recurse=False)

    @torch.no_grad()
    def fuse_qkv_projections(self) -> None:
        """One projection instead of three in every attention of the base and of its copies; ``to_q``, ``to_k`` and
        ``to_v`` become views of it, so that no weight is stored twice. Call it after moving the model: ``.to()``
        would part the views. The attention processor stays the one that goes through the dispatcher."""
        for attention in self.modules():
            if not isinstance(attention, Attention) or attention.fused_projections:
                continue
            attention.fuse_projections(fuse=True)
            for kind in ("weight", "bias"):
                fused = getattr(attention.to_qkv, kind)
                if fused is None:
                    continue
                for projection, part in zip(_projections(attention), fused.data.chunk(3), strict=True):
                    getattr(projection, kind).data = part

    @torch.no_grad()
    def unfuse_qkv_projections(self) -> None:
        """Back to three projections with memory of their own, and no ``to_qkv`` in the state dict."""
        for attention in self.modules():
            if not isinstance(attention, Attention) or not attention.fused_projections:
                continue
            for parameter in (p for projection in _projections(attention) for p in projection.parameters()):
                parameter.data = parameter.data.clone()
            del attention.to_qkv
            attention.fused_projections = False


def _projections(attention: Attention) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    return attention.to_q, attention.to_k, attention.to_v
