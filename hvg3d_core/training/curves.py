# SPDX-License-Identifier: Apache-2.0
"""The losses of several runs over their steps, as one picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .config import TrainingError

WINDOW = 5  # logged values that are averaged; a batch of a few samples at random noise says little by itself


def read_log(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(steps, numbers by name) of a ``log.jsonl``. A step that a killed run did twice counts as done last.

    Raises TrainingError where there is none.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: no log there; train that variant first")
    rows = {row["step"]: row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    steps = sorted(rows)
    names = rows[steps[-1]].keys() - {"step"}
    return np.array(steps), {name: np.array([rows[s].get(name, np.nan) for s in steps], float) for name in names}


def smoothed(values: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """Running mean over the last ``window`` values; over as many as there are at the beginning."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (total[end] - total[start]) / (end - start)


def draw_curves(logs: Mapping[str, Path], target: Path, name: str = "plain") -> None:
    """Draw ``name`` of each log, by its label, to an image file. ``plain`` is the loss without mask, which is the same
    thing in every variant."""
    from matplotlib.figure import Figure  # extra "eval"; no window system is touched this way

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    for label, path in logs.items():
        steps, numbers = read_log(path)
        axes.plot(steps, smoothed(numbers[name]), label=label, linewidth=1.4)
    axes.set_xlabel("step")
    axes.set_ylabel(f"loss ({name}), mean of the last {WINDOW} logged values")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)
