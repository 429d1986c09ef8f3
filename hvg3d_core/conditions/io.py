# SPDX-License-Identifier: Apache-2.0
"""Clips as files: one ``.safetensors`` each, readable anywhere, written whole or not at all.

Tensors carry the names of the Clip's fields, those of a view as ``views.0.K``. Masks are stored as deflated bytes and
references as PNG bytes, both as uint8 tensors. The metadata has ``hvg3d.schema`` (the version) and ``hvg3d.clip``
(everything that is not an array, as JSON).
"""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from . import safetensors
from .clip import SCHEMA_VERSION, Clip, ClipError, Entity, View
from .validate import check_size, validate

SCHEMA_KEY = "hvg3d.schema"
HEADER_KEY = "hvg3d.clip"
_REQUIRED = ("points", "point_entity", "tracks", "track_visible")
_OPTIONAL = ("joints", "object_poses", "contacts", "normals", "track_points")
_MAX_VIEWS = 64
_DEFLATE_RATIO = 1032  # deflate cannot pack tighter (zlib's technical notes)


def save_clip(clip: Clip, path: str | os.PathLike[str]) -> None:
    """Validate ``clip`` and write it to ``path``; a reader sees the old file or the new one, never a part."""
    parts = _encode(clip)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 would hide the clip from a server under another user
        os.replace(temporary, target)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def clip_bytes(clip: Clip) -> bytes:
    """What :func:`save_clip` writes, for an upload. The same clip gives the same bytes."""
    return b"".join(_encode(clip))


def load_clip(path: str | os.PathLike[str], *, memory_map: bool = False) -> Clip:
    """Read and validate a clip. Errors name the file, the field and what is wrong.

    With ``memory_map`` the arrays stay in the file (read-only, and the file stays open while they live).
    """
    name = os.fspath(path)
    try:
        mapped = memory_map and os.path.getsize(name) > 0  # an empty file cannot be mapped
        buffer: np.ndarray = np.memmap(name, np.uint8, mode="r") if mapped else np.fromfile(name, np.uint8)
    except OSError as error:
        raise ClipError(f"{name}: it cannot be read ({error.strerror or error})") from error
    return _decode(buffer, name)


def clip_from_bytes(data: bytes, name: str = "clip") -> Clip:
    """:func:`load_clip` of bytes in memory; ``name`` is what errors call them."""
    return _decode(np.frombuffer(data, np.uint8), name)


