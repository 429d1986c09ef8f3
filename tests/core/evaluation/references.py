# SPDX-License-Identifier: Apache-2.0
"""The packages that define metrics, imported without torchvision, which has no build beside every build of torch.

Their own code runs, unchanged. What they import but do not need here is given an empty module; LPIPS's AlexNet, which
is torchvision's and not theirs, is written out below.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import nn


@contextmanager
def _modules(extra: dict[str, types.ModuleType]) -> Iterator[None]:
    kept = dict(sys.modules)
    sys.modules.update(extra)
    try:
        yield
    finally:
        for name in set(sys.modules) - set(kept):
            if name.split(".")[0] in {key.split(".")[0] for key in extra}:
                del sys.modules[name]


def _spec(package: str) -> Any:
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed: bootstrap.py test installs it")
    return spec


def piece(package: str, module: str) -> Any:
    """``package.module`` without running the package's own ``__init__``."""
    bare = types.ModuleType(package)
    bare.__path__ = list(_spec(package).submodule_search_locations)
    with _modules({package: bare}):
        return importlib.import_module(f"{package}.{module}")


def torchvision_alexnet(pretrained: bool = False) -> nn.Module:
    """The convolutional part of torchvision's AlexNet, in its layout: ``features.0`` to ``features.12``."""
    relu = lambda: nn.ReLU(inplace=True)  # noqa: E731
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2), relu(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), relu(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), relu(),
        nn.Conv2d(384, 256, 3, padding=1), relu(),
        nn.Conv2d(256, 256, 3, padding=1), relu(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    network = nn.Module()
    network.features = features
    return network


def lpips_package() -> Any:
    """The real lpips, whose torchvision is only asked for AlexNet."""
    _spec("lpips")
    vision, models = types.ModuleType("torchvision"), types.ModuleType("torchvision.models")
    vision.models, models.alexnet = models, torchvision_alexnet  # type: ignore[attr-defined]
    with _modules({"torchvision": vision, "torchvision.models": models}):
        return importlib.import_module("lpips")
