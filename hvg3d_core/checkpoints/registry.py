# SPDX-License-Identifier: Apache-2.0
"""Which models there are and where they lie. Imports no torch: the server asks it too.

A model is a pipeline folder with an ``hvg3d.json``: the nano's is part of the package, others lie in
:func:`models_home`. ``catalogue.toml`` says what can be fetched.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tomllib
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).parent / "nano"
ENTRY_FILE, INPUTS_FILE = "hvg3d.json", "hvg3d_inputs.json"


class ModelError(ValueError):
    """A model that cannot be used. The message says which and what to do."""


@dataclass(frozen=True)
class Licence:
    """What a person agrees to before weights are fetched."""

    name: str
    url: str
    terms: str


@dataclass(frozen=True)
class Source:
    """Where a catalogued model is fetched from, and what is made of it."""

    id: str
    repository: str
    revision: str
    files: tuple[str, ...]  # patterns
    convert: str  # "das" or "hvg3d" (a start for training, seeded from DaS); "" for a folder in our own layout
    licence: Licence
    described: dict[str, Any]  # the fields of ModelEntry that are known beforehand


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
    bytes: int  # on this machine; what is to be downloaded where they are not
    licence_url: str = ""
    conditions: list[str] = field(default_factory=lambda: ["points", "tracking"])
    dtype: str = "float32"  # that the weights are loaded in
    use_dynamic_cfg: bool = False
    memory: dict[str, int] = field(default_factory=dict)  # bytes of weights in memory, by way of running

    @property
    def installed(self) -> bool:
        return bool(self.path)


def models_home() -> Path:
    """Folder of the models that are not shipped: ``HVG3D_MODELS``, or the user's data folder."""
    chosen = os.environ.get("HVG3D_MODELS")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "hvg3d" / "models"


@cache
def catalogue() -> dict[str, Source]:
    """What can be fetched, by id."""
    data = tomllib.loads((Path(__file__).parent / "catalogue.toml").read_text(encoding="utf-8"))
    licences = {name: Licence(name=name, **said) for name, said in data["licences"].items()}
    sources = {}
    for model_id, model in data["models"].items():
        described = dict(model)
        where = {key: described.pop(key) for key in ("repository", "revision", "files", "convert")}
        where["files"] = tuple(where["files"])
        sources[model_id] = Source(id=model_id, licence=licences[described["licence"]], described=described, **where)
    return sources


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def weights_bytes(folder: Path, itemsize: int) -> int:
    """What the weights of a pipeline folder take in memory at ``itemsize`` bytes a number, by the files' headers."""
    count = 0
    for path in folder.rglob("*.safetensors"):
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        count += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return count * itemsize


def read_entry(folder: Path, model_id: str) -> ModelEntry:
    """A pipeline folder and the ``hvg3d.json`` in it that says how the model is to be run."""
    try:
        described = json.loads((folder / ENTRY_FILE).read_text(encoding="utf-8"))
        if not described.get("memory"):
            itemsize = 2 if described.get("dtype") in ("bfloat16", "float16") else 4
            described["memory"] = {"all resident": weights_bytes(folder, itemsize)}
        return ModelEntry(id=model_id, path=str(folder), bytes=folder_bytes(folder), **described)
    except FileNotFoundError:
        raise ModelError(f"{folder}: no model there ({ENTRY_FILE} is missing)") from None
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, MemoryError) as error:
        raise ModelError(f"{folder / ENTRY_FILE} or the weights beside it: {error!r}") from None


def nano_folder() -> Path:
    """The shipped nano; a newly trained one can be tried through ``HVG3D_NANO`` without touching it."""
    return Path(os.environ.get("HVG3D_NANO", SHIPPED))


def installed_folder(model_id: str) -> Path | None:
    """Where a model of that id lies, if it is here."""
    if not model_id or Path(model_id).name != model_id or model_id.startswith("."):
        return None
    folder = nano_folder() if model_id == "nano" else models_home() / model_id
    return folder if (folder / ENTRY_FILE).is_file() else None


def known_ids() -> list[str]:
    """The nano, what can be fetched, and what else lies in :func:`models_home`."""
    home = models_home()
    own = sorted(path.parent.name for path in home.glob(f"*/{ENTRY_FILE}")) if home.is_dir() else []
    return list(dict.fromkeys(["nano", *catalogue(), *(name for name in own if not name.startswith("."))]))


def find_model(name: str) -> ModelEntry:
    """An installed model's id, or the path of a pipeline folder. Raises ModelError that says what to do instead."""
    folder = installed_folder(name)
    if folder is not None:
        return read_entry(folder, name)
    if name in catalogue():
        raise ModelError(f"model {name!r} is not on this machine: run hvg3d models pull {name}")
    folder = Path(name)
    if folder.is_dir():
        return read_entry(folder, folder.name)
    raise ModelError(f"model {name!r} is not known: use one of {', '.join(known_ids())}, or a folder")


def list_entries() -> list[ModelEntry]:
    """Every model that is here or can be fetched. A folder that cannot be read counts as not being here."""
    entries = []
    for model_id in known_ids():
        folder, source = installed_folder(model_id), catalogue().get(model_id)
        try:
            if folder is not None:
                entries.append(read_entry(folder, model_id))
                continue
        except ModelError:
            pass
        if source is not None:
            entries.append(ModelEntry(id=model_id, path="", **source.described))
    return entries


def list_models() -> list[dict[str, Any]]:
    """All models as dictionaries, for the API and the command line."""
    return [asdict(entry) | {"installed": entry.installed} for entry in list_entries()]
