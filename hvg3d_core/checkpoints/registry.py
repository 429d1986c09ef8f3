# SPDX-License-Identifier: Apache-2.0
"""Which models there are and where they lie. Imports no torch: the server asks it too."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).parent / "nano"


class ModelError(ValueError):
    """A model that cannot be used. The message says which and what to do."""


@dataclass(frozen=True)
class ModelEntry:
    """What a person has to know of a model before using it."""

    id: str
    title: str
    licence: str
    summary: str
    width: int
    height: int
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    path: str  # "" where the weights are not on this machine
    bytes: int

    @property
    def installed(self) -> bool:
        return bool(self.path)


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def read_entry(folder: Path, model_id: str) -> ModelEntry:
    """A pipeline folder and the ``hvg3d.json`` in it that says how the model is to be run."""
    try:
        described = json.loads((folder / "hvg3d.json").read_text(encoding="utf-8"))
        return ModelEntry(id=model_id, path=str(folder), bytes=folder_bytes(folder), **described)
    except FileNotFoundError:
        raise ModelError(f"{folder}: no model there (hvg3d.json is missing)") from None
    except (json.JSONDecodeError, TypeError) as error:
        raise ModelError(f"{folder / 'hvg3d.json'}: {error}") from None


def find_model(name: str) -> ModelEntry:
    """``nano``, or the path of a pipeline folder. Raises ModelError that lists what there is."""
    if name == "nano":
        # A newly trained nano can be tried without touching the shipped one.
        return read_entry(Path(os.environ.get("HVG3D_NANO", SHIPPED)), "nano")
    folder = Path(name)
    if folder.is_dir():
        return read_entry(folder, folder.name)
    raise ModelError(
        f"model {name!r} is not known: use one of {', '.join(m['id'] for m in list_models())}, or a folder"
    )


def list_models() -> list[dict[str, Any]]:
    """All models as dictionaries, for the API and the command line."""
    entries = [find_model("nano")] if (Path(os.environ.get("HVG3D_NANO", SHIPPED)) / "hvg3d.json").exists() else []
    return [asdict(entry) | {"installed": entry.installed} for entry in entries]
