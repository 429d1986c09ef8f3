# SPDX-License-Identifier: Apache-2.0
"""How much device memory each memory mode needs, computed from a pipeline folder's configurations alone.

Networks are built, and run once, on fake tensors: these have shapes, types and lifetimes but no contents, so that
the peak of a 5B model is known in seconds on a laptop, and without its weights. Of the transformer one layer is run;
the others need the same again, after it has let go of its own.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import T5Config, T5EncoderModel

from ..models import HVG3DTransformer3DModel
from .memory import FP8, MODES, MemoryMode, enable_vae_tiling

BLOCKS = ("transformer_blocks", "control_blocks", "zero")  # what is offloaded


class PeakBytes(TorchDispatchMode):
    """The most bytes that storages made inside of it took together. Works on real and on fake tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {_storage(x)._cdata for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)}
        for x in tree_iter(result):
            if isinstance(x, Tensor):
                storage = _storage(x)
                if storage._cdata not in self._seen and storage._cdata not in known:
                    self._track(storage)
        return result

    def _track(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone() -> None:
            self._seen.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)


def _storage(x: Tensor) -> torch.UntypedStorage:
    return x.untyped_storage()


def peak_activations(run: Callable[[], Any]) -> int:
    """Bytes that ``run()`` needs beside what exists already, its result included."""
    with torch.no_grad(), PeakBytes() as tracker:
        result = run()
    del result
    return tracker.peak


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of parameters and of buffers that are saved; what has two names counts once."""
    distinct = {id(x): x for x in module.state_dict(keep_vars=True).values()}
    return sum(x.numel() * x.element_size() for x in distinct.values())


@dataclass(frozen=True)
class Needs:
    """Bytes. ``blocks`` is what of ``transformer`` lies in blocks, ``block`` the greatest of them, ``fp8_saves`` what
    storage in 8 bits saves; then the activations of each phase."""

    text_encoder: int
    transformer: int
    blocks: int
    block: int
    fp8_saves: int
    vae: int
    encode_text: int
    encode_video: int
    denoise: int
    decode: int
    encode_video_tiled: int
    decode_tiled: int

    def peak(self, mode: MemoryMode) -> int:
        """The most bytes on the device at one time in ``mode``."""
        transformer = self.transformer
        if mode.fp8:
            transformer -= self.fp8_saves
        if mode.offload:  # the block that computes, the one that is on its way, and the copy beside it
            transformer += 3 * self.block - self.blocks
        vae_phase = (
            max(self.encode_video_tiled, self.decode_tiled) if mode.vae_tiling else max(self.encode_video, self.decode)
        )
        others = transformer + self.vae + max(self.denoise, vae_phase)
        if mode.text_first:
            return max(self.text_encoder + self.encode_text, others)
        return self.text_encoder + transformer + self.vae + max(self.encode_text, self.denoise, vae_phase)


def transformer_bytes(config: dict[str, Any], dtype: torch.dtype) -> dict[str, int]:
    """``transformer``, ``blocks``, ``block`` and ``fp8_saves`` of :class:`Needs`, from a model on the meta device."""
    with init_empty_weights(include_buffers=True):
        model = HVG3DTransformer3DModel.from_config(config)
    model = model.to(dtype)
    whole = parameter_bytes(model)
    blocks = {name: [parameter_bytes(block) for block in getattr(model, name)] for name in BLOCKS}
    model.enable_layerwise_casting(storage_dtype=FP8, compute_dtype=dtype)
    return {
        "transformer": whole,
        "blocks": sum(map(sum, blocks.values())),
        "block": max(map(max, blocks.values())),
        "fp8_saves": whole - parameter_bytes(model),
    }


def compute_needs(
    transformer: dict[str, Any],
    vae: dict[str, Any],
    text_encoder: dict[str, Any] | None,
    dtype: torch.dtype = torch.bfloat16,
    *,
    num_frames: int | None = None,
    guided: bool = True,
) -> Needs:
    """From the three configurations; ``num_frames`` is the model's own by default, ``guided`` doubles the batch."""
    num_frames = num_frames or transformer["sample_frames"]
    text = _text_needs(text_encoder, transformer["max_text_seq_length"], dtype) if text_encoder is not None else (0, 0)
    return Needs(
        text_encoder=text[0],
        encode_text=text[1],
        denoise=_denoising_activations(transformer, num_frames, 2 if guided else 1, dtype),
        **_vae_needs(vae, num_frames, transformer["sample_height"], transformer["sample_width"], dtype),
        **transformer_bytes(transformer, dtype),
    )


