# SPDX-License-Identifier: Apache-2.0
"""Clips and everything that makes one: sampling, cameras, visibility, masks, tracking video. numpy only."""

from .builder import ClipBuilder, Mesh
from .cameras import (
    NEAR,
    in_view,
    intrinsics_from_fov,
    invert_rigid,
    look_at,
    project,
    scale_intrinsics,
    to_camera,
)
from .clip import ROLES, SCHEMA_VERSION, Clip, ClipError, Entity, View
from .frames import check_frame_count, nearest_valid_frame_counts, resample_indices, valid_frame_count
from .io import clip_bytes, clip_from_bytes, load_clip, save_clip
from .network_inputs import Fit, NetworkInputs, fit_size, network_inputs
from .png import encode_png, png_size
from .rasterise import rasterise_ids
from .sampling import SurfaceBinding, balanced_quota, bind_surface
from .tracking_video import default_square, track_colors, tracking_video
from .validate import validate
from .visibility import point_visibility

__all__ = [
    "NEAR",
    "ROLES",
    "SCHEMA_VERSION",
    "Clip",
    "ClipBuilder",
    "ClipError",
    "Entity",
    "Fit",
    "Mesh",
    "NetworkInputs",
    "SurfaceBinding",
    "View",
    "balanced_quota",
    "bind_surface",
    "check_frame_count",
    "clip_bytes",
    "clip_from_bytes",
    "default_square",
    "encode_png",
    "fit_size",
    "in_view",
    "intrinsics_from_fov",
    "invert_rigid",
    "load_clip",
    "look_at",
    "nearest_valid_frame_counts",
    "network_inputs",
    "png_size",
    "point_visibility",
    "project",
    "rasterise_ids",
    "resample_indices",
    "save_clip",
    "scale_intrinsics",
    "to_camera",
    "track_colors",
    "tracking_video",
    "valid_frame_count",
    "validate",
]
