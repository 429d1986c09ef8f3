# SPDX-License-Identifier: Apache-2.0
"""Speed options of a pipeline: each can be set, changed and taken back between two videos.

What each brings and what it changes in the result is measured by ``benchmarks/generation.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from diffusers.hooks import (
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock
from torch import nn

if TYPE_CHECKING:
    from .pipeline_hvg3d import HVG3DImageToVideoPipeline

CACHES = ("none", "pab", "first_block", "taylorseer")
SCHEDULERS = {"ddim": CogVideoXDDIMScheduler, "dpm": CogVideoXDPMScheduler}
PRECISIONS = ("auto", "fp32", "autocast", "bf16")
# Strength of a cache: calls that share one attention result; the greatest change of the first block's output that
# counts as none; steps from one full computation to the next.
CACHE_STRENGTH = {"pab": 2.0, "first_block": 0.1, "taylorseer": 4.0}
CACHED_PARTS = [r"(transformer|control)_blocks\.\d+\.(attn1|ff)"]  # diffusers' own patterns match nothing here


@dataclass(frozen=True)
class SpeedOptions:
    """
    Args:
        compile: regional compilation: the blocks' code is compiled once and shared by all of them. The first video
            waits for it.
        attention_backend: a name of diffusers' attention dispatcher: ``flash``, ``_flash_3``, ``sage``, ``native`` ...
        cache: reuse of what changes little between steps: ``pab`` (attention results, in the middle of the
            schedule), ``first_block`` (all blocks but the first, while that one's output hardly changes), or
            ``taylorseer`` (attention and feed-forward results extrapolated between full computations).
        cache_strength: see ``CACHE_STRENGTH``; larger is faster and changes more.
        fuse_qkv: one matrix product for query, key and value instead of three.
        scheduler: ``ddim`` or ``dpm``, with trailing timesteps; None is the model's own.
    """

    compile: bool = False
    attention_backend: str | None = None
    cache: str = "none"
    cache_strength: float | None = None
    fuse_qkv: bool = False
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if self.cache not in CACHES:
            raise ValueError(f"cache {self.cache!r} is not one of {', '.join(CACHES)}")
        if self.scheduler is not None and self.scheduler not in SCHEDULERS:
            raise ValueError(f"scheduler {self.scheduler!r} is not one of {', '.join(SCHEDULERS)}")
        if self.cache_strength is not None:
            if self.cache == "none":
                raise ValueError(f"cache_strength: {self.cache_strength} is given, but no cache; set cache")
            if not self.cache_strength > 0:
                raise ValueError(f"cache_strength: {self.cache_strength}, must be greater than 0")
            if self.cache != "first_block" and self.cache_strength != int(self.cache_strength):
                raise ValueError(
                    f"cache_strength: {self.cache_strength}, must be whole for {self.cache} (it counts steps)"
                )


def apply_speed_options(pipeline: HVG3DImageToVideoPipeline, options: SpeedOptions) -> None:
    """Bring ``pipeline`` to exactly these options, whatever they were. Call it after the memory mode was set."""
    current: SpeedOptions = getattr(pipeline, "_speed_options", SpeedOptions())
    transformer = pipeline.transformer
    finer = options.cache in ("pab", "taylorseer")  # hooks inside of blocks
    rehook = (current.cache, current.cache_strength) != (options.cache, options.cache_strength)
    if rehook and current.cache != "none":
        transformer.disable_cache()
    if current.fuse_qkv != options.fuse_qkv:
        (transformer.fuse_qkv_projections if options.fuse_qkv else transformer.unfuse_qkv_projections)()
    if current.attention_backend != options.attention_backend:
        _set_attention_backend(transformer, options.attention_backend)
    uncompile(transformer)
    if options.compile:
        compile_blocks(transformer, finer=finer)
    if rehook and options.cache != "none":
        transformer.enable_cache(cache_config(pipeline, options.cache, options.cache_strength))
    set_scheduler(pipeline, options.scheduler)
    pipeline._speed_options = options


def cache_config(pipeline: HVG3DImageToVideoPipeline, cache: str, strength: float | None = None) -> Any:
    """diffusers' configuration of a cache; for ``pipeline.transformer.enable_cache``."""
    strength = CACHE_STRENGTH[cache] if strength is None else strength
    if cache == "pab":
        return PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=int(strength),
            spatial_attention_timestep_skip_range=(100, 800),
            current_timestep_callback=lambda: pipeline.current_timestep,
        )
    if cache == "first_block":
        return FirstBlockCacheConfig(threshold=strength)
    return TaylorSeerCacheConfig(
        cache_interval=int(strength),
        disable_cache_before_step=3,
        max_order=1,
        taylor_factors_dtype=pipeline.transformer.dtype,
        cache_identifiers=CACHED_PARTS,
    )


