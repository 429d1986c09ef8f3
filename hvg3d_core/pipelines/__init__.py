# SPDX-License-Identifier: Apache-2.0
"""From an image, a prompt and 3D conditions to a video."""

from .acceleration import SpeedOptions, apply_speed_options
from .memory import MEMORY_MODES, OutOfMemory, next_mode, set_memory_mode
from .pipeline_hvg3d import HVG3DImageToVideoPipeline

__all__ = [
    "MEMORY_MODES",
    "HVG3DImageToVideoPipeline",
    "OutOfMemory",
    "SpeedOptions",
    "apply_speed_options",
    "next_mode",
    "set_memory_mode",
]
