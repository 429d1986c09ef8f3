# SPDX-License-Identifier: Apache-2.0
"""What a run reports: lines of JSON, and the same for TensorBoard where it is installed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np


def rows_up_to(path: Path, step: int) -> list[dict[str, Any]]:
    """The rows of a log that were written at ``step`` or before; a line that a kill cut short is no row."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row.get("step", 0) <= step:
            rows.append(row)
    return rows


class Journal:
    """``log.jsonl``, ``validation.jsonl`` and TensorBoard's events of one stage.

    A resumed run first forgets the rows that came after its checkpoint, since it makes these steps again.
    """

    FILES = ("log.jsonl", "validation.jsonl")

    def __init__(self, folder: Path, step: int, tensorboard: bool) -> None:
        self.folder = folder
        for name in self.FILES:
            path = folder / name
            if not path.exists():
                continue
            partial = path.with_suffix(".partial")
            rows = rows_up_to(path, step)
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            os.replace(partial, path)
        self.writer: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                print("no TensorBoard log: pip install tensorboard (or hvg3d[training]) for one", flush=True)
            else:
                self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def row(self, name: str, row: dict[str, Any]) -> None:
        """Append to ``name`` (one of FILES); numbers go to TensorBoard under the name's stem."""
        with open(self.folder / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.writer is not None:
            stem = "train" if name == self.FILES[0] else "validation"
            for key, value in row.items():
                if key != "step" and isinstance(value, int | float):
                    self.writer.add_scalar(f"{stem}/{key}", value, row["step"])
            self.writer.flush()

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """H x W x 3 uint8."""
        if self.writer is not None:
            self.writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
