# SPDX-License-Identifier: Apache-2.0
"""Where the weights of the metrics' networks lie. Nothing is ever fetched: a person gives a path or has them cached.

``--weights DIR`` is a folder with files or folders of the names in :data:`NETWORKS`; ``--weights NETWORK=PATH`` names
one network's file or folder itself. Without either, the caches of torch.hub and of the Hugging Face hub are looked at.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .errors import EvaluationError


@dataclass(frozen=True)
class Network:
    """``names``: what its file or folder is called in a folder of weights. ``hub``: the repository whose copy in the
    Hugging Face cache will do. ``what``: for a person who has to get it."""

    names: tuple[str, ...]
    what: str
    hub: str = ""


NETWORKS = {
    "lpips": Network(
        ("alexnet-owt-7be5be79.pth", "alexnet.pth", "alexnet.safetensors"),
        "torchvision's AlexNet weights (alexnet-owt-7be5be79.pth), and beside them or in an installed lpips package "
        "its linear weights (alex.pth)",
    ),
    "clip": Network(
        ("clip-vit-large-patch14",), "a folder of openai/clip-vit-large-patch14", "openai/clip-vit-large-patch14"
    ),
    "clip_fid": Network(
        ("clip-vit-base-patch32",), "a folder of openai/clip-vit-base-patch32", "openai/clip-vit-base-patch32"
    ),
    "inception": Network(
        ("inception-2015-12-05.pt",), "the TorchScript Inception of StyleGAN2-ADA (inception-2015-12-05.pt)"
    ),
    "i3d": Network(("i3d_torchscript.pt",), "the TorchScript I3D of StyleGAN-V (i3d_torchscript.pt)"),
}


@dataclass
class WeightsPlaces:
    """Folders to look in, and paths given for one network each."""

    folders: list[Path] = field(default_factory=list)
    given: dict[str, Path] = field(default_factory=dict)


def parse_weights(texts: Iterable[str]) -> WeightsPlaces:
    """Of ``DIR`` and ``NETWORK=PATH``. Raises EvaluationError for what is not there."""
    places = WeightsPlaces()
    for text in texts:
        name, equals, value = text.partition("=")
        if equals and name in NETWORKS:
            path = Path(value)
            if not path.exists():
                raise EvaluationError(f"--weights {text}: there is no {path}; {name} needs {NETWORKS[name].what}")
            places.given[name] = path
        elif Path(text).is_dir():
            places.folders.append(Path(text))
        else:
            raise EvaluationError(f"--weights {text}: neither a folder nor NETWORK=PATH with {', '.join(NETWORKS)}")
    return places


def find_weights(name: str, places: WeightsPlaces) -> Path | None:
    """The file or folder of a network, or None where it is not on this machine."""
    if name in places.given:
        return places.given[name]
    cache = Path(os.environ.get("TORCH_HOME", Path.home() / ".cache" / "torch")) / "hub" / "checkpoints"
    for folder in (*places.folders, cache):
        for candidate in NETWORKS[name].names:
            if (folder / candidate).exists():
                return folder / candidate
    return _in_hub_cache(NETWORKS[name].hub) if NETWORKS[name].hub else None


def _in_hub_cache(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def find_linear_weights(trunk: Path) -> Path | None:
    """LPIPS's ``alex.pth``: beside the AlexNet weights, or in an installed lpips package (which is not imported: it
    needs torchvision)."""
    for name in ("alex.pth", "lpips_alex.pth"):
        if (trunk.parent / name).is_file():
            return trunk.parent / name
    spec = importlib.util.find_spec("lpips")
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(place) / "weights" / "v0.1" / "alex.pth"
        if path.is_file():
            return path
    return None
