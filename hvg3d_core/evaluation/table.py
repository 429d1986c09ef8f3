# SPDX-License-Identifier: Apache-2.0
"""The tables of an evaluation as Markdown: for each subset, one for each scope, and the differences clip by clip."""

from __future__ import annotations

import json

from .catalogue import METRICS
from .methods import TRUTH
from .regions import CROP, FRAME, REGION
from .results import Results
from .statistics import Interval

SCOPE_TITLES = {
    FRAME: "Full frame",
    REGION: "Hand-object region",
    CROP: "Box around the hand-object region",
}


def cell(interval: Interval | None, key: str, clips: int, signed: bool = False) -> str:
    """A number with its interval as it is printed; its own N where that is not the subset's."""
    if interval is None:
        return "–"
    metric = METRICS[key.split(".")[0]]
    s = metric.scale
    scaled = Interval(interval.mean * s, interval.low * s, interval.high * s, interval.count)
    text = scaled.text(metric.digits, signed)
    return text if interval.count == clips else f"{text} (N={interval.count})"


def subset_tables(results: Results, subset: str) -> list[str]:
    """The tables of one subset, as lines."""
    clips, lines = len(results.subsets[subset]), []
    for scope, title in SCOPE_TITLES.items():
        keys = [key for key in results.computed() if key.endswith(f".{scope}")]
        if not keys:
            continue
        lines += [f"### {title}, N = {clips} clips", ""]
        lines += ["| | " + " | ".join(METRICS[key.split(".")[0]].heading for key in keys) + " |"]
        lines += ["|---" * (len(keys) + 1) + "|"]
        for method in results.methods:
            means = [results.mean(method, key, subset) for key in keys]
            if any(mean is not None for mean in means):
                cells = [cell(mean, key, clips) for mean, key in zip(means, keys, strict=True)]
                lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines.append("")
        lines += _differences(results, subset, title, [key for key in keys if not METRICS[key.split(".")[0]].pooled])
    return lines


def _differences(results: Results, subset: str, title: str, keys: list[str]) -> list[str]:
    clips = len(results.subsets[subset])
    others = [m for m in results.methods if m not in (results.baseline, TRUTH)]
    rows = []
    for method in others:
        gains = [results.gain(method, key, subset) for key in keys]
        if any(gain is not None for gain in gains):
            marks = [
                cell(gain, key, clips, signed=True) + (" *" if gain is not None and gain.excludes_zero else "")
                for gain, key in zip(gains, keys, strict=True)
            ]
            rows.append(f"| {method} | " + " | ".join(marks) + " |")
    if not rows:
        return []
    return [
        f"{title}, difference to *{results.baseline}* clip by clip (* its interval excludes zero):",
        "",
        "| | " + " | ".join(METRICS[key.split(".")[0]].heading for key in keys) + " |",
        "|---" * (len(keys) + 1) + "|",
        *rows,
        "",
    ]


def markdown(results: Results) -> str:
    """Everything, as one Markdown text."""
    lines = [
        f"Mean over clips and 95 % bootstrap interval, N = {len(results.clips)} clips. "
        "The arrow says which way is better.",
        "",
        f"Settings: {json.dumps(results.settings)}",
        "",
    ]
    for subset, index in results.subsets.items():
        lines += [f"## Subset {subset}: {len(index)} clips", "", *subset_tables(results, subset)]
    if results.not_computed:
        lines += ["## Not computed", ""]
        lines += [f"- {METRICS[key].title}: {reason}" for key, reason in results.not_computed.items()]
    return "\n".join(lines).rstrip() + "\n"
