# SPDX-License-Identifier: Apache-2.0
"""The full-size networks as data: each file is a diffusers ``config.json`` of :class:`HVG3DTransformer3DModel`.

``hvg3d-5b``: a copy of all 42 blocks of CogVideoX-5B-I2V, with the point cloud. ``das``: Diffusion as Shader, 18 copies
chained through their zero layers on the base's text tokens, without one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def transformer_config(name: str) -> dict[str, Any]:
    """For ``HVG3DTransformer3DModel.from_config``. Raises ValueError that names the ones there are."""
    if name not in NAMES:
        raise ValueError(f"configuration {name!r}: there are {', '.join(NAMES)}")
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