@contextmanager
def _fake(dtype: torch.dtype) -> Iterator[None]:
    """Tensors made here are fake, and of ``dtype`` unless they ask for another."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with FakeTensorMode():
            yield
    finally:
        torch.set_default_dtype(before)


def _text_needs(config: dict[str, Any], num_tokens: int, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes of weights and of activations."""
    with _fake(dtype):
        encoder = T5EncoderModel(T5Config(**{k: v for k, v in config.items() if k != "dtype"})).eval()
        tokens = torch.zeros(1, num_tokens, dtype=torch.int64)
        return parameter_bytes(encoder), peak_activations(lambda: encoder(tokens)[0])


def _denoising_activations(config: dict[str, Any], num_frames: int, batch: int, dtype: torch.dtype) -> int:
    """Of one step with both branches; one layer of each tells the peak."""
    with _fake(dtype):
        network = HVG3DTransformer3DModel.from_config(dict(config) | {"num_layers": 1, "num_control_blocks": 1}).eval()
        config = network.config
        frames = (num_frames - 1) // config.temporal_compression_ratio + 1
        latents = torch.empty(batch, frames, config.in_channels, config.sample_height, config.sample_width)
        arguments = {
            "hidden_states": latents,
            "encoder_hidden_states": torch.empty(batch, config.max_text_seq_length, config.text_embed_dim),
            "timestep": torch.zeros(batch, dtype=torch.int64),
            "tracking_latents": torch.empty_like(latents),
        }
        if config.use_rotary_positional_embeddings:
            tokens = frames * (config.sample_height // config.patch_size) * (config.sample_width // config.patch_size)
            table = torch.empty(tokens, config.attention_head_dim, dtype=torch.float32)
            arguments["image_rotary_emb"] = (table, table)
        return peak_activations(lambda: network(**arguments))


def _vae_needs(config: dict[str, Any], num_frames: int, height: int, width: int, dtype: torch.dtype) -> dict[str, int]:
    """Of a video whose latents are ``height`` x ``width``."""
    with _fake(dtype):
        vae = AutoencoderKLCogVideoX.from_config(config).eval()
        scale = 2 ** (len(vae.config.block_out_channels) - 1)
        frames = (num_frames - 1) // int(vae.config.temporal_compression_ratio) + 1
        video = torch.empty(1, 3, num_frames, height * scale, width * scale)
        code = torch.empty(1, vae.config.latent_channels, frames, height, width)
        needs = {"vae": parameter_bytes(vae)}
        for suffix in ("", "_tiled"):
            if suffix:
                enable_vae_tiling(vae)
            needs[f"encode_video{suffix}"] = peak_activations(lambda: vae.encode(video).latent_dist.mode())
            needs[f"decode{suffix}"] = peak_activations(lambda: vae.decode(code).sample)
        return needs


def read_configs(folder: str | Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]:
    """Transformer's, VAE's and text encoder's configurations of a pipeline folder."""
    folder = Path(folder)
    transformer, vae, text = (folder / part / "config.json" for part in ("transformer", "vae", "text_encoder"))
    read = lambda path: json.loads(path.read_text(encoding="utf-8"))  # noqa: E731
    return read(transformer), read(vae), read(text) if text.is_file() else None


def memory_needs(folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> dict[str, int]:
    """Peak bytes on the device by mode, for the model in ``folder`` at its own size."""
    needs = compute_needs(*read_configs(folder), dtype)
    return {name: needs.peak(mode) for name, mode in MODES.items()}
