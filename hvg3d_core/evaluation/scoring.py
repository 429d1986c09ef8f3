# SPDX-License-Identifier: Apache-2.0
"""All numbers of one video of one clip, kept on disk so that a second run computes only what is new."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from . import frame_metrics, video_metrics
from .catalogue import Metric
from .masks import mask_ious
from .regions import FRAME, REGION
from .tracks import track_scores
from .truths import Truth, digest

VERSION = 2  # raise it where a definition changes: numbers that were kept are then computed anew
GIVEN = 1  # frame 0 is given to the network: only the frames that it had to make count

PIXELS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray | None], float]] = {
    "l1": frame_metrics.l1,
    "psnr": frame_metrics.masked_psnr,
    "psnr_frames": frame_metrics.framewise_psnr,
}
IMAGES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"ssim": frame_metrics.ssim}
# Of change over time: frame 0 is given alike to all, and the change from it is the network's.
TIMES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "st_ssim": video_metrics.st_ssim,
    "gmsd_t": video_metrics.gmsd_t,
    "sts_gmsd": video_metrics.sts_gmsd,
    "ssim_3d": video_metrics.ssim_3d,
}


def keys_of(metrics: Iterable[Metric]) -> list[str]:
    """``metric.scope`` of each number that belongs to one clip."""
    return [f"{metric.key}.{scope}" for metric in metrics if not metric.pooled for scope in metric.scopes]


class ClipScorer:
    """Scores videos of one clip; what depends on the truth alone is computed once."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self._views: dict[str, np.ndarray] = {}

    def seen(self, scope: str) -> np.ndarray:
        if scope not in self._views:
            self._views[scope] = self.truth.region.view(self.truth.frames, scope)
        return self._views[scope]

    def score(self, video: np.ndarray, wanted: Iterable[str]) -> dict[str, float]:
        """Values by ``metric.scope``; NaN where the clip has no region, or too few frames or pixels for a metric."""
        values: dict[str, float] = {}
        names = list(wanted)
        truth, region = self.truth, self.truth.region
        mask = region.mask[GIVEN:]
        views: dict[str, np.ndarray] = {}
        for name in names:
            metric, scope = name.split(".")
            if name in values or metric not in PIXELS | IMAGES | TIMES:
                continue
            if scope != FRAME and not mask.any():
                values[name] = float("nan")
                continue
            if metric in PIXELS and scope in (FRAME, REGION):
                within = mask if scope == REGION else None
                number = PIXELS[metric](video[GIVEN:], truth.frames[GIVEN:], within)
            else:
                if scope not in views:
                    views[scope] = region.view(video, scope)
                made, true = views[scope], self.seen(scope)
                if metric in PIXELS:
                    number = PIXELS[metric](made[GIVEN:], true[GIVEN:], None)
                elif metric in IMAGES:
                    number = IMAGES[metric](made[GIVEN:], true[GIVEN:])
                else:
                    number = TIMES[metric](made, true)
            values[name] = min(number, frame_metrics.PSNR_CAP) if metric.startswith("psnr") else number
        chosen = {name.split(".")[0] for name in names}
        flow = video_metrics.optical_flow(video) if chosen & {"flicker", "track_error", "track_within"} else None
        if flow is not None and "flicker" in chosen:
            errors, known = video_metrics.warping_error(video, flow, video_metrics.optical_flow(video[::-1])[::-1])
            values["flicker.frame"] = video_metrics.flicker(errors, known)
            values["flicker.region"] = video_metrics.flicker(errors, known, region.mask)
        if flow is not None and chosen & {"track_error", "track_within"}:
            error, within_ = track_scores(flow, truth.tracks, truth.seen)
            values |= {"track_error.region": error, "track_within.region": within_}
        if chosen & {"hand_iou", "object_iou"}:
            hand, thing = mask_ious(video, truth.frames, truth.labels)
            values |= {"hand_iou.region": hand, "object_iou.region": thing}
        return {name: values[name] for name in names if name in values}


def kept_scores(path: Path, mark: str) -> dict[str, float]:
    """The numbers kept in a file, if they are of the video and truth that ``mark`` stands for."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["mark"] == mark:
            return {key: float("nan") if value is None else float(value) for key, value in kept["values"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}


def keep_scores(path: Path, mark: str, values: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    numbers = {key: None if np.isnan(value) else value for key, value in values.items()}
    partial.write_text(json.dumps({"mark": mark, "values": numbers}), encoding="utf-8")
    partial.replace(path)


def mark_of(truth: Truth, video: np.ndarray) -> str:
    return f"{VERSION}-{truth.digest}-{digest(video)}"
