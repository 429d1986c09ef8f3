# SPDX-License-Identifier: Apache-2.0
"""Memory modes: the same video from less memory, at the price of time. What each one needs is in ``memory_needs.py``.

``MEMORY_MODES`` is ordered from the fastest to the smallest; each keeps what the one before it does.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.hooks import HookRegistry
from diffusers.hooks.group_offloading import (
    _GROUP_OFFLOADING,
    _LAYER_EXECUTION_TRACKER,
    _LAZY_PREFETCH_GROUP_OFFLOADING,
    LazyPrefetchGroupOffloadingHook,
)
from torch import Tensor, nn

if TYPE_CHECKING:
    from .pipeline_hvg3d import HVG3DImageToVideoPipeline


@dataclass(frozen=True)
class MemoryMode:
    name: str
    summary: str
    text_first: bool = False  # the text encoder is on the device only while it encodes, and nothing else is then
    vae_tiling: bool = False
    fp8: bool = False  # weights of the blocks are stored in 8 bits and widened layer by layer
    offload: bool = False  # blocks are in host memory and streamed to the device one ahead of their use


MODES: dict[str, MemoryMode] = {
    mode.name: mode
    for mode in (
        MemoryMode("resident", "everything stays on the device"),
        MemoryMode(
            "text_first",
            "the text encoder is on the device only while it encodes; the VAE works in tiles",
            text_first=True,
            vae_tiling=True,
        ),
        MemoryMode(
            "fp8",
            "also, the blocks' weights are stored in 8-bit floats (the result changes slightly)",
            text_first=True,
            vae_tiling=True,
            fp8=True,
        ),
        MemoryMode(
            "group_offload",
            "the text encoder and the VAE as in text_first; the blocks stay in host memory and are streamed in",
            text_first=True,
            vae_tiling=True,
            offload=True,
        ),
    )
}
MEMORY_MODES: tuple[str, ...] = tuple(MODES)
HEADROOM = 1.1  # of what is computed: the allocator's fragments and the kernels' workspaces
# The last is how oneDNN says on a CPU that it got no memory to work in.
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "could not create a primitive")
FP8 = torch.float8_e4m3fn


def check_mode(mode: str) -> str:
    if mode not in MODES:
        raise ValueError(f"memory_mode {mode!r} is not one of {', '.join(MEMORY_MODES)}")
    return mode


def next_mode(mode: str) -> str | None:
    """The mode to try when ``mode`` ran out of memory; None after the smallest."""
    index = MEMORY_MODES.index(check_mode(mode)) + 1
    return MEMORY_MODES[index] if index < len(MEMORY_MODES) else None


def free_bytes(device: torch.device | str) -> int | None:
    """Free memory of a CUDA device, with what this process has reserved but does not use; None for other devices."""
    device = torch.device(device)
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def choose_mode(free: int | None, needs: Mapping[str, int]) -> str:
    """The fastest mode whose need, with headroom, fits into ``free`` bytes; the smallest where none does. ``free`` is
    None for devices whose memory is the machine's own: there offloading to it would gain nothing."""
    if free is None:
        return MEMORY_MODES[0]
    return next((mode for mode in MEMORY_MODES if needs[mode] * HEADROOM <= free), MEMORY_MODES[-1])


class OutOfMemory(RuntimeError):
    """The device's memory was not enough. ``mode`` is the one that was used, ``next_mode`` the one to try, or None."""

    def __init__(self, mode: str, reason: str) -> None:
        self.mode, self.next_mode = mode, next_mode(mode)
        remedy = (
            f'use memory_mode "{self.next_mode}" ({MODES[self.next_mode].summary})'
            if self.next_mode
            else "this is the smallest mode: make fewer frames, or close other programs that use the same memory"
        )
        super().__init__(f'out of memory in memory_mode "{mode}": {remedy}. ({reason})')


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is an allocation that failed, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(phrase in text for phrase in OUT_OF_MEMORY)


@contextmanager
def memory_guard(mode: str) -> Iterator[None]:
    """Turns a failed allocation inside into :class:`OutOfMemory`, and gives the memory back first."""
    reason = None
    try:
        yield
    except OutOfMemory:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
    if reason is not None:  # outside of the except clause: the traceback, which holds the tensors, is gone
        release()
        raise OutOfMemory(mode, reason)