def set_scheduler(pipeline: HVG3DImageToVideoPipeline, name: str | None) -> None:
    """``ddim`` or ``dpm`` with trailing timesteps, in the noise schedule of the model's own; None: its own again."""
    own = getattr(pipeline, "_own_scheduler", pipeline.scheduler)
    pipeline._own_scheduler = own
    if name is None:
        pipeline.register_modules(scheduler=own)
        return
    pipeline.register_modules(scheduler=SCHEDULERS[name].from_config(own.config, timestep_spacing="trailing"))


def _set_attention_backend(transformer: nn.Module, name: str | None) -> None:
    if name is None:
        transformer.reset_attention_backend()
        return
    before, _ = _AttentionBackendRegistry.get_active_backend()
    try:
        transformer.set_attention_backend(name)
    except (ValueError, RuntimeError, ImportError, NotImplementedError) as error:
        raise ValueError(f"attention_backend {name!r}: {str(error).strip().splitlines()[0]}") from error
    finally:  # it also sets the default of every other model in this process, which outlasts a reset
        _AttentionBackendRegistry.set_active_backend(before)


def compile_blocks(transformer: nn.Module, *, finer: bool = False, **arguments: Any) -> None:
    """Compile the forward of every base and control block, beneath whatever hooks they have.

    diffusers' ``compile_repeated_blocks`` compiles hooks along with the block, which caches and offloading do not
    survive. All blocks share one compilation, for they differ in their weights alone. ``finer`` compiles norms,
    attention and feed-forward by themselves, for hooks that sit between them.
    """
    for block in transformer.modules():
        if isinstance(block, CogVideoXBlock):
            for part in (block.norm1, block.attn1, block.norm2, block.ff) if finer else (block,):
                _set_innermost(part, torch.compile(_plain_forward(part), fullgraph=True, **arguments))


def uncompile(transformer: nn.Module) -> None:
    """Undo :func:`compile_blocks`; compiled code stays in torch's cache for the next time."""
    for block in transformer.modules():
        if isinstance(block, CogVideoXBlock):
            for part in (block, block.norm1, block.attn1, block.norm2, block.ff):
                _set_innermost(part, None)


def _plain_forward(module: nn.Module) -> Callable[..., Any]:
    return type(module).forward.__get__(module)


def _set_innermost(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    """Put ``forward`` (None: the class's own) where the innermost of diffusers' hooks finds the module's."""
    registry = getattr(module, "_diffusers_hook", None)
    if registry is None or not registry._fn_refs:
        if forward is not None:
            module.forward = forward
        elif "forward" in module.__dict__:
            del module.forward
        return
    innermost = registry._fn_refs[0]
    chosen = forward or _plain_forward(module)
    if innermost.original_forward is not None:
        innermost.original_forward = chosen
    else:
        innermost.forward = chosen


def check_precision(precision: str, device: torch.device | str) -> str:
    """``auto`` made definite: bfloat16 weights on an accelerator, bfloat16 arithmetic on float32 weights on a CPU."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    return "autocast" if torch.device(device).type == "cpu" else "bf16"


def weights_dtype(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision == "bf16" else torch.float32


def arithmetic(precision: str, device: torch.device | str) -> AbstractContextManager[Any]:
    """The context that a video is made in."""
    return torch.autocast(torch.device(device).type, torch.bfloat16) if precision == "autocast" else nullcontext()
