# SPDX-License-Identifier: Apache-2.0
"""Weights that are larger than memory: read one tensor at a time, written one shard at a time.

The layouts are diffusers': a file ``diffusion_pytorch_model.safetensors``, or several of them with an index beside.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .registry import ModelError

STEM = "diffusion_pytorch_model"
WRAPPERS = ("_orig_mod.", "module.")  # what torch.compile and DistributedDataParallel put before every name


class Weights:
    """Names to tensors of one network, read when asked for. Made by :func:`open_weights`."""

    def __init__(self, folder: Path, files: dict[str, Path]) -> None:
        self.folder = folder
        self._files: dict[str, Path] = {}
        self._names: dict[str, str] = {}
        self._handles: dict[Path, Any] = {}
        for name, file in files.items():
            plain = name
            while plain.startswith(WRAPPERS):
                plain = plain.partition(".")[2]
            self._files[plain], self._names[plain] = file, name

    def release(self) -> None:
        """Let go of the mapped files: what has been read of them counts as this process's memory until then."""
        self._handles.clear()

    def _handle(self, name: str) -> Any:
        file = self._files[name]
        if file not in self._handles:
            self._handles[file] = safe_open(file, framework="pt")
        return self._handles[file]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __len__(self) -> int:
        return len(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._handle(name).get_slice(self._names[name]).get_shape())

    def __getitem__(self, name: str) -> Tensor:
        return self._handle(name).get_tensor(self._names[name])


def weight_files(path: Path) -> dict[Path, list[str]]:
    """The safetensors files of a network, each with the names that an index says are in it, or none.

    ``path``: a pipeline folder (its ``transformer`` is meant), a network's folder, or one file.
    """
    if path.is_file():
        return {path: []}
    if (path / "transformer").is_dir():
        path = path / "transformer"
    if not path.is_dir():
        raise ModelError(f"{path}: no such folder or file")
    indices = sorted(path.glob("*.safetensors.index.json"))
    if len(indices) > 1:
        raise ModelError(f"{path}: several indices ({', '.join(i.name for i in indices)}); leave the one that is meant")
    if indices:
        try:
            weight_map: dict[str, str] = json.loads(indices[0].read_text(encoding="utf-8"))["weight_map"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ModelError(f"{indices[0]}: not an index of weights ({error!r})") from None
        files: dict[Path, list[str]] = {}
        for name, file in weight_map.items():
            files.setdefault(path / file, []).append(name)
        return files
    found = sorted(path.glob("*.safetensors"))
    if len(found) > 1:
        raise ModelError(f"{path}: {len(found)} safetensors files without an index; name the file that is meant")
    if not found:
        other = sorted(p.name for p in path.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        hint = f"; {other[0]} is a pickle, which is not read: save it as safetensors" if other else ""
        raise ModelError(f"{path}: no safetensors file{hint}")
    return {found[0]: []}


def open_weights(path: Path) -> Weights:
    """A network's weights for reading. Raises ModelError for what is missing, cut off or contradictory."""
    files: dict[str, Path] = {}
    found = weight_files(path)
    for file, listed in found.items():
        try:
            with safe_open(file, framework="pt") as handle:
                names = set(handle.keys())
        except FileNotFoundError:
            raise ModelError(f"{file}: missing, though the index names it; download it again") from None
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file}: cut off or not safetensors ({error}); download it again") from None
        absent = set(listed) - names
        if absent:
            raise ModelError(f"{file}: {sorted(absent)[0]} is not in it, though the index says so")
        files.update(dict.fromkeys(sorted(names), file))
    return Weights(next(iter(found)).parent, files)


class ShardWriter:
    """Write tensors as they come; not more than about one shard of them is kept in memory.

    Leaves ``diffusion_pytorch_model.safetensors``, or shards and an index where there is more than one.
    """

    def __init__(self, folder: Path, max_shard_bytes: int) -> None:
        self._folder, self._max = folder, max_shard_bytes
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._shards: list[list[str]] = []
        self.total_bytes = 0
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, tensor: Tensor) -> bool:
        """Whether a shard was written on the way, so that none of the tensors given before is kept any longer."""
        size = tensor.numel() * tensor.element_size()
        flushed = bool(self._pending) and self._pending_bytes + size > self._max
        if flushed:
            self._flush()
        self._pending[name] = tensor.contiguous()
        self._pending_bytes += size
        self.total_bytes += size
        return flushed

    def _part(self, index: int) -> Path:
        return self._folder / f"{STEM}-{index:05d}.part"

    def _flush(self) -> None:
        save_file(self._pending, self._part(len(self._shards)), metadata={"format": "pt"})
        self._shards.append(list(self._pending))
        self._pending, self._pending_bytes = {}, 0

    def close(self) -> None:
        """Write what is left, give the shards their names, and write the index."""
        if self._pending:
            self._flush()
        count = len(self._shards)
        weight_map: dict[str, str] = {}
        for i, names in enumerate(self._shards):
            file = f"{STEM}.safetensors" if count == 1 else f"{STEM}-{i + 1:05d}-of-{count:05d}.safetensors"
            self._part(i).replace(self._folder / file)
            weight_map.update(dict.fromkeys(names, file))
        if count > 1:
            index = {"metadata": {"total_size": self.total_bytes}, "weight_map": weight_map}
            text = json.dumps(index, indent=2, sort_keys=True) + "\n"
            (self._folder / f"{STEM}.safetensors.index.json").write_text(text, encoding="utf-8")


def as_stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """``tensor`` in ``dtype``, or in its own if None; float64 (diffusers' position table) becomes float32."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(dtype or (torch.float32 if tensor.dtype == torch.float64 else tensor.dtype))
