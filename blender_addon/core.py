# SPDX-License-Identifier: GPL-3.0-or-later
"""The only door to ``hvg3d_core.conditions``.

The built extension carries a copy of it inside its own package (an extension may neither edit ``sys.path`` nor install
anything); a checkout uses the library beside it.
"""

from __future__ import annotations

try:
    from .hvg3d_core import conditions
except ModuleNotFoundError as missing:
    if missing.name != f"{__package__}.hvg3d_core":
        raise
    from hvg3d_core import conditions  # type: ignore[no-redef]

ROLES = conditions.ROLES
SCHEMA_VERSION = conditions.SCHEMA_VERSION
Clip = conditions.Clip
ClipBuilder = conditions.ClipBuilder
ClipError = conditions.ClipError
Entity = conditions.Entity
Mesh = conditions.Mesh
View = conditions.View
check_frame_count = conditions.check_frame_count
clip_bytes = conditions.clip_bytes
encode_png = conditions.encode_png
load_clip = conditions.load_clip
nearest_valid_frame_counts = conditions.nearest_valid_frame_counts
save_clip = conditions.save_clip
valid_frame_count = conditions.valid_frame_count

__all__ = [
    "ROLES",
    "SCHEMA_VERSION",
    "Clip",
    "ClipBuilder",
    "ClipError",
    "Entity",
    "Mesh",
    "View",
    "check_frame_count",
    "clip_bytes",
    "encode_png",
    "load_clip",
    "nearest_valid_frame_counts",
    "save_clip",
    "valid_frame_count",
]
