# SPDX-License-Identifier: Apache-2.0
"""What is compared: models with their conditions on and off, the repeated reference frame, and videos of one's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__
from ..checkpoints.registry import ModelEntry, find_model
from .errors import EvaluationError
from .truths import Size

REPEAT, TRUTH = "repeat", "truth"  # the reference frame for ever; the true video itself
VAE = "vae"
# The switches of GenerationRequest, and the conditions that a model must have for the variant to differ from others.
VARIANTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "full": ({}, set()),
    "points": ({"use_tracking": False}, {"points", "tracking"}),
    "tracking": ({"use_points": False}, {"points", "tracking"}),
    "dropped": ({"use_tracking": False, "use_points": False}, set()),
    VAE: ({}, set()),  # no generation: the true video through the VAE and back, which no video of this model can beat
}
HASHED_BYTES = 1 << 29  # larger models are recognised by their files' sizes and times


@dataclass(frozen=True)
class Method:
    """One row of the tables. ``model`` and ``variant``, or ``folder`` with videos, or neither: :data:`REPEAT`."""

    label: str
    model: ModelEntry | None = None
    variant: str = "full"
    folder: Path | None = None
    key: str = ""  # of its cached videos
    request: dict[str, Any] = field(default_factory=dict)  # fields of GenerationRequest


def split_name(text: str) -> tuple[str, str]:
    """("NAME", "VALUE") of ``NAME=VALUE``; the name is the last part of the path where none is given."""
    name, equals, value = text.partition("=")
    if equals and name and value and "/" not in name:
        return name, value
    return Path(text).name or text, text


def fingerprint(folder: Path) -> str:
    """Changes where the model does."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    small = sum(path.stat().st_size for path in files) <= HASHED_BYTES
    total = hashlib.sha256()
    for path in files:
        stat = path.stat()
        total.update(f"{path.relative_to(folder).as_posix()} {stat.st_size}".encode())
        total.update(path.read_bytes() if small else str(stat.st_mtime_ns).encode())
    return total.hexdigest()


def model_methods(
    models: Iterable[str], variants: Iterable[str] | None, *, size: Size, seed: int, steps: int | None
) -> list[Method]:
    """A method for each model and variant; those that a model's conditions make senseless are left out.

    Without ``variants``: all of them for a single model, ``full`` for several. Raises EvaluationError, ModelError.
    """
    named = [split_name(text) for text in models]
    _check_distinct([name for name, _ in named])
    chosen = list(variants) if variants else list(VARIANTS) if len(named) == 1 else ["full"]
    for variant in chosen:
        if variant not in VARIANTS:
            raise EvaluationError(f"variant {variant!r} is not known: use {', '.join(VARIANTS)}")
    found = []
    for name, where in named:
        entry = find_model(where)
        mark = fingerprint(Path(entry.path))
        for variant in chosen:
            switches, needed = VARIANTS[variant]
            if not needed <= set(entry.conditions):
                continue
            request = {"seed": seed, "num_frames": size.num_frames, "num_inference_steps": steps, **switches}
            label = name if len(chosen) == 1 else f"{name}/{variant}"
            said = {"model": mark, "variant": variant, "request": request, "size": str(size), "hvg3d": __version__}
            key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]
            found.append(Method(label, entry, variant, key=key, request=request))
    return found


def folder_methods(folders: Iterable[str]) -> list[Method]:
    """A method for each folder of videos. Raises EvaluationError where it is none."""
    found = []
    for text in folders:
        name, where = split_name(text)
        if not Path(where).is_dir():
            raise EvaluationError(f"--videos {text}: there is no folder {where}")
        found.append(Method(name, folder=Path(where)))
    return found


def find_baseline(methods: list[Method], wanted: str | None) -> str:
    """The label of the method that the others are compared with; ``wanted`` may be a model's name alone."""
    labels = [method.label for method in methods]
    if wanted is None:
        return REPEAT
    for candidate in (wanted, f"{wanted}/full"):
        if candidate in labels:
            return candidate
    raise EvaluationError(f"--baseline {wanted!r} is none of what is compared: {', '.join(labels)}")


def check_labels(methods: list[Method]) -> None:
    """Raise EvaluationError where two methods would be one row."""
    _check_distinct([method.label for method in methods])


def _check_distinct(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1 or name == TRUTH:
            raise EvaluationError(f"{name!r} would name two rows: give one another name, as in --model OTHER=PATH")
