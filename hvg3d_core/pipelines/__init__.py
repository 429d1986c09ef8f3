# SPDX-License-Identifier: Apache-2.0
"""From an image, a prompt and 3D conditions to a video."""

from .pipeline_hvg3d import HVG3DImageToVideoPipeline

__all__ = ["HVG3DImageToVideoPipeline"]