def release() -> None:
    """Give back what is no longer referred to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class MemoryState:
    """How one pipeline keeps its parts. Without a mode, as diffusers' own pipelines do: wherever they are."""

    def __init__(self) -> None:
        self.mode: MemoryMode | None = None
        self.device: torch.device | None = None  # where it computes; None: where the components are
        self._embeddings: dict[Any, tuple[Tensor, Tensor | None]] = {}

    def encode_prompt(self, pipeline: HVG3DImageToVideoPipeline, **arguments: Any) -> tuple[Tensor, Tensor | None]:
        """``pipeline.encode_prompt`` with the text encoder where it has to be, and the other parts out of its way.

        A prompt that was encoded before is remembered: another seed needs no text encoder.
        """
        given = arguments["prompt_embeds"] is not None and (
            arguments["negative_prompt_embeds"] is not None or not arguments["do_classifier_free_guidance"]
        )
        if self.mode is None or not self.mode.text_first or given:
            return pipeline.encode_prompt(**arguments)
        texts = {k: v for k, v in arguments.items() if k in ("prompt", "negative_prompt")}
        key = (repr(texts), arguments["do_classifier_free_guidance"], arguments["max_sequence_length"])
        if arguments["prompt_embeds"] is not None or arguments["negative_prompt_embeds"] is not None:
            key = None
        if key is None or key not in self._embeddings:
            self._place(pipeline, text=True)
            encoded = pipeline.encode_prompt(**arguments)
            if key is None:
                self._place(pipeline, text=False)
                return encoded
            self._embeddings = {key: tuple(x if x is None else x.cpu() for x in encoded)}
        self._place(pipeline, text=False)
        positive, negative = self._embeddings[key]
        return positive.to(self.device), None if negative is None else negative.to(self.device)

    def _place(self, pipeline: HVG3DImageToVideoPipeline, *, text: bool) -> None:
        """On the device: the text encoder alone, or everything but it."""
        host = torch.device("cpu")
        others: list[nn.Module] = [pipeline.vae]
        if self.mode is not None and not self.mode.offload:  # else the hooks move the transformer
            others.append(pipeline.transformer)
        encoder = [pipeline.text_encoder] if pipeline.text_encoder is not None else []
        leaving, entering = (others, encoder) if text else (encoder, others)
        for module in leaving:
            module.to(host)
        release()
        for module in entering:
            module.to(self.device)


def set_memory_mode(pipeline: HVG3DImageToVideoPipeline, mode: str, device: torch.device | str) -> None:
    """Arrange a freshly loaded pipeline, still in host memory, for ``device``. Weights that were stored in 8 bits
    do not come back: to go to another mode, load it again."""
    if pipeline.memory_state.mode is not None:
        raise ValueError(
            f'memory_mode: this pipeline is in mode "{pipeline.memory_state.mode.name}" already; load it again for '
            f'"{mode}"'
        )
    chosen = MODES[check_mode(mode)]
    state, device = pipeline.memory_state, torch.device(device)
    with memory_guard(mode):
        if chosen.vae_tiling:
            enable_vae_tiling(pipeline.vae)
        if chosen.fp8:
            transformer = pipeline.transformer
            transformer.enable_layerwise_casting(storage_dtype=FP8, compute_dtype=transformer.dtype)
        if chosen.offload:
            offload_blocks(pipeline.transformer, device)
        state.mode, state.device = chosen, device
        if not chosen.text_first:
            pipeline.to(device)
        elif pipeline.text_encoder is None:
            state._place(pipeline, text=False)


def enable_vae_tiling(vae: AutoencoderKLCogVideoX) -> None:
    """Tiles of about half the height and width that overlap by a quarter, with strides that are whole latent pixels.

    diffusers' default overlaps of 1/6 and 1/5 are whole only at sizes such as 480 x 720; elsewhere the tiles come
    back with a row or column too many.
    """
    size = (vae.config.sample_height, vae.config.sample_width)
    height, width = (max(32, 32 * round(n / 64)) for n in size)
    vae.enable_tiling(height, width, tile_overlap_factor_height=0.25, tile_overlap_factor_width=0.25)


def offload_blocks(transformer: nn.Module, device: torch.device) -> None:
    """Blocks, control blocks and zero convolutions in host memory, each fetched by a stream while the one before it
    computes (where the device has streams)."""
    transformer.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=device.type == "cuda",
        record_stream=device.type == "cuda",
        low_cpu_mem_usage=False,
    )


def retrace_prefetch(transformer: nn.Module) -> None:
    """Forget in which order the offloaded blocks were fetched, and learn it anew from the next forward pass.

    Otherwise, when the control branch is switched off for the remaining steps, each block would still fetch the copy
    that no longer runs, and the copies, never run, would never leave the device again.
    """
    registry = getattr(transformer, "_diffusers_hook", None)
    if registry is None or registry.get_hook(_GROUP_OFFLOADING) is None:
        return
    prefetching = False
    for module in transformer.modules():
        inner = getattr(module, "_diffusers_hook", None)
        hook = None if inner is None else inner.get_hook(_GROUP_OFFLOADING)
        if hook is None:
            continue
        prefetching = prefetching or hook.next_group is not None
        hook.next_group, hook.group.onload_self = None, True
        if module is not transformer:
            hook.group.offload_()
        if inner.get_hook(_LAYER_EXECUTION_TRACKER) is not None:
            prefetching = True
            inner.remove_hook(_LAYER_EXECUTION_TRACKER, recurse=False)
    if prefetching:
        registry.remove_hook(_LAZY_PREFETCH_GROUP_OFFLOADING, recurse=False)
        HookRegistry.check_if_exists_or_initialize(transformer).register_hook(
            LazyPrefetchGroupOffloadingHook(), _LAZY_PREFETCH_GROUP_OFFLOADING
        )
