# SPDX-License-Identifier: Apache-2.0
"""LPIPS (Zhang et al. 2018), version 0.1 on AlexNet, from the weights that torchvision and the lpips package publish.

The lpips package itself imports torchvision, which has no build beside every build of torch; a test holds this network
equal to it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .errors import EvaluationError
from .weights import find_linear_weights

# Convolutions of AlexNet: index in torchvision's ``features``, channels in and out, kernel, stride, padding, and
# whether a 3 x 3 maximum of stride 2 comes before.
LAYERS = (
    (0, 3, 64, 11, 4, 2, False),
    (3, 64, 192, 5, 1, 2, True),
    (6, 192, 384, 3, 1, 1, True),
    (8, 384, 256, 3, 1, 1, False),
    (10, 256, 256, 3, 1, 1, False),
)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's mean and deviation for inputs in [-1, 1]
SMALLEST = 35  # pixels a side: less does not reach the last convolution


class Lpips(nn.Module):
    """Distance of pairs of images N x 3 x H x W in [-1, 1]: N values."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, k, s, p) for _, a, b, k, s, p, _ in LAYERS)
        self.linear = nn.ParameterList(nn.Parameter(torch.ones(layer[2])) for layer in LAYERS)

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The five activations, each of unit length over its channels."""
        shift, scale = images.new_tensor(SHIFT), images.new_tensor(SCALE)
        x = (images - shift[:, None, None]) / scale[:, None, None]
        found = []
        for convolution, layer in zip(self.convolutions, LAYERS, strict=True):
            if layer[-1]:
                x = functional.max_pool2d(x, 3, 2)
            x = functional.relu(convolution(x))
            found.append(x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        total = first.new_zeros(len(first))
        for a, b, weight in zip(self.features(first), self.features(second), self.linear, strict=True):
            total = total + torch.einsum("nchw,c->nhw", (a - b) ** 2, weight).mean((1, 2))
        return total

    @torch.no_grad()
    def compare(self, generated: np.ndarray, truth: np.ndarray) -> float:
        """Mean over the frames of T x H x W x 3 uint8 videos; NaN where these are too small for the network."""
        if min(truth.shape[1:3]) < SMALLEST:
            return float("nan")
        device = next(self.parameters()).device
        pairs = [torch.tensor(v, device=device).movedim(-1, 1).float() / 127.5 - 1 for v in (generated, truth)]
        return float(torch.cat([self(a, b) for a, b in zip(*(p.split(8) for p in pairs), strict=True)]).mean())


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """A state dict from .safetensors or from a .pth that holds tensors only. Raises EvaluationError."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        return dict(state)
    except Exception as error:  # what is no weights file fails in many ways
        raise EvaluationError(f"{path}: not a readable file of weights ({error})") from None


def load_lpips(path: Path, device: str = "cpu") -> Lpips:
    """From AlexNet's weights in torchvision's names; see :func:`.weights.find_linear_weights` for the others."""
    linear = find_linear_weights(path)
    if linear is None:
        raise EvaluationError(
            f"{path}: LPIPS's linear weights are missing; put alex.pth of the lpips package beside it, or install it "
            "with pip install --no-deps lpips"
        )
    trunk, head = load_state(path), load_state(linear)
    network = Lpips()
    try:
        with torch.no_grad():
            for index, convolution in enumerate(network.convolutions):
                place = f"features.{LAYERS[index][0]}"
                convolution.weight.copy_(trunk[f"{place}.weight"])  # type: ignore[operator]
                convolution.bias.copy_(trunk[f"{place}.bias"])  # type: ignore[operator]
                network.linear[index].copy_(head[f"lin{index}.model.1.weight"].reshape(-1))
    except (KeyError, RuntimeError) as error:
        raise EvaluationError(
            f"{path} with {linear}: not the weights of AlexNet and its linear layers: {error}"
        ) from None
    return network.eval().to(device)
