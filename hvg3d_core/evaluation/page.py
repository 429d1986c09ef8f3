# SPDX-License-Identifier: Apache-2.0
"""``index.html``: tables and all videos side by side. It opens from disk, with the pictures beside it in ``media/``.

A video is one WebP with its frames in a grid, not a video file: frames can then be shown exactly together, on every
browser, and its largest side stays below what browsers and the format take.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .catalogue import METRICS
from .errors import EvaluationError
from .generation import slug
from .methods import REPEAT, TRUTH, VAE
from .results import Results
from .table import SCOPE_TITLES
from .truths import digest

PARTS = Path(__file__).parent / "page"
QUALITY, LARGEST = 88, 16383  # the side of a WebP


def write_sheet(frames: np.ndarray, method: str, clip: str, out: Path) -> dict[str, Any]:
    """Put T x H x W x 3 uint8 into ``out/media`` if they are not there; what the page has to know of them."""
    count, height, width = frames.shape[:3]
    columns = max(1, min(count, math.ceil(math.sqrt(count * height / width)), LARGEST // width))
    rows = math.ceil(count / columns)
    if rows * height > LARGEST:
        raise EvaluationError(f"{count} frames of {width}x{height} are too large for the page: use --no-page or --size")
    relative = f"media/{slug(method)}/{slug(clip)}-{digest(frames)[:10]}.webp"
    path = out / relative
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        grid = np.zeros((rows * columns, height, width, 3), np.uint8)
        grid[:count] = frames
        sheet = grid.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        Image.fromarray(sheet).save(partial, "webp", quality=QUALITY, method=2)
        partial.replace(path)
    return {"path": relative, "frames": count, "width": width, "height": height, "columns": columns}


def write_page(results: Results, videos: list[dict[str, dict[str, Any]]], fps: float, frames: int, out: Path) -> Path:
    """``videos``: for each clip and method what :func:`write_sheet` returned."""
    data = results.as_json()
    for clip, sheets in zip(data["clips"], videos, strict=True):
        clip["videos"] = sheets
    keys = results.computed()
    made = [m for m in results.methods if m not in (REPEAT, TRUTH)]
    data |= {
        "metrics": {m.key: asdict(m) | {"heading": m.heading} for m in METRICS.values()},
        "keys": keys,
        "scopes": [{"key": s, "title": t} for s, t in SCOPE_TITLES.items() if any(k.endswith(f".{s}") for k in keys)],
        "methods": [TRUTH, *(m for m in results.methods if m != TRUTH)],
        "bounds": [TRUTH, *(m for m in results.methods if m == VAE or m.endswith(f"/{VAE}"))],
        "first": made[0] if made else REPEAT,
        "frames": frames,
        "fps": fps,
    }
    # In a script element only "</" and "<!--" could end it early; no JSON value needs the bare sign.
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    page = (PARTS / "index.html").read_text(encoding="utf-8")
    for mark, part in (("STYLE", "page.css"), ("SCRIPT", "page.js")):
        page = page.replace(f"/*{mark}*/", (PARTS / part).read_text(encoding="utf-8"))
    path = out / "index.html"
    partial = path.with_suffix(".partial")
    partial.write_text(page.replace("/*DATA*/", text), encoding="utf-8")
    partial.replace(path)
    return path
