# SPDX-License-Identifier: Apache-2.0
"""The network: point-cloud encoder, resamplers to the latent grid, and CogVideoX with the HVG-3D control branch."""

from .point_encoder import PointCloudEncoder
from .resamplers import InterpolateResampler, RayAttentionResampler
from .transformer import HVG3DTransformer3DModel

__all__ = ["HVG3DTransformer3DModel", "InterpolateResampler", "PointCloudEncoder", "RayAttentionResampler"]
