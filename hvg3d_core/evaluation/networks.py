# SPDX-License-Identifier: Apache-2.0
"""The networks that the chosen metrics need, or why one cannot be had; a metric without its network has no number."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .catalogue import Metric
from .errors import EvaluationError
from .methods import fingerprint
from .weights import NETWORKS, WeightsPlaces, find_weights


@dataclass
class Loaded:
    """``network`` has ``compare`` (LPIPS, CLIP) or ``features``; ``mark`` changes with its weights."""

    network: Any
    path: Path
    mark: str


def _load(name: str, path: Path, device: str) -> Any:
    if name == "lpips":
        from .lpips import load_lpips

        return load_lpips(path, device)
    from .feature_networks import I3D, ClipImages, Inception

    return {"clip": ClipImages, "clip_fid": ClipImages, "inception": Inception, "i3d": I3D}[name](path, device)


def load_networks(
    metrics: Iterable[Metric], places: WeightsPlaces, device: str = "cpu"
) -> tuple[dict[str, Loaded], dict[str, str]]:
    """(networks by name, reasons by metric for those that cannot be computed).

    What a person named with NETWORK=PATH must load, or EvaluationError is raised; what was only looked for may fail.
    """
    loaded: dict[str, Loaded] = {}
    reasons: dict[str, str] = {}
    for metric in metrics:
        name = metric.network
        if not name or name in loaded:
            continue
        path = find_weights(name, places)
        if path is None:
            reasons[metric.key] = f"it needs {NETWORKS[name].what}: give --weights {name}=PATH, or a folder with it"
        elif importlib.util.find_spec("torch") is None:
            reasons[metric.key] = "it needs torch: pip install 'hvg3d[network]'"
        else:
            try:
                mark = fingerprint(path if path.is_dir() else path.parent) if path.is_dir() else _file_mark(path)
                loaded[name] = Loaded(_load(name, path, device), path, mark[:12])
            except EvaluationError as error:
                if name in places.given:
                    raise
                reasons[metric.key] = str(error)
    return loaded, reasons


def _file_mark(path: Path) -> str:
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
