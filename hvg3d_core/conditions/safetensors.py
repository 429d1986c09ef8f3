# SPDX-License-Identifier: Apache-2.0
"""Reader and writer of the safetensors format, for places that have numpy and nothing else (Blender).

The format (https://github.com/huggingface/safetensors#format): 8 bytes little-endian length of the header, the header
as JSON ({name: {dtype, shape, data_offsets}, "__metadata__": {text: text}}), then the data without a gap.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from .clip import ClipError

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "I64": np.dtype("<i8"), "U64": np.dtype("<u8"),
    "F32": np.dtype("<f4"), "I32": np.dtype("<i4"), "U32": np.dtype("<u4"),
    "F16": np.dtype("<f2"), "I16": np.dtype("<i2"), "U16": np.dtype("<u2"),
    "I8": np.dtype("i1"), "U8": np.dtype("u1"), "BOOL": np.dtype("bool"),
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER = 100_000_000  # the reference implementation's limit


def encode(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> list[bytes]:
    """The file as parts to be written one after the other. Wide types first, so that all data is aligned."""
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    data: list[bytes] = []
    position = 0
    for name in names:
        array = np.ascontiguousarray(tensors[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if array.dtype not in _NAMES:
            raise ClipError(f"{name}: dtype {array.dtype} cannot be stored")
        end = position + array.nbytes
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _NAMES[array.dtype], "shape": shape, "data_offsets": [position, end]}
        data.append(array.tobytes())
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [struct.pack("<Q", len(text)), text, *data]


def decode(buffer: np.ndarray, max_header: int = MAX_HEADER) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a file's bytes (1-D uint8). The tensors are views into ``buffer``: nothing is copied.

    Whatever the bytes claim, no memory is taken beyond the header's own text.
    """
    size = len(buffer)
    if size < 8:
        raise ClipError(f"it has {size} bytes, too few for a safetensors file; it is cut off or something else")
    length = int(buffer[:8].view("<u8")[0])
    if max_header < length <= size - 8:
        raise ClipError(f"its header has {length:,} bytes, up to {max_header:,} are read; it is no clip, or damaged")
    if length > size - 8:
        raise ClipError(f"its header claims {length} bytes but {size - 8} follow; it is cut off or no safetensors file")
    try:
        header = json.loads(buffer[8 : 8 + length].tobytes())
    except (ValueError, RecursionError) as error:
        raise ClipError(f"its header is not JSON ({error}); it is damaged or no safetensors file") from None
    if not isinstance(header, dict):
        raise ClipError("its header is not a JSON object; it is damaged or no safetensors file")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ClipError("its __metadata__ is not a map from text to text; it is damaged")
    data = buffer[8 + length :]
    tensors, spans = {}, []
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(name, entry, len(data))
        tensors[name] = data[begin:end].view(dtype).reshape(shape)
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise ClipError(f"its tensors leave a gap or overlap at data byte {min(begin, position)}; it is damaged")
        position = end
    if position != len(data):
        raise ClipError(f"its tensors take {position} bytes of data but {len(data)} follow; it is damaged")
    return tensors, metadata


def _counts(value: Any) -> TypeGuard[list[int]]:
    """True for a short list of whole numbers from 0 that fit 64 bits."""
    return isinstance(value, list) and len(value) <= 8 and all(type(v) is int and 0 <= v < 2**63 for v in value)


def _entry(name: str, entry: Any, available: int) -> tuple[np.dtype[Any], list[int], int, int]:
    if not isinstance(entry, dict):
        raise ClipError(f"tensor {name!r} has no description; the file is damaged")
    kind, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(kind, str) or kind not in DTYPES:
        raise ClipError(f"tensor {name!r} has dtype {kind!r}, which clips do not use")
    if not _counts(shape) or not _counts(offsets):
        raise ClipError(f"tensor {name!r} has shape {shape!r} and data_offsets {offsets!r}; the file is damaged")
    if len(offsets) != 2 or not offsets[0] <= offsets[1] <= available:
        raise ClipError(f"tensor {name!r} has offsets {offsets} in {available} bytes; the file is cut off or damaged")
    wanted = math.prod(shape) * DTYPES[kind].itemsize
    if wanted != offsets[1] - offsets[0]:
        raise ClipError(
            f"tensor {name!r} of shape {shape} needs {wanted} bytes but has {offsets[1] - offsets[0]};"
            " the file is damaged"
        )
    return DTYPES[kind], shape, offsets[0], offsets[1]
