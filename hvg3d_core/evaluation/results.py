# SPDX-License-Identifier: Apache-2.0
"""The numbers of an evaluation, as they are kept in ``results.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .catalogue import METRICS, Metric
from .methods import TRUTH
from .statistics import Interval, mean_where_known, paired_difference


@dataclass
class Results:
    """``values[method]["metric.scope"]`` has one number for each of ``clips``, NaN where it is not defined.

    ``pooled[subset][method]["metric.scope"]`` is of all clips of a subset together. ``subsets`` holds indices.
    """

    clips: list[str]
    said: list[dict[str, Any]]  # the manifest lines
    methods: list[str]
    metrics: list[Metric]
    subsets: dict[str, list[int]]
    baseline: str
    values: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    pooled: dict[str, dict[str, dict[str, Interval]]] = field(default_factory=dict)
    not_computed: dict[str, str] = field(default_factory=dict)  # metric, and why
    settings: dict[str, Any] = field(default_factory=dict)

    def column(self, method: str, key: str, subset: str = "all") -> np.ndarray:
        """The values of a subset's clips; NaN throughout where the method has none of that key."""
        index = self.subsets[subset]
        found = self.values.get(method, {}).get(key)
        return np.full(len(index), np.nan) if found is None else found[index]

    def mean(self, method: str, key: str, subset: str = "all") -> Interval | None:
        """Of a method over a subset's clips; None where nothing is known."""
        if METRICS[key.split(".")[0]].pooled:
            return self.pooled.get(subset, {}).get(method, {}).get(key)
        return mean_where_known(self.column(method, key, subset))

    def gain(self, method: str, key: str, subset: str = "all", over: str | None = None) -> Interval | None:
        """Mean difference to the baseline, clip by clip; None for what is not a number of one clip."""
        if METRICS[key.split(".")[0]].pooled:
            return None
        baseline = self.baseline if over is None else over
        return paired_difference(self.column(method, key, subset), self.column(baseline, key, subset))

    def computed(self) -> list[str]:
        """Every ``metric.scope`` that was computed for some method, in the order of the tables."""
        pooled = {key for rows in self.pooled.values() for row in rows.values() for key in row}
        known = {key for row in self.values.values() for key in row} | pooled
        return [f"{m.key}.{s}" for m in self.metrics for s in m.scopes if f"{m.key}.{s}" in known]

    def as_json(self) -> dict[str, Any]:
        def row(interval: Interval | None) -> dict[str, Any] | None:
            if interval is None:
                return None
            return {k: v if np.isfinite(v) else None for k, v in vars(interval).items()}

        summary = {
            subset: {
                "clips": len(index),
                "methods": {
                    method: {
                        key: {"value": row(self.mean(method, key, subset))}
                        | (
                            {"over_baseline": row(self.gain(method, key, subset))}
                            if method not in (self.baseline, TRUTH)
                            else {}
                        )
                        for key in self.computed()
                        if self.mean(method, key, subset) is not None
                    }
                    for method in self.methods
                },
            }
            for subset, index in self.subsets.items()
        }
        return {
            "settings": self.settings,
            "baseline": self.baseline,
            "not_computed": self.not_computed,
            "summary": summary,
            "clips": [
                {
                    "name": name,
                    "subsets": [s for s, index in self.subsets.items() if i in index],
                    "manifest": said,
                    "values": {
                        method: {
                            key: None if np.isnan(values[i]) else float(values[i])
                            for key, values in self.values.get(method, {}).items()
                        }
                        for method in self.methods
                    },
                }
                for i, (name, said) in enumerate(zip(self.clips, self.said, strict=True))
            ],
        }

    def write_json(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(self.as_json(), indent=1), encoding="utf-8")
        partial.replace(path)
