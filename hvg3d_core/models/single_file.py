# SPDX-License-Identifier: Apache-2.0
"""A transformer as one safetensors file that carries its configuration, for passing a network on by itself.

Folders, with one file of weights or several and an index, are diffusers' own ``save_pretrained`` and
``from_pretrained``.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .transformer import HVG3DTransformer3DModel

METADATA_KEY = "hvg3d_config"  # the file's metadata holds the config.json under this name


def save_single_file(model: HVG3DTransformer3DModel, path: str | Path) -> None:
    """Write weights and configuration to ``path``, whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, partial, metadata={"format": "pt", METADATA_KEY: model.to_json_string()})
    partial.replace(path)


def load_single_file(
    path: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> HVG3DTransformer3DModel:
    """Read what :func:`save_single_file` wrote, tensor by tensor. Raises ValueError naming the file and what is wrong.

    dtype: of all floating-point weights; as in the file if None.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            described = (file.metadata() or {}).get(METADATA_KEY)
            if described is None:
                raise ValueError(f"{path}: no configuration in this file; load the folder it is from instead")
            with init_empty_weights(include_buffers=False):
                model = HVG3DTransformer3DModel.from_config(json.loads(described))
            wanted, found = set(model.state_dict()), set(file.keys())
            if wanted != found:
                raise ValueError(
                    f"{path}: {len(wanted - found)} weights are missing, {len(found - wanted)} unknown, "
                    f"first of all {sorted(wanted ^ found)[0]}"
                )
            state = {}
            for name in sorted(wanted):
                tensor = file.get_tensor(name)
                state[name] = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from None
    model.load_state_dict(state, assign=True)
    return model.eval()
