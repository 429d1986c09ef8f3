# SPDX-License-Identifier: Apache-2.0
"""Prompts as the network reads them, computed once and memory-mapped: the text encoder is not in memory in training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

CHUNK = 64  # prompts a file, and a call of the encoder


def tokenize(tokenizer: Any, prompts: list[str], length: int) -> Tensor:
    return tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


def fingerprint(folder: Path, length: int) -> str:
    """Changes when the text encoder of a pipeline does. Its files' sizes and times stand for 10 GB of weights."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return json.dumps([length, *([f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files)])


class PromptEmbeddings:
    """Embeddings by prompt, each L x D, in ``folder/prompts_*.safetensors``."""

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder, self.identity = folder, identity
        self._where: dict[str, tuple[Any, int]] = {}
        for path in self._paths():
            file = safe_open(path, "pt")
            metadata = file.metadata()
            if metadata["encoder"] == identity:
                self._where |= {prompt: (file, i) for i, prompt in enumerate(json.loads(metadata["prompts"]))}

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("prompts_*.safetensors"))

    def missing(self, prompts: Iterable[str]) -> list[str]:
        return [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._where]

    def __getitem__(self, prompt: str) -> Tensor:
        file, row = self._where[prompt]
        return file.get_slice("embeds")[row]

    def rows(self, prompts: Iterable[str]) -> Tensor:
        return torch.stack([self[prompt] for prompt in prompts])

    @torch.no_grad()
    def add(self, prompts: Iterable[str], embed: Callable[[list[str]], Tensor]) -> PromptEmbeddings:
        """Write what is missing, and return all there is then. ``embed``: prompts to B x L x D."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = self.missing(prompts)
        if not self._where:  # those of another encoder
            for path in self._paths():
                path.unlink()
        first = len(self._paths())
        for number, start in enumerate(range(0, len(missing), CHUNK)):
            part = missing[start : start + CHUNK]
            path = self.folder / f"prompts_{first + number:05d}.safetensors"
            partial = path.with_suffix(".partial")
            metadata = {"prompts": json.dumps(part), "encoder": self.identity}
            save_file({"embeds": embed(part).contiguous().cpu()}, partial, metadata)
            partial.replace(path)
        return PromptEmbeddings(self.folder, self.identity)
