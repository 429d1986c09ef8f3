# SPDX-License-Identifier: Apache-2.0
"""Which metrics there are: what they are called, which way is better, what they need, and how they are printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .errors import EvaluationError
from .regions import CROP, FRAME, REGION

WHOLE = (FRAME, REGION, CROP)


@dataclass(frozen=True)
class Metric:
    """``key`` names it in commands and files. ``scale`` is for printing: files hold the bare value."""

    key: str
    title: str
    better: str  # "up" or "down"
    scopes: tuple[str, ...]
    digits: int = 3
    unit: str = ""
    scale: float = 1.0
    network: str = ""  # which weights it needs, see networks.py
    pooled: bool = False  # one value for all clips together, not one for each
    of_truth: bool = False  # means something for the true video too: its ceiling or floor
    default: bool = True

    @property
    def heading(self) -> str:
        return f"{self.title} {'↑' if self.better == 'up' else '↓'}" + (f" {self.unit}" if self.unit else "")


METRICS = {
    metric.key: metric
    for metric in (
        Metric("l1", "L1", "down", WHOLE, 2, "/255", 255.0),
        Metric("psnr", "PSNR", "up", WHOLE, 2, "dB"),
        Metric("psnr_frames", "PSNR by frame", "up", WHOLE, 2, "dB", default=False),
        Metric("ssim", "SSIM", "up", WHOLE),
        Metric("st_ssim", "ST-SSIM", "up", WHOLE),
        Metric("gmsd_t", "GMSD-T", "down", WHOLE),
        Metric("sts_gmsd", "STS-GMSD", "down", WHOLE),
        Metric("ssim_3d", "3-D SSIM", "up", WHOLE, default=False),
        Metric("flicker", "Flicker", "down", (FRAME, REGION), 2, "/255", 255.0, of_truth=True),
        Metric("track_error", "Track error", "down", (REGION,), 2, "px", of_truth=True),
        Metric("track_within", "Tracks δ_avg", "up", (REGION,), of_truth=True),
        Metric("hand_iou", "Hand IoU", "up", (REGION,), of_truth=True),
        Metric("object_iou", "Object IoU", "up", (REGION,), of_truth=True),
        Metric("lpips", "LPIPS", "down", WHOLE, network="lpips"),
        Metric("clip", "CLIP similarity", "up", WHOLE, network="clip"),
        Metric("fid", "FID", "down", WHOLE, 2, network="inception", pooled=True),
        Metric("c_fid", "C-FID", "down", WHOLE, 2, network="clip_fid", pooled=True),
        Metric("fvd", "FVD", "down", WHOLE, 2, network="i3d", pooled=True),
    )
}


def choose_metrics(names: Iterable[str] | None) -> list[Metric]:
    """The metrics of these keys, in the order of :data:`METRICS`; None is the usual ones, ``all`` every one."""
    if names is None:
        return [metric for metric in METRICS.values() if metric.default]
    wanted = list(names)
    for name in wanted:
        if name != "all" and name not in METRICS:
            raise EvaluationError(f"metric {name!r} is not known: use {', '.join(METRICS)}, or all")
    return [metric for metric in METRICS.values() if "all" in wanted or metric.key in wanted]
