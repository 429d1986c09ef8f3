# SPDX-License-Identifier: Apache-2.0
"""The pipeline's 3D conditions, checked: numpy arrays or tensors of one sample or of a batch become batched tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def to_batch(name: str, value: Any, shape: tuple[int | None, ...], batch: int, like: str) -> Tensor:
    """``value`` of ``shape`` (None: any size) or with a batch axis before it -> (batch, *shape).

    Raises ValueError naming the condition, its shape and the one it should have (``like``, in letters).
    """
    tensor = torch.as_tensor(value)
    if tensor.ndim == len(shape):
        tensor = tensor.unsqueeze(0)
    fits = tensor.ndim == len(shape) + 1 and all(
        n is None or n == m for n, m in zip(shape, tensor.shape[1:], strict=True)
    )
    if not fits or tensor.shape[0] not in (1, batch):
        wanted = ", ".join(letter if n is None else f"{letter} = {n}" for letter, n in zip(like, shape, strict=True))
        raise ValueError(
            f"{name}: shape {tuple(torch.as_tensor(value).shape)}, must be ({wanted}), or {batch} of these"
        )
    return tensor.expand(batch, *tensor.shape[1:])


def point_tensors(
    points: Any,
    point_entity: Any = None,
    point_valid: Any = None,
    intrinsics: Any = None,
    world_to_camera: Any = None,
    *,
    num_frames: int,
    batch: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """The point cloud as the transformer takes it; float32 whatever the weights are, for they are coordinates.

    points (T, N, 3), point_entity (N,), point_valid (T, N), intrinsics (T, 3, 3) for image coordinates in [0, 1]²,
    world_to_camera (T, 4, 4); each with an optional batch axis first. What is None is left out.
    """
    points = to_batch("points", points, (num_frames, None, 3), batch, "TNC").to(device, torch.float32)
    count = points.shape[2]
    result = {"points": points}
    if point_entity is not None:
        entity = to_batch("point_entity", point_entity, (count,), batch, "N")
        result["point_entity"] = entity.to(device, torch.int64)
    if point_valid is not None:
        valid = to_batch("point_valid", point_valid, (num_frames, count), batch, "TN")
        result["point_valid"] = valid.to(device, torch.bool)
    if intrinsics is not None:
        intrinsics = to_batch("intrinsics", intrinsics, (num_frames, 3, 3), batch, "TRC").to(device, torch.float32)
        centre = intrinsics[..., :2, 2]
        if centre.abs().max() > 8:
            raise ValueError(
                f"intrinsics: principal point {centre[0, 0].tolist()} is in pixels; divide the first row by the width "
                "and the second by the height"
            )
        result["intrinsics"] = intrinsics
    if world_to_camera is not None:
        cameras = to_batch("world_to_camera", world_to_camera, (num_frames, 4, 4), batch, "TRC")
        result["world_to_camera"] = cameras.to(device, torch.float32)
    usable = result.get("point_valid", torch.ones_like(points[..., 0], dtype=torch.bool))
    broken = int((~points.isfinite().all(dim=-1) & usable).sum())
    if broken:
        raise ValueError(f"points: {broken} are not finite; mark them in point_valid or leave them out")
    return result


def tracking_tensor(
    video: Any, *, num_frames: int, height: int, width: int, batch: int, device: torch.device
) -> Tensor:
    """(T, H, W, 3) uint8, or a batch of these -> (1 or batch, T, H, W, 3) uint8. One for all is encoded once."""
    tensor = torch.as_tensor(video)
    if tensor.dtype != torch.uint8:
        raise ValueError(f"tracking_video: {tensor.dtype}, must be uint8 (0 to 255)")
    batched = to_batch("tracking_video", tensor, (num_frames, height, width, 3), batch, "THWC").to(device)
    return batched[:1] if tensor.ndim == 4 or tensor.shape[0] == 1 else batched