def _encode(clip: Clip) -> list[bytes]:
    validate(clip)
    tensors: dict[str, np.ndarray] = {name: getattr(clip, name) for name in _REQUIRED}
    tensors |= {name: getattr(clip, name) for name in _OPTIONAL if getattr(clip, name) is not None}
    for index, view in enumerate(clip.views):
        at = f"views.{index}."
        tensors[at + "K"] = view.K
        tensors[at + "world_to_camera"] = view.world_to_camera
        tensors[at + "point_visible"] = view.point_visible
        tensors[at + "masks"] = np.frombuffer(zlib.compress(view.masks.tobytes(), 4), np.uint8)
        tensors[at + "reference"] = np.frombuffer(view.reference, np.uint8)
    header = {
        "fps": float(clip.fps),
        "frame_range": [int(f) for f in clip.frame_range],
        "width": int(clip.width),
        "height": int(clip.height),
        "entities": [{"name": e.name, "role": e.role} for e in clip.entities],
        "views": [view.name for view in clip.views],
        "prompt": clip.prompt,
        "tracked": bool(clip.tracked),
        "provenance": clip.provenance,
    }
    try:
        text = json.dumps(header, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ClipError(f"provenance: JSON cannot hold it ({error}); use text, finite numbers, lists, maps") from None
    return safetensors.encode(tensors, {SCHEMA_KEY: str(SCHEMA_VERSION), HEADER_KEY: text})


def _decode(buffer: np.ndarray, name: str) -> Clip:
    try:
        tensors, metadata = safetensors.decode(buffer)
        clip = _assemble(tensors, read_header(metadata))
        validate(clip)
    except ClipError as error:
        raise ClipError(f"{name}: {error}") from None
    return clip


def read_header(metadata: dict[str, str]) -> dict[str, Any]:
    """All of a clip that is not an array, from a file's metadata; the version is checked, the fields are not."""
    version = metadata.get(SCHEMA_KEY)
    if version is None:
        raise ClipError(f"metadata {SCHEMA_KEY!r} is missing; this is a safetensors file, but no HVG-3D clip")
    if not (version.isascii() and version.isdigit()) or len(version) > 9 or int(version) < 1:
        raise ClipError(f"metadata {SCHEMA_KEY!r}: {version!r} is no schema version; the file is damaged")
    if int(version) > SCHEMA_VERSION:
        raise ClipError(
            f"it has schema version {version}, and this HVG-3D reads up to version {SCHEMA_VERSION};"
            " update HVG-3D to open it"
        )
    try:
        header = json.loads(metadata[HEADER_KEY])
    except (KeyError, ValueError, RecursionError) as error:
        raise ClipError(f"metadata {HEADER_KEY!r} is missing or not JSON ({error}); the file is damaged") from None
    if not isinstance(header, dict):
        raise ClipError(f"metadata {HEADER_KEY!r} is not a JSON object; the file is damaged")
    return header


def _assemble(tensors: dict[str, np.ndarray], header: dict[str, Any]) -> Clip:
    def field(name: str, kind: type | tuple[type, ...]) -> Any:
        if name not in header:
            raise ClipError(f"{name}: it is missing from the header; the file is damaged")
        value = header[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ClipError(f"{name}: {value!r} in the header has the wrong type; the file is damaged")
        return value

    def tensor(name: str) -> np.ndarray:
        if name not in tensors:
            raise ClipError(f"{name}: the tensor is missing; the file is damaged or made by other software")
        return tensors[name]

    entities = []
    for entry in field("entities", list):
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("name", "role")):
            raise ClipError(f"entities: {entry!r} in the header is not a name and a role; the file is damaged")
        entities.append(Entity(entry["name"], entry["role"]))
    width, height, frame_range = field("width", int), field("height", int), field("frame_range", list)
    check_size(width, height)
    if len(frame_range) != 2 or not all(type(f) is int for f in frame_range):
        raise ClipError(f"frame_range: {frame_range!r} in the header is not two whole numbers; the file is damaged")
    points = tensor("points")
    view_names = field("views", list)
    if not 1 <= len(view_names) <= _MAX_VIEWS:
        raise ClipError(f"views: {len(view_names)} in the header; 1 to {_MAX_VIEWS} are possible")
    views = []
    for index, view_name in enumerate(view_names):
        at = f"views.{index}."
        reference = tensor(at + "reference")
        masks = _inflate(tensor(at + "masks"), (len(points) if points.ndim else 0, height, width), at + "masks")
        K, w2c, visible = (tensor(at + part) for part in ("K", "world_to_camera", "point_visible"))
        views.append(View(view_name, K, w2c, visible, masks, reference.tobytes()))
    return Clip(
        **{name: tensor(name) for name in _REQUIRED},
        views=views,
        entities=tuple(entities),
        fps=field("fps", (int, float)),
        frame_range=(frame_range[0], frame_range[1]),
        width=width,
        height=height,
        prompt=field("prompt", str),
        tracked=field("tracked", bool),
        provenance=field("provenance", dict),
        **{name: tensors[name] for name in _OPTIONAL if name in tensors},
    )


def _inflate(packed: np.ndarray, shape: tuple[int, int, int], name: str) -> np.ndarray:
    """T x H x W uint8 from deflated bytes that must hold exactly that many."""
    size = shape[0] * shape[1] * shape[2]
    if packed.dtype != np.uint8 or size > packed.size * _DEFLATE_RATIO:
        raise ClipError(f"{name}: {packed.size} {packed.dtype} cannot hold masks of {shape}; the file is damaged")
    inflater = zlib.decompressobj()
    try:
        # One byte more than needed, to see that there is none; more than that is never made.
        data = inflater.decompress(packed.tobytes(), size + 1)
    except zlib.error as error:
        raise ClipError(f"{name}: they cannot be decompressed ({error}); the file is damaged") from None
    if len(data) != size or not inflater.eof or inflater.unused_data:
        raise ClipError(f"{name}: they do not hold exactly {shape} (frames, height, width); the file is damaged")
    return np.frombuffer(data, np.uint8).reshape(shape)
