# SPDX-License-Identifier: Apache-2.0
"""``clip_fuzzer.py SEED COUNT FOLDER``: broken clips through what a worker does with a clip, in limited memory.

Prints one line of JSON: how many were taken and refused, and what went wrong otherwise. The process has MARGIN of
address space beyond what it has once everything is imported, so an allocation that a limit should have prevented is a
MemoryError here.
"""

from __future__ import annotations

import copy
import json
import pickle
import random
import resource
import struct
import sys
import time
import traceback
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image  # imported before the limit is set

sys.path.insert(0, str(Path(__file__).parents[2]))

from hvg3d_core.conditions import Clip, ClipError, clip_bytes, clip_from_bytes, safetensors
from hvg3d_core.conditions.limits import ClipLimits, ClipTooLarge, check_limits
from server.backend import CoreBackend
from tests.server.serverkit import tiny_clip

LIMITS = ClipLimits(200, 5000, 5000, 512 * 512, 64 * 2**20)
MARGIN = 224 * 2**20  # the limit on a clip, the copies that reading makes of it, and room for the allocators
NASTY = (
    0, -1, 1, 2, 3, 7, 8, 255, 256, 65536, 2**31, 2**32, 2**53, 2**63, 2**64, 10**30, -(2**63), 0.0, -0.5, 1e308,
    float("inf"), float("nan"), None, True, False, "", "x", "F32", "BOOL", "I64", "U8", "BF16", "0", "1", "99", "-1",
    "\ud800", "\x00", "../../etc/passwd", "a" * 5000, [], [0], [0, 0], [1, 2, 3], [[]], {}, {"a": 1}, [None],
    [True, True], [2**62, 2], [2**32, 2**32], [0, 2**63], [5, 1],
)  # fmt: skip
SHAPES = (
    lambda a: a[:0],
    lambda a: a[:1],
    lambda a: a[..., :0],
    lambda a: np.concatenate([a, a]),
    lambda a: a.ravel(),
    lambda a: a[None],
    lambda a: a.astype(np.float64),
    lambda a: a.astype(np.int32),
    lambda a: a.view(np.uint8),
)
ZEROS = {
    size: zlib.compress(bytes(size), 9) for size in (2**20, 2**24, 2**25, 9 * 4096**2)
}  # the last: just right for nine frames
ROWS = zlib.compress(bytes((1 + 32 * 3) * 24))


