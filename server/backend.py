# SPDX-License-Identifier: Apache-2.0
"""What a worker generates with, behind a protocol of four calls.

``--backend module[:factory]`` names another one. Its module has

- ``list_models() -> list[dict]`` (id, title, licence, bytes, installed ...) and ``find_model(name) -> dict``, the same
  of one id or folder, or ValueError; the server calls both, so they must not import torch;
- if it can do with less memory, ``memory_ladder() -> list[list[str]]``: lists of mode names, from all in memory (an
  empty list) to the smallest. A job that runs out of memory is started again on the next rung;
- the factory (``create`` unless named), called in the worker, without arguments; it returns a :class:`Backend`.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

OnProgress = Callable[[str, int, int, np.ndarray | None], None]
"""(phase, steps over, steps in all, preview H x W x 3 uint8 or None); phases as in :data:`server.progress.PHASES`."""


class Result(Protocol):
    frames: np.ndarray  # T x H x W x 3 uint8
    fps: float


class Backend(Protocol):
    def load_clip(self, path: Path) -> Any:
        """Raises ClipError with a message for the user."""

    def load_model(self, name: str, memory: Sequence[str]) -> Any:
        """``name`` is an id from ``list_models`` or a folder that the operator named; ``memory`` its memory modes."""

    def generate(
        self,
        model: Any,
        clip: Any,
        request: Mapping[str, Any],
        on_progress: OnProgress,
        should_cancel: Callable[[], bool],
    ) -> Result:
        """``request``: the fields of :class:`server.schemas.GenerationRequest` without clip and memory.

        Once ``should_cancel()`` is true it raises, any exception, within one step.
        """

    def write_result(self, result: Result, folder: Path) -> None:
        """Write video.mp4 and metadata.json."""


class CoreBackend:
    """The HVG-3D network. torch comes in with the first model, so a broken clip fails without waiting for it."""

    def load_clip(self, path: Path) -> Any:
        from hvg3d_core.conditions import clip_from_bytes

        name = f"clip {path.stem[:12]}"  # messages need not name our folders
        clip = clip_from_bytes(path.read_bytes(), name)
        for index, view in enumerate(clip.views):
            _check_picture(view.reference, f"{name}: views[{index}].reference")
        return clip

    def load_model(self, name: str, memory: Sequence[str]) -> Any:
        from hvg3d_core import generate

        return generate.load_model(name, memory_mode=memory[0] if memory else "auto")

    def generate(
        self,
        model: Any,
        clip: Any,
        request: Mapping[str, Any],
        on_progress: OnProgress,
        should_cancel: Callable[[], bool],
    ) -> Result:
        from hvg3d_core import generate

        return generate.generate(
            model, clip, generate.GenerationRequest(**request), on_progress=on_progress, should_cancel=should_cancel
        )

    def write_result(self, result: Any, folder: Path) -> None:
        from hvg3d_core import generate

        generate.write_result(result, folder)


def _check_picture(png: bytes, name: str) -> None:
    """Raise ClipError unless the picture can be decoded: now, not in the middle of a generation."""
    from PIL import Image

    from hvg3d_core.conditions import ClipError

    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they like: SyntaxError, struct.error, zlib.error ...
        raise ClipError(f"{name}: the PNG cannot be decoded ({error}); export the clip again") from None


def create() -> Backend:
    return CoreBackend()


def memory_ladder() -> list[list[str]]:
    """``hvg3d_core.pipelines.MEMORY_MODES``, which cannot be asked without torch; first what fits by calculation."""
    return [[], ["text_first"], ["fp8"], ["group_offload"]]


def list_models() -> list[dict[str, Any]]:
    from hvg3d_core.checkpoints import registry

    return registry.list_models()


def find_model(name: str) -> dict[str, Any]:
    from hvg3d_core.checkpoints import registry

    entry = registry.find_model(name)
    return {**asdict(entry), "installed": entry.installed}


def split_spec(spec: str) -> tuple[ModuleType, str]:
    """Import the module of ``module[:factory]``; the factory's name comes back beside it."""
    module, _, factory = spec.partition(":")
    return importlib.import_module(module), factory or "create"