class Mark:
    """Unpickling one leaves a file behind."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (open, (self.path, "w"))


def seeds() -> list[bytes]:
    first = clip_from_bytes(tiny_clip())
    rng = np.random.default_rng(1)
    frames, count = first.points.shape[:2]
    normals = rng.normal(size=(frames, count, 3))
    full = Clip(
        **{
            **first.__dict__,
            "views": [*first.views, first.views[0]],
            "joints": rng.normal(size=(frames, 5, 3)).astype(np.float32),
            "object_poses": np.tile(np.eye(4, dtype=np.float32), (frames, 1, 1, 1)),
            "contacts": rng.random((frames, count)) < 0.5,
            "normals": (normals / np.linalg.norm(normals, axis=2, keepdims=True)).astype(np.float32),
            "track_points": np.arange(0, count, 4, dtype=np.int32),
            "provenance": {"tool": "fuzzer", "nested": {"list": [1, 2.5, "x"]}},
        }
    )
    return [tiny_clip(), tiny_clip(1, 2), clip_bytes(full)]


def split(data: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    # The header is short beside the data, and the more rewarding target.
    end = len(data) if rng.random() < 0.5 else min(len(data), 8 + int.from_bytes(data[:8], "little"))
    for _ in range(rng.choice((1, 1, 2, 5, 50))):
        changed[rng.randrange(end)] = rng.choice((0, 255, rng.randrange(256), changed[rng.randrange(end)]))
    return bytes(changed)


def cut(rng: random.Random, data: bytes) -> bytes:
    a, b = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    return rng.choice((data[:a], data[b:], data[:a] + data[b:], data + data[a:b], data[:b] + data[a:], data[a:b] * 3))


def spoil(rng: random.Random, node: object) -> None:
    """Change, drop, add or nest one thing somewhere in JSON."""
    while isinstance(node, dict | list) and node:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys)
        child = node[key]
        if isinstance(child, dict | list) and child and rng.random() < 0.75:
            node = child
            continue
        action = rng.random()
        if action < 0.6:
            node[key] = copy.deepcopy(rng.choice(NASTY))  # what is put in may be spoiled next
        elif action < 0.75:
            del node[key]
        elif action < 0.85:
            node[key] = [child] * rng.choice((0, 2, 1000))
        elif action < 0.95 and isinstance(node, dict):
            node[rng.choice(("points", "tracks", "views.0.masks", "x", "__metadata__"))] = child
        else:
            deep: object = 1
            for _ in range(rng.choice((50, 900))):
                deep = [deep]
            node[key] = deep
        return


def header(rng: random.Random, data: bytes) -> bytes:
    top, rest = split(data)
    for _ in range(rng.choice((1, 1, 3))):
        spoil(rng, top)
    return join(top, rest)


def inner(rng: random.Random, data: bytes) -> bytes:
    top, rest = split(data)
    inside = json.loads(top["__metadata__"]["hvg3d.clip"])
    for _ in range(rng.choice((1, 1, 3))):
        spoil(rng, inside)
    top["__metadata__"]["hvg3d.clip"] = json.dumps(inside)
    return join(top, rest)


def rebuild(data: bytes, **tensors: np.ndarray) -> bytes:
    """The same clip with other tensors, all lengths right."""
    old, metadata = safetensors.decode(np.frombuffer(data, np.uint8))
    return b"".join(safetensors.encode(old | tensors, metadata))


def values(rng: random.Random, data: bytes) -> bytes:
    """Right lengths and types, wrong numbers or shapes."""
    tensors, _ = safetensors.decode(np.frombuffer(data, np.uint8))
    name = rng.choice(list(tensors))
    array = tensors[name].copy()
    if rng.random() < 0.6 and array.size:
        flat = array.reshape(-1).view(np.uint8)
        for _ in range(rng.choice((1, 10))):
            flat[rng.randrange(flat.size)] = rng.randrange(256)
        if array.dtype.kind == "f" and rng.random() < 0.5:
            array.reshape(-1)[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, -np.inf, 3e38, 1e-40, 0, -1))
    else:
        change = rng.choice(SHAPES)
        with np.errstate(all="ignore"):
            array = np.ascontiguousarray(change(array))
    return rebuild(data, **{name: array})


def bomb(rng: random.Random, data: bytes) -> bytes:
    """Masks that unpack to far more than the file, told truly or not."""
    if rng.random() < 0.3:
        width, height, size = 4096, 4096, 9 * 4096**2  # told truly
    else:
        width, height = rng.choice(((512, 512), (16384, 16384), (32, 24), (512, 1)))
        size = rng.choice((2**20, 2**24, 9 * 4096**2))
    spoiled = rebuild(data, **{"views.0.masks": np.frombuffer(ZEROS[size], np.uint8)})
    top, rest = split(spoiled)
    inside = json.loads(top["__metadata__"]["hvg3d.clip"])
    inside |= {"width": width, "height": height}
    top["__metadata__"]["hvg3d.clip"] = json.dumps(inside)
    return join(top, rest)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def picture(rng: random.Random, data: bytes) -> bytes:
    """A reference whose checksums are right and whose content is not."""
    depth, colour, interlace = rng.choice((1, 2, 4, 8, 16, 3)), rng.randrange(8), rng.choice((0, 1, 9))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 24, depth, colour, 0, 0, interlace))
    body = rng.choice((ROWS, ROWS[:10], b"", ZEROS[2**25], rng.randbytes(100)))
    kind, extra = rng.choice(
        (
            (b"zTXt", b"a\0\0" + ZEROS[2**25]),
            (b"iCCP", b"a\0\0" + ZEROS[2**25]),
            (b"iTXt", b"a\0\1\0\0\0" + ZEROS[2**25]),
            (b"PLTE", rng.randbytes(rng.randrange(800))),
            (b"tRNS", rng.randbytes(5)),
            (b"IHDR", b"x"),
            (b"acTL", struct.pack(">II", 2**31 - 1, 0)),
            (b"eXIf", rng.randbytes(40)),
            (rng.randbytes(4), rng.randbytes(20)),
        )
    )
    end = chunk(b"IDAT", body) + chunk(b"IEND", b"")
    png = b"\x89PNG\r\n\x1a\n" + head + chunk(kind, extra) * rng.randrange(3) + end
    return rebuild(data, **{"views.0.reference": np.frombuffer(png, np.uint8)})


def other(rng: random.Random, data: bytes, mark: Path) -> bytes:
    """No clip at all."""
    pickled = pickle.dumps(Mark(str(mark)))
    return rng.choice(
        (
            rng.randbytes(rng.randrange(200)),
            pickled,
            struct.pack("<Q", len(pickled)) + pickled,
            b"PK\x03\x04" + rng.randbytes(100),
            b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n" + pickled,
            struct.pack("<Q", 2**63) + data,
            join({}, b""),
            join([], data),
        )
    )


def main(seed: int, count: int, folder: Path) -> None:
    rng = random.Random(seed)
    originals = seeds()
    backend = CoreBackend()
    path = folder / f"{'0' * 64}.safetensors"
    mark = folder / "unpickled"
    Image.init()
    warnings.simplefilter("ignore")
    path.write_bytes(originals[2])
    backend.load_clip(path)  # everything that is imported late is here now
    usage = Path("/proc/self/statm").read_text().split()
    limit = int(usage[0]) * resource.getpagesize() + MARGIN
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    outcomes: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {}
    wrong: list[str] = []
    slowest = 0.0
    changes = (flip, cut, header, inner, values, bomb, picture, other)
    for number in range(count):
        change = rng.choices(changes, (20, 8, 25, 20, 20, 2, 8, 3))[0]
        source = originals[0] if change is bomb else rng.choice(originals)
        try:
            data = change(rng, source, mark) if change is other else change(rng, source)
        except RecursionError:  # spoiled so deeply that Python cannot even write it
            data = join({"__metadata__": 0}, source).replace(b"0}", b"[" * 50_000 + b"}")
        path.write_bytes(data)
        started = time.perf_counter()
        try:
            check_limits(path, LIMITS)
            backend.load_clip(path)
            outcome = "taken"
        except ClipTooLarge:
            outcome = "too large"
        except ClipError as error:
            outcome = "refused"
            if str(folder) in str(error):
                outcome = "wrong"
                wrong.append(f"{number} {change.__name__}: the message names our folder: {error}")
        except BaseException:
            outcome = "wrong"
            wrong.append(f"{number} {change.__name__}: {traceback.format_exc()[-1500:]}")
            (folder / f"wrong-{seed}-{number}").write_bytes(data)
        slowest = max(slowest, time.perf_counter() - started)
        outcomes[outcome] += 1
        kinds.setdefault(change.__name__, Counter())[outcome] += 1
    print(
        json.dumps(
            {
                "outcomes": outcomes,
                "kinds": kinds,
                "wrong": wrong[:5],
                "unpickled": mark.exists(),
                "slowest_seconds": round(slowest, 3),
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
